"""Write a directory tree as a tar archive: layers of commits, exports, files copied out.

The tree is walked by descriptors and never followed out of: a process that swaps a directory for a link
meanwhile changes what is packed, not where from.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

import msgspec

from sampan.formats.tar import (
    BLOCK_DEVICE,
    CHAR_DEVICE,
    DIRECTORY,
    END,
    FIFO,
    FILE,
    HARD_LINK,
    SYMLINK,
    TarEntry,
    encode_header,
    padding,
)

from .unpack import OPAQUE, WHITEOUT, is_opaque

Write = Callable[[bytes], None]

_CHUNK = 1 << 20
_KINDS = {
    stat.S_IFREG: FILE,
    stat.S_IFDIR: DIRECTORY,
    stat.S_IFLNK: SYMLINK,
    stat.S_IFCHR: CHAR_DEVICE,
    stat.S_IFBLK: BLOCK_DEVICE,
    stat.S_IFIFO: FIFO,
}


class PackPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How a tree becomes an archive."""

    overlay_whiteouts: bool = False
    """The tree is an overlay's upper directory: device 0:0 and opaque marks become ``.wh.`` files."""
    xattrs: bool = True
    """Only ``security.capability`` and ``user.*``, as Docker keeps them."""
    clamp_mtime_ns: int | None = None
    """No time later than this: for images with the same bytes from the same input."""
    one_file_system: bool = False
    skip: frozenset[bytes] = frozenset()
    """Names from the root of the tree, without leading slash."""


