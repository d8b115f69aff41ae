"""A tar stream from a container onto this machine. The container is not trusted: every step down goes
through a directory descriptor and never through a symbolic link, so nothing lands outside the target."""

from __future__ import annotations

import os
import tarfile

from sampan.cli.failure import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_CHUNK = 1 << 20
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Unpacker:
    """Unpacks into the directory ``folder``; the archive's root entry becomes ``name`` there, or, with "",
    its contents go into the directory itself."""

    def __init__(self, folder: str, name: str, *, keep_owner: bool) -> None:
        self._folder = folder
        self._name = name
        self._keep_owner = keep_owner
        self._root: list[str] | None = None
        self._times: list[tuple[list[str], int, int]] = []
        self.size_bytes = 0

    def unpack(self, file: Any) -> None:
        """Raises Failure for an archive that tries to leave the directory or is broken."""
        top = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with tarfile.open(fileobj=file, mode="r|") as archive:
                for member in archive:
                    self._member(archive, member, top)
            for parts, mode, mtime in reversed(self._times):
                self._finish_folder(top, parts, mode, mtime)
        except tarfile.TarError as error:
            raise Failure(f"the daemon sent a broken archive: {error}") from None
        except OSError as error:
            raise Failure(f"cannot write {self._folder}: {error.strerror or error}") from None
        finally:
            os.close(top)

    def _place(self, name: str) -> list[str]:
        """The path components under the target directory. Raises Failure for one that leaves it."""
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise Failure(f"refusing an archive entry outside the destination: {name}")
        if self._root is None:
            self._root = parts
        if parts[: len(self._root)] != self._root:
            raise Failure(f"refusing an archive entry outside the copied directory: {name}")
        rest = parts[len(self._root) :]
        return [self._name, *rest] if self._name else rest

    def _open_parent(self, top: int, parts: list[str]) -> int:
        descriptor = os.dup(top)
        for part in parts[:-1]:
            try:
                below = os.open(part, _FOLDER, dir_fd=descriptor)
            except FileNotFoundError:
                os.mkdir(part, 0o755, dir_fd=descriptor)
                below = os.open(part, _FOLDER, dir_fd=descriptor)
            finally:
                os.close(descriptor)
            descriptor = below
        return descriptor

    def _member(self, archive: tarfile.TarFile, member: tarfile.TarInfo, top: int) -> None:
        parts = self._place(member.name)
        self.size_bytes += member.size + 512
        if not parts:
            return
        parent = self._open_parent(top, parts)
        try:
            if member.isdir():
                self._make_folder(member, parent, parts)
                return
            _remove(parent, parts[-1])
            if member.isreg():
                self._make_file(archive, member, parent, parts[-1])
            elif member.issym():
                os.symlink(member.linkname, parts[-1], dir_fd=parent)
            elif member.islnk():
                self._make_link(member, parent, parts[-1], top)
            else:
                _make_special(member, parent, parts[-1])
            self._own(member, parent, parts[-1])
        finally:
            os.close(parent)

    def _make_folder(self, member: tarfile.TarInfo, parent: int, parts: list[str]) -> None:
        name = parts[-1]
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            # A directory of the user's own stays as it is; anything else is in the way.
            os.close(os.open(name, _FOLDER, dir_fd=parent))
            return
        self._own(member, parent, name)
        # Times and modes come last: files that follow would change the one and may need the other.
        self._times.append((parts, member.mode, _mtime_ns(member)))

    def _finish_folder(self, top: int, parts: list[str], mode: int, mtime_ns: int) -> None:
        parent = self._open_parent(top, parts)
        try:
            os.chmod(parts[-1], mode & 0o7777, dir_fd=parent)
            os.utime(parts[-1], ns=(mtime_ns, mtime_ns), dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(parent)

    def _make_file(self, archive: tarfile.TarFile, member: tarfile.TarInfo, parent: int, name: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(name, flags, 0o600, dir_fd=parent)
        try:
            source = archive.extractfile(member)
            while source is not None and (data := source.read(_CHUNK)):
                view = memoryview(data)
                while view:
                    view = view[os.write(descriptor, view) :]
            os.fchmod(descriptor, member.mode & 0o7777)
            mtime = _mtime_ns(member)
            os.utime(descriptor, ns=(mtime, mtime))
        finally:
            os.close(descriptor)

    def _make_link(self, member: tarfile.TarInfo, parent: int, name: str, top: int) -> None:
        target = self._place(member.linkname)
        folder = self._open_parent(top, target)
        try:
            os.link(target[-1], name, src_dir_fd=folder, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(folder)

    def _own(self, member: tarfile.TarInfo, parent: int, name: str) -> None:
        if self._keep_owner and os.geteuid() == 0 and not member.islnk():
            os.chown(name, member.uid, member.gid, dir_fd=parent, follow_symlinks=False)
            if not member.issym():
                os.chmod(name, member.mode & 0o7777, dir_fd=parent)  # chown clears set-id bits


def _mtime_ns(member: tarfile.TarInfo) -> int:
    text = member.pax_headers.get("mtime", "")
    seconds, _, fraction = text.partition(".")
    if seconds.lstrip("-").isdigit() and not seconds.startswith("-"):
        return int(seconds) * 10**9 + int(fraction[:9].ljust(9, "0") or 0)
    return int(member.mtime * 10**9)


def _remove(parent: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        return
    except IsADirectoryError:
        raise Failure(f"cannot overwrite the directory {name!r} with a file") from None


def _make_special(member: tarfile.TarInfo, parent: int, name: str) -> None:
    if member.isfifo():
        os.mkfifo(name, member.mode & 0o777, dir_fd=parent)
        return
    import stat

    kind = stat.S_IFCHR if member.ischr() else stat.S_IFBLK
    os.mknod(name, kind | (member.mode & 0o777), os.makedev(member.devmajor, member.devminor), dir_fd=parent)
