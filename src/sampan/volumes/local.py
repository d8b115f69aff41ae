"""The local driver: ``<root>/<name>/_data``, and what its options mount there while somebody uses it."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Mapping

from sampan.base.ids import new_id
from sampan.kernel import mount as kernel_mount
from sampan.kernel import mountinfo
from sampan.kernel.paths import RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, open_in_root

from .errors import InvalidVolume, SubpathEscapes, SubpathNotFound, VolumeNotMounted
from .options import mount_arguments, needs_mount, validate_options, without_password

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_TRASH_PREFIX = "volume-"
_BIND_KINDS = kernel_mount.MS_BIND | kernel_mount.MS_REC


def validate_name(name: str) -> None:
    """Raises InvalidVolume with Docker's texts."""
    if len(name) == 1:
        raise InvalidVolume("volume name is too short, names should be at least two alphanumeric characters")
    if not _NAME.fullmatch(name):
        raise InvalidVolume(
            f'"{name}" includes invalid characters for a local volume name, only '
            '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. '
            "If you intended to pass a host directory, use absolute path"
        )


class LocalDriver:
    """Directories below ``root``. ``trash`` is a directory of the same file system, emptied at start-up:
    what is removed moves there first, so that a removal is one rename however large the volume is.

    Blocking: what may take long (:meth:`empty_trash`, :meth:`size_bytes`, :meth:`mount`) belongs in a thread.
    """

    def __init__(self, root: str, trash: str) -> None:
        self.root = root
        self._trash = trash
        self._mounted: set[str] = set()

    def open(self) -> None:
        """Make the root, finish removals that were cut short, note what an earlier daemon left mounted."""
        os.makedirs(self.root, mode=0o701, exist_ok=True)
        os.makedirs(self._trash, mode=0o700, exist_ok=True)
        for entry in os.scandir(self._trash):
            if entry.name.startswith(_TRASH_PREFIX):
                shutil.rmtree(entry.path)
        below = self.root + "/"
        for target in mountinfo.targets():
            if target.startswith(below) and target.endswith("/_data"):
                self._mounted.add(target[len(below) : -len("/_data")])

    def names(self) -> list[str]:
        """Directories that are volumes, known to the store or not."""
        return [entry.name for entry in os.scandir(self.root) if os.path.isdir(f"{entry.path}/_data")]

    def path(self, name: str) -> str:
        return f"{self.root}/{name}/_data"

    def create(self, name: str, options: Mapping[str, str]) -> str:
        """The path of the volume's data. Raises InvalidVolume; OSError when the disk refuses."""
        validate_name(name)
        validate_options(options)
        directory = f"{self.root}/{name}"
        # the data directory keeps its own owner and mode, so the one above it guards it: 0701
        os.makedirs(directory, mode=0o701, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.mkdir(f"{directory}/_data", 0o755)
        return f"{directory}/_data"

    def remove_empty(self, name: str) -> None:
        """Take back a :meth:`create`; data that was there before stays."""
        with contextlib.suppress(OSError):
            os.rmdir(f"{self.root}/{name}/_data")
            os.rmdir(f"{self.root}/{name}")

    def discard(self, name: str) -> str:
        """Take the volume away; its bytes go with :meth:`empty_trash` of the path answered ("": was gone)."""
        self.unmount(name)
        target = f"{self._trash}/{_TRASH_PREFIX}{new_id()}"
        try:
            os.rename(f"{self.root}/{name}", target)
        except FileNotFoundError:
            return ""
        return target

    def empty_trash(self, path: str) -> None:
        """Links are not followed, nor are mount points of others crossed: rmtree works by descriptors."""
        if path:
            shutil.rmtree(path)

    def open_subpath(self, name: str, subpath: str, flags: int = os.O_PATH) -> int:
        """A descriptor inside the volume; a symbolic link anywhere on the way is refused, because whoever
        writes to the volume could turn it at any time. Raises SubpathNotFound, SubpathEscapes."""
        base = self.path(name)
        try:
            base_fd = os.open(base, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            raise SubpathNotFound(f"cannot access path {base}: {_reason(error)}") from error
        resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS
        try:
            return open_in_root(base_fd, subpath or ".", flags, resolve=resolve)
        except OSError as error:
            if error.errno == errno.EXDEV:  # RESOLVE_BENEATH saw it leave
                raise SubpathEscapes(
                    f"path concatenation escapes the base directory, base: {base}, subpath: {subpath}"
                ) from error
            raise SubpathNotFound(f"cannot access path {base}/{subpath}: {_reason(error)}") from error
        finally:
            os.close(base_fd)

    def mount(self, name: str, options: Mapping[str, str] | None) -> None:
        """Mount what the options say, unless it is mounted. Raises VolumeNotMounted."""
        if options is None or not needs_mount(options) or name in self._mounted:
            return
        arguments = mount_arguments(options)
        target = self.path(name)
        bind = arguments.flags & kernel_mount.MS_BIND
        flags = arguments.flags & _BIND_KINDS if bind else arguments.flags
        try:
            kernel_mount.mount(arguments.device, target, arguments.type, flags, arguments.data)
            rest = arguments.flags & ~_BIND_KINDS
            if bind and rest:  # a bind takes its flags only in a second call (mount(2))
                kernel_mount.mount("", target, "", kernel_mount.MS_REMOUNT | kernel_mount.MS_BIND | rest)
        except OSError as error:
            if target in mountinfo.targets():
                kernel_mount.unmount(target)
            text = (
                f"mount {arguments.device}:{target}, data: {arguments.data}: {_reason(error)}"
                if arguments.data
                else f"mount {arguments.device}:{target}, flags: {arguments.flags:#x}: {_reason(error)}"
            )
            raise VolumeNotMounted(
                f"failed to mount local volume: {without_password(options, text)}"
            ) from error
        self._mounted.add(name)

    def unmount(self, name: str) -> None:
        """The inverse of :meth:`mount`. Idempotent; running processes keep their own copy of the mount."""
        if name in self._mounted:
            self._mounted.discard(name)
            target = self.path(name)
            if target in mountinfo.targets():
                kernel_mount.unmount(target)

    def mounted(self) -> frozenset[str]:
        return frozenset(self._mounted)

    def size_bytes(self, name: str) -> int:
        """What the files hold, each inode once, as Docker counts; directories count nothing."""
        return tree_size_bytes(self.path(name))


def tree_size_bytes(path: str) -> int:
    """Sum of the files' sizes below ``path``, each inode once. What vanishes meanwhile counts nothing."""
    seen: set[int] = set()
    total = 0
    pending = [path]
    while pending:
        try:
            entries = os.scandir(pending.pop())
        except (FileNotFoundError, NotADirectoryError):
            continue
        with entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                    continue
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if status.st_nlink > 1:
                    if status.st_ino in seen:
                        continue
                    seen.add(status.st_ino)
                total += status.st_size
    return total


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
