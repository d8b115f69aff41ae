"""Unpack a tar archive below a directory descriptor, trusting nothing in it.

Parents are resolved by openat2(2) and kept open; the last component is created with O_EXCL and never
followed. So neither a link in the archive nor a process that swaps directories meanwhile leads outside.
Directories get owner, mode and times at the end, when nothing is created in them any more.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable

import msgspec

from sampan.base.errors import InvalidArgument, SampanError
from sampan.formats.tar import (
    BLOCK_DEVICE,
    CHAR_DEVICE,
    DIRECTORY,
    FIFO,
    FILE,
    HARD_LINK,
    SYMLINK,
    BadTar,
    TarEntry,
)
from sampan.formats.tar_reader import TarReader
from sampan.kernel.paths import RESOLVE_BENEATH, RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, open_in_root

from .blobs import write_all
from .compression import Decompressor, Read
from .errors import DiskFull, HostileArchive
from .recipe import RecipeWriter
from .space import SpaceWatch

WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"
_AUFS = b".wh..wh."
OVERLAY_OPAQUE = "trusted.overlay.opaque"
_IMPLIED_MODE = 0o755
_CACHED_PARENTS = 256
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MISPLACED = {errno.EXDEV, errno.ELOOP, errno.ENOTDIR, errno.ENAMETOOLONG}


class ArchiveLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Beyond these an archive is called a bomb. Zero: no limit."""

    total_bytes: int = 1 << 40
    entries: int = 10_000_000
    ratio: int = 500
    """Plain bytes per compressed byte, looked at once :attr:`ratio_from_bytes` are unpacked."""
    ratio_from_bytes: int = 1 << 30
    depth: int = 512


def bounded(plain: Decompressor, limits: ArchiveLimits, space: SpaceWatch | None = None) -> Read:
    """Its plain bytes, until they are too many for what they were packed in: then HostileArchive; or for the
    disk they are written to: then DiskFull."""

    def read() -> bytes:
        chunk = plain.read()
        if space is not None:
            space.count(len(chunk))
        if (
            limits.ratio
            and plain.bytes_out > limits.ratio_from_bytes
            and plain.bytes_out > limits.ratio * plain.bytes_in
        ):
            raise HostileArchive(
                f"archive unpacks to more than {limits.ratio} times its size: refused as a bomb"
            )
        return chunk

    return read


class UnpackPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How an archive is taken.

    A *strict* one (an image's layer) refuses absolute names, ``..`` and parents reached through links that
    leave the tree; otherwise (``docker cp`` into a container) these are read as a chrooted tar would.
    """

    strict: bool = True
    overlay_whiteouts: bool = True
    keep_directory_kind: bool = False
    """Refuse to replace a directory by something else or the reverse (noOverwriteDirNonDir)."""
    keep_existing_directories: bool = False
    """Leave mode and owner of the directory that the archive's ``.`` stands for as they are."""
    owner: tuple[int, int] | None = None
    """uid and gid for everything, instead of what the archive says."""
    limits: ArchiveLimits = ArchiveLimits()


class UnpackResult(msgspec.Struct, frozen=True, kw_only=True):
    size_bytes: int
    """Sum of the lengths of regular files, as Docker counts a layer's size."""
    entries: int
    skipped_xattrs: int
    """Extended attributes that the file system or our privileges refuse."""


def read_umask() -> int:
    """The process's umask without changing it, which would race with other threads (kernel 4.7)."""
    with open("/proc/self/status", "rb") as file:
        for line in file:
            if line.startswith(b"Umask:"):
                return int(line.split()[1], 8)
    return 0o777


class TreeWriter:
    """Writes entries below ``root_fd`` (kept open by the caller). Use once, within ``with``."""

    def __init__(
        self, root_fd: int, policy: UnpackPolicy, base: bytes = b"", recipe: RecipeWriter | None = None
    ) -> None:
        """``base`` is an existing directory below the root, without leading slash, that names start at;
        links are still resolved from the root. ``recipe`` is told where data went; the reader tells it the
        rest."""
        self._root = root_fd
        self._recipe = recipe
        self._root_path = os.readlink(f"/proc/self/fd/{root_fd}") if recipe is not None else ""
        self._paths: dict[int, bytes] = {}
        """Of the parents, with a slash at the end and without links; kept for the recipe."""
        self._base = base
        self._policy = policy
        self._resolve = RESOLVE_NO_MAGICLINKS | (RESOLVE_BENEATH if policy.strict else RESOLVE_IN_ROOT)
        self._umask = read_umask()
        self._parents: dict[bytes, int] = {}
        self._directories: dict[bytes, TarEntry] = {}
        self._stale: list[int] = []
        self._size = self._entries = self._written = self._skipped_xattrs = 0

    def __enter__(self) -> TreeWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._forget_parents()

    def unpack(self, reader: TarReader) -> UnpackResult:
        """Write all entries. Raises HostileArchive, BadTar, DiskFull; the caller removes the tree then."""
        for entry in reader:
            self._entries += 1
            try:
                self._write(entry, reader)
            except OSError as error:
                raise _explain(error, entry) from error
        self._finish_directories()
        return UnpackResult(size_bytes=self._size, entries=self._entries, skipped_xattrs=self._skipped_xattrs)

    def _write(self, entry: TarEntry, reader: TarReader) -> None:
        limits = self._policy.limits
        if limits.entries and self._entries > limits.entries:
            raise HostileArchive(f"archive has more than {limits.entries} entries: refused as a bomb")
        name = entry.name
        if name[:1] == b"/":
            if self._policy.strict:
                raise HostileArchive(f"refusing absolute path {_show(name)} in archive")
            name = entry.name = name.lstrip(b"/")
        if name[-1:] == b"/":
            name = name.rstrip(b"/")
        parent_name, _, base = name.rpartition(b"/")
        if base in (b"", b".", b".."):
            cleaned = self._clean(entry.name)
            if not cleaned:
                self._root_entry(entry)
                return
            parent_name, _, base = cleaned.rpartition(b"/")
        parent = self._parents.get(parent_name)
        if parent is None:
            parent = self._open_parent(parent_name)
        if base.startswith(WHITEOUT) and self._policy.overlay_whiteouts:
            self._whiteout(parent, parent_name, base)
            return
        kind = entry.kind
        if kind == FILE:
            self._file(parent, base, entry, reader)
        elif kind == DIRECTORY:
            self._directory(parent, parent_name, base, entry)
        elif kind == SYMLINK:
            self._retry(parent, base, lambda: os.symlink(entry.linkname, base, dir_fd=parent))
            self._metadata(parent, base, entry)
        elif kind == HARD_LINK:
            self._hard_link(parent, base, entry)
        elif kind in (CHAR_DEVICE, BLOCK_DEVICE, FIFO):
            self._node(parent, base, entry)
        else:
            raise BadTar(f"unhandled tar header type {kind!r} for {_show(entry.name)}")

    def _clean(self, name: bytes) -> bytes:
        """The name without ``.`` and empty parts. Raises HostileArchive."""
        parts: list[bytes] = []
        for part in name.split(b"/"):
            if part == b"..":
                if self._policy.strict or not parts:
                    raise HostileArchive(f'invalid path {_show(name)}: ".." leads out of the archive')
                parts.pop()
            elif part not in (b"", b"."):
                parts.append(part)
        depth = self._policy.limits.depth
        if depth and len(parts) > depth:
            raise HostileArchive(f"path {_show(name[:100])}... is more than {depth} levels deep")
        return b"/".join(parts)

    # parents

    def _open_parent(self, raw: bytes) -> int:
        """A descriptor of the directory ``raw`` names, made with those above it when missing; cached."""
        cleaned = self._clean(raw)
        if len(self._parents) >= _CACHED_PARENTS:
            self._forget_parents()
        fd = self._ensure_directory(cleaned) if cleaned or self._base else os.dup(self._root)
        self._parents[raw] = fd
        self._locate(fd)
        return fd

    def _locate(self, fd: int) -> None:
        """Note where a parent really is: a link in the archive may have led there."""
        if self._recipe is not None:
            path = os.fsencode(os.readlink(f"/proc/self/fd/{fd}")[len(self._root_path) + 1 :])
            self._paths[fd] = path + b"/" if path else b""

    def _ensure_directory(self, path: bytes) -> int:
        try:
            return self._open(path, os.O_PATH | os.O_DIRECTORY)
        except FileNotFoundError:
            if not path:
                raise
        above, _, base = path.rpartition(b"/")
        parent = self._ensure_directory(above)
        try:
            os.mkdir(base, _IMPLIED_MODE, dir_fd=parent)
            if self._policy.owner is not None:
                os.chown(base, *self._policy.owner, dir_fd=parent, follow_symlinks=False)
        except FileExistsError:
            raise HostileArchive(
                f"refusing to write through the dangling symbolic link {_show(path)} in archive"
            ) from None
        finally:
            os.close(parent)
        return self._open(path, os.O_PATH | os.O_DIRECTORY)

    def _open(self, path: bytes, flags: int) -> int:
        if self._base:
            path = self._base + b"/" + path
        return open_in_root(self._root, path or b".", flags, 0, self._resolve)

    def _forget_parents(self) -> None:
        for fd in (*self._parents.values(), *self._stale):
            os.close(fd)
        self._parents.clear()
        self._paths.clear()
        self._stale.clear()

    # kinds of entries

    def _file(self, parent: int, base: bytes, entry: TarEntry, reader: TarReader) -> None:
        mode = entry.mode
        try:
            fd = os.open(base, _CREATE, mode & 0o777, dir_fd=parent)
        except FileExistsError:
            self._remove(parent, base, directory_wanted=False)
            fd = os.open(base, _CREATE, mode & 0o777, dir_fd=parent)
        try:
            self._size += entry.size
            self._written += entry.stored_size
            limit = self._policy.limits.total_bytes
            if limit and self._written > limit:
                raise HostileArchive(f"archive unpacks to more than {limit} bytes: refused as a bomb")
            if entry.sparse is not None:
                self._sparse(fd, entry, reader)
            else:
                for chunk in reader.data():
                    write_all(fd, chunk)
            if self._recipe is not None and entry.stored_size:
                path = self._paths[parent] + base
                for offset, length in entry.sparse or ((0, entry.stored_size),):
                    self._recipe.refer(path, offset, length)
            owner = self._policy.owner
            uid, gid = owner if owner is not None else (entry.uid, entry.gid)
            # a fresh tree has no set-group-id directories whose group would be inherited
            if uid or gid or not self._policy.strict:
                os.fchown(fd, uid, gid)
            if entry.xattrs:
                self._set_xattrs(fd, entry.xattrs)
            # creating applies the umask and drops set-id bits; chown drops them as well
            if mode & (self._umask | 0o7000):
                os.fchmod(fd, mode)
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(fd)

    @staticmethod
    def _sparse(fd: int, entry: TarEntry, reader: TarReader) -> None:
        chunks = reader.data()
        pending = memoryview(b"")
        for offset, length in entry.sparse or ():
            os.lseek(fd, offset, os.SEEK_SET)
            while length:
                if not pending:
                    pending = next(chunks)
                piece = pending[:length]
                write_all(fd, piece)
                pending = pending[len(piece) :]
                length -= len(piece)
        os.ftruncate(fd, entry.size)

    def _directory(self, parent: int, parent_name: bytes, base: bytes, entry: TarEntry) -> None:
        try:
            os.mkdir(base, 0o700, dir_fd=parent)
        except FileExistsError:
            status = os.stat(base, dir_fd=parent, follow_symlinks=False)
            if not stat.S_ISDIR(status.st_mode):
                self._remove(parent, base, directory_wanted=True)
                os.mkdir(base, 0o700, dir_fd=parent)
        path = parent_name + b"/" + base if parent_name else base
        # a later entry for the same directory decides, so it also comes last
        self._directories.pop(path, None)
        self._directories[path] = entry

    def _hard_link(self, parent: int, base: bytes, entry: TarEntry) -> None:
        # Docker reads an absolute target from the root of the archive
        target = self._clean(entry.linkname.lstrip(b"/"))
        target_parent_name, _, target_base = target.rpartition(b"/")
        if not target_base:
            raise HostileArchive(f"invalid hardlink {_show(entry.name)} -> {_show(entry.linkname)}")
        source = self._parents.get(target_parent_name)
        if source is None:
            source = self._open(target_parent_name, os.O_PATH | os.O_DIRECTORY)
            self._parents[target_parent_name] = source
            self._locate(source)
        try:
            same = os.stat(base, dir_fd=parent, follow_symlinks=False)
            original = os.stat(target_base, dir_fd=source, follow_symlinks=False)
            if (same.st_dev, same.st_ino) == (original.st_dev, original.st_ino):
                return
        except FileNotFoundError:
            pass
        self._retry(
            parent,
            base,
            lambda: os.link(target_base, base, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False),
        )

    def _node(self, parent: int, base: bytes, entry: TarEntry) -> None:
        kind = {CHAR_DEVICE: stat.S_IFCHR, BLOCK_DEVICE: stat.S_IFBLK, FIFO: stat.S_IFIFO}[entry.kind]
        device = os.makedev(entry.major, entry.minor) if entry.kind != FIFO else 0
        self._retry(parent, base, lambda: os.mknod(base, kind | (entry.mode & 0o777), device, dir_fd=parent))
        self._metadata(parent, base, entry)
        fd = os.open(base, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            os.chmod(f"/proc/self/fd/{fd}", entry.mode)
        finally:
            os.close(fd)

    def _whiteout(self, parent: int, parent_name: bytes, base: bytes) -> None:
        if base == OPAQUE:
            os.setxattr(f"/proc/self/fd/{parent}", OVERLAY_OPAQUE, b"y")
            return
        if base.startswith(_AUFS):
            return  # bookkeeping of aufs, without meaning elsewhere
        name = base[len(WHITEOUT) :]
        if name in (b"", b".", b".."):
            raise HostileArchive(f"invalid whiteout {_show(parent_name + b'/' + base)} in archive")
        try:
            os.mknod(name, stat.S_IFCHR, 0, dir_fd=parent)
        except FileExistsError:
            # a whiteout hides what lower layers have, never what this one brings (image-spec, layer.md)
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                os.setxattr(f"/proc/self/fd/{parent}/{os.fsdecode(name)}", OVERLAY_OPAQUE, b"y")

    def _root_entry(self, entry: TarEntry) -> None:
        if entry.kind != DIRECTORY:
            raise BadTar(f"archive has {_show(entry.name)} as something else than a directory")
        if not self._policy.keep_existing_directories:
            self._directories[b""] = entry

    # what is in the way

    def _retry(self, parent: int, base: bytes, create: Callable[[], None]) -> None:
        try:
            create()
        except FileExistsError:
            self._remove(parent, base, directory_wanted=False)
            create()

    def _remove(self, parent: int, base: bytes, *, directory_wanted: bool) -> None:
        status = os.stat(base, dir_fd=parent, follow_symlinks=False)
        is_directory = stat.S_ISDIR(status.st_mode)
        if self._policy.keep_directory_kind and is_directory != directory_wanted:
            raise InvalidArgument(
                f"cannot overwrite directory {_show(base)} with non-directory {_show(base)}"
                if is_directory
                else f"cannot overwrite non-directory {_show(base)} with directory {_show(base)}"
            )
        with_data = is_directory or (stat.S_ISREG(status.st_mode) and status.st_size)
        if self._recipe is not None and with_data:
            self._recipe.take_away(parent, base, self._paths[parent] + base)
        elif is_directory:
            shutil.rmtree(base, dir_fd=parent)
        else:
            os.unlink(base, dir_fd=parent)
        if not is_directory:
            return
        # descriptors of what was below stand for directories that are gone; a caller may still hold one
        self._stale += self._parents.values()
        self._parents.clear()

    # metadata

    def _metadata(self, parent: int, base: bytes, entry: TarEntry) -> None:
        """Owner, attributes and times of what is not a regular file; the mode is not touched."""
        owner = self._policy.owner
        uid, gid = owner if owner is not None else (entry.uid, entry.gid)
        if uid or gid or not self._policy.strict:
            os.chown(base, uid, gid, dir_fd=parent, follow_symlinks=False)
        if entry.xattrs:
            self._set_xattrs(f"/proc/self/fd/{parent}/{os.fsdecode(base)}", entry.xattrs)
        os.utime(base, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent, follow_symlinks=False)

    def _set_xattrs(self, target: int | str, xattrs: dict[bytes, bytes]) -> None:
        follow = isinstance(target, int)
        for name, value in xattrs.items():
            if name.startswith((b"trusted.overlay.", b"user.overlay.")):
                # they would redirect or hide parts of other layers
                self._skipped_xattrs += 1
                continue
            try:
                os.setxattr(target, name, value, follow_symlinks=follow)
            except OSError as error:
                if error.errno not in (errno.ENOTSUP, errno.EPERM):
                    raise
                self._skipped_xattrs += 1

    def _finish_directories(self) -> None:
        owner = self._policy.owner
        for path, entry in reversed(self._directories.items()):
            cleaned = self._clean(path)
            try:
                fd = self._open(cleaned, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            except (FileNotFoundError, NotADirectoryError):
                continue  # a later entry replaced it
            except OSError as error:
                if error.errno in (errno.ELOOP, errno.EXDEV):
                    continue  # by a link
                raise
            try:
                uid, gid = owner if owner is not None else (entry.uid, entry.gid)
                os.fchown(fd, uid, gid)
                if entry.xattrs:
                    self._set_xattrs(fd, entry.xattrs)
                os.fchmod(fd, entry.mode)
                os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
            finally:
                os.close(fd)


def is_opaque(fd: int) -> bool:
    """Whether a directory hides what lower layers have of it (overlayfs.rst)."""
    try:
        return os.getxattr(fd, OVERLAY_OPAQUE) == b"y"
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP):
            return False
        raise


def _show(name: bytes) -> str:
    return '"' + name.decode("utf-8", "backslashreplace") + '"'


def _explain(error: OSError, entry: TarEntry) -> SampanError:
    name = _show(entry.name[:200])
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"unpack {name}: no space left on device: free disk space and try again")
    if error.errno in _MISPLACED:
        return HostileArchive(f"refusing {name} in archive: {os.strerror(error.errno or 0)} on its path")
    return BadTar(f"unpack {name}: {os.strerror(error.errno or 0)}")