class Packer:
    """Packs one or more trees into one archive. Call :meth:`finish` at the end."""

    def __init__(self, write: Write, policy: PackPolicy) -> None:
        self._write = write
        self._policy = policy
        self._links: dict[tuple[int, int], bytes] = {}
        self.size_bytes = 0
        """Sum of the lengths of regular files."""

    def add_tree(self, root_fd: int, prefix: bytes = b"", *, include_root: bool = False) -> None:
        """Everything below a directory; names get ``prefix`` (with its slash) in front."""
        if include_root:
            self._emit(self._entry(os.fstat(root_fd), prefix.rstrip(b"/") + b"/", b""), root_fd, None)
        self._children(root_fd, prefix, b"", os.fstat(root_fd).st_dev)

    def add(self, parent_fd: int, base: bytes, name: bytes) -> None:
        """One file or tree, under another name."""
        device = os.stat(base, dir_fd=parent_fd, follow_symlinks=False).st_dev
        self._one(parent_fd, base, name, base, device)

    def finish(self) -> None:
        self._write(END)

    def _children(self, fd: int, prefix: bytes, inner: bytes, device: int) -> None:
        for base in sorted(os.fsencode(name) for name in os.listdir(fd)):
            path = inner + base
            if path not in self._policy.skip:
                self._one(fd, base, prefix + path, path, device)

    def _one(self, parent: int, base: bytes, name: bytes, inner: bytes, device: int) -> None:
        try:
            status = os.stat(base, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return  # gone since the directory was read
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFSOCK:
            return  # Docker leaves sockets out: tar cannot hold them
        if self._policy.overlay_whiteouts and kind == stat.S_IFCHR and status.st_rdev == 0:
            head, _, tail = name.rpartition(b"/")
            self._marker((head + b"/" if head else b"") + WHITEOUT + tail, status)
            return
        if kind == stat.S_IFDIR:
            self._directory(parent, base, name, inner, device)
            return
        entry = self._entry(status, name, b"")
        if kind == stat.S_IFLNK:
            entry.linkname = os.fsencode(os.readlink(base, dir_fd=parent))
        elif status.st_nlink > 1:
            first = self._links.setdefault((status.st_dev, status.st_ino), name)
            if first != name:
                entry.kind, entry.linkname, entry.size = HARD_LINK, first, 0
        self._emit(entry, parent, base)

    def _directory(self, parent: int, base: bytes, name: bytes, inner: bytes, device: int) -> None:
        try:
            fd = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        except (FileNotFoundError, NotADirectoryError):
            return  # replaced since it was looked at
        try:
            status = os.fstat(fd)
            self._emit(self._entry(status, name + b"/", b""), fd, None)
            if self._policy.overlay_whiteouts and is_opaque(fd):
                self._marker(name + b"/" + OPAQUE, status)
            if status.st_dev == device or not self._policy.one_file_system:
                self._children(fd, name[: len(name) - len(inner)], inner + b"/", device)
        finally:
            os.close(fd)

    def _entry(self, status: os.stat_result, name: bytes, linkname: bytes) -> TarEntry:
        kind = _KINDS[stat.S_IFMT(status.st_mode)]
        device = kind in (CHAR_DEVICE, BLOCK_DEVICE)
        mtime = status.st_mtime_ns // 1_000_000_000 * 1_000_000_000
        clamp = self._policy.clamp_mtime_ns
        return TarEntry(
            name=name,
            kind=kind,
            mode=stat.S_IMODE(status.st_mode),
            uid=status.st_uid,
            gid=status.st_gid,
            size=status.st_size if kind == FILE else 0,
            mtime_ns=mtime if clamp is None else min(mtime, clamp),
            linkname=linkname,
            major=os.major(status.st_rdev) if device else 0,
            minor=os.minor(status.st_rdev) if device else 0,
        )

    def _emit(self, entry: TarEntry, fd: int, base: bytes | None) -> None:
        """Write header and data; ``fd`` is the object itself, or its parent when ``base`` is given."""
        if entry.kind == FILE and base is not None:
            self._file(entry, fd, base)
            return
        if self._policy.xattrs and entry.kind != HARD_LINK:
            target = f"/proc/self/fd/{fd}" + ("" if base is None else f"/{os.fsdecode(base)}")
            entry.xattrs = _xattrs(target, follow=base is None)
        self._write(encode_header(entry))

    def _file(self, entry: TarEntry, parent: int, base: bytes) -> None:
        fd = _open_regular(parent, base)
        if fd < 0:
            return  # gone or replaced since it was looked at
        try:
            entry.size = os.fstat(fd).st_size
            if self._policy.xattrs:
                entry.xattrs = _xattrs(fd, follow=True)
            self._write(encode_header(entry))
            self._data(fd, entry.size)
            self.size_bytes += entry.size
        finally:
            os.close(fd)

    def _data(self, fd: int, size: int) -> None:
        left = size
        while left:
            chunk = os.read(fd, min(left, _CHUNK))
            if not chunk:
                # the file shrank: the header has promised its length already
                chunk = bytes(min(left, _CHUNK))
            self._write(chunk)
            left -= len(chunk)
        if size % 512:
            self._write(padding(size))

    def _marker(self, name: bytes, status: os.stat_result) -> None:
        mtime = status.st_mtime_ns // 1_000_000_000 * 1_000_000_000
        self._write(encode_header(TarEntry(name=name, mode=0o600, mtime_ns=mtime)))


def pack_tree(root_fd: int, write: Write, policy: PackPolicy) -> None:
    """One archive of everything below a directory."""
    packer = Packer(write, policy)
    packer.add_tree(root_fd)
    packer.finish()


def _open_regular(parent: int, base: bytes) -> int:
    """A descriptor for reading; -1 when there is no regular file.

    In two steps, because merely opening a device that somebody put there meanwhile can have effects.
    """
    try:
        place = os.open(base, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    except FileNotFoundError:
        return -1
    try:
        if not stat.S_ISREG(os.fstat(place).st_mode):
            return -1
        return os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(place)


def _xattrs(target: int | str, *, follow: bool) -> dict[bytes, bytes] | None:
    try:
        names = os.listxattr(target, follow_symlinks=follow)
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.ENOENT):
            return None
        raise
    kept: dict[bytes, bytes] = {}
    for name in names:
        if name != "security.capability" and (
            not name.startswith("user.") or name.startswith("user.overlay.")
        ):
            continue
        try:
            kept[os.fsencode(name)] = os.getxattr(target, name, follow_symlinks=follow)
        except OSError as error:
            if error.errno != errno.ENODATA:
                raise
    return kept or None
