"""``docker cp`` on a directory descriptor: look at, pack and unpack paths as the container sees them.

Every path is resolved inside the root by openat2(2); nothing here trusts what the container holds.
"""

from __future__ import annotations

import os
import posixpath
import stat

import msgspec

from sampan.base.errors import InvalidArgument
from sampan.formats.tar_reader import TarReader
from sampan.kernel.paths import open_in_root

from .compression import Decompressor, Read
from .pack import Packer, PackPolicy, Write
from .unpack import TreeWriter, UnpackPolicy, bounded

_MAX_LINKS = 255
_GO_KINDS = {
    stat.S_IFDIR: 1 << 31,
    stat.S_IFLNK: 1 << 27,
    stat.S_IFBLK: 1 << 26,
    stat.S_IFCHR: 1 << 26 | 1 << 21,
    stat.S_IFIFO: 1 << 25,
    stat.S_IFSOCK: 1 << 24,
}
_GO_BITS = ((stat.S_ISUID, 1 << 23), (stat.S_ISGID, 1 << 22), (stat.S_ISVTX, 1 << 20))


class PathStat(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    size: int
    mode: int
    """Go's os.FileMode: what clients decode."""
    mtime_ns: int
    link_target: str = ""
    """Where a symbolic link leads in the end, as an absolute path in the container."""

    @property
    def is_directory(self) -> bool:
        return bool(self.mode & 1 << 31)


def go_mode(mode: int) -> int:
    """st_mode as Go's os.FileMode."""
    value = mode & 0o777 | _GO_KINDS.get(stat.S_IFMT(mode), 0)
    for bit, go_bit in _GO_BITS:
        if mode & bit:
            value |= go_bit
    return value


def clean(path: str) -> str:
    """Absolute and without ``.`` and ``..``."""
    return posixpath.normpath("/" + path.lstrip("/"))


def _names_directory(path: str) -> bool:
    """A trailing slash or dot says: the directory itself, not a link to it."""
    return path.endswith(("/", "/.")) or path == "."


def stat_path(root_fd: int, path: str) -> PathStat:
    """The object at ``path``; a link itself, unless the path ends in a slash. Raises OSError."""
    cleaned = clean(path)
    status = _status(root_fd, path, cleaned)
    target = resolve_link(root_fd, cleaned) if stat.S_ISLNK(status.st_mode) else ""
    name = "/" if cleaned == "/" else cleaned.rpartition("/")[2]
    if path.endswith("/.") or path == ".":
        name = "."
    return PathStat(
        name=name,
        size=status.st_size,
        mode=go_mode(status.st_mode),
        mtime_ns=status.st_mtime_ns,
        link_target=target,
    )


def _status(root_fd: int, path: str, cleaned: str) -> os.stat_result:
    if cleaned == "/":
        return os.fstat(root_fd)
    flags = os.O_PATH | (os.O_DIRECTORY if _names_directory(path) else os.O_NOFOLLOW)
    fd = open_in_root(root_fd, cleaned, flags)
    try:
        return os.fstat(fd)
    finally:
        os.close(fd)


def resolve_link(root_fd: int, path: str) -> str:
    """Follow links as far as they lead; what does not exist stays as it is written."""
    pending = [part for part in clean(path).split("/") if part]
    done = "/"
    links = 0
    while pending:
        part = pending.pop(0)
        if part == "..":
            done = posixpath.dirname(done)
            continue
        if part in ("", "."):
            continue
        target = _read_link(root_fd, done, part)
        if target is None:
            done = posixpath.join(done, part)
            continue
        links += 1
        if links > _MAX_LINKS:
            return clean(path)
        if target.startswith("/"):
            done = "/"
        pending[:0] = target.split("/")
    return done


def _read_link(root_fd: int, directory: str, name: str) -> str | None:
    try:
        parent = open_in_root(root_fd, directory, os.O_PATH | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        return os.readlink(name, dir_fd=parent)
    except OSError:
        return None
    finally:
        os.close(parent)


def pack_path(root_fd: int, path: str, write: Write) -> None:
    """A tar of the object, named by the path's last part, as ``docker cp`` expects it. Raises OSError."""
    cleaned = clean(path)
    packer = Packer(write, PackPolicy())
    status = _status(root_fd, path, cleaned)
    if stat.S_ISDIR(status.st_mode):
        fd = open_in_root(root_fd, cleaned, os.O_RDONLY | os.O_DIRECTORY)
        try:
            if path.endswith("/.") or path == ".":
                prefix = "./"
            else:
                prefix = "" if cleaned == "/" else cleaned.rpartition("/")[2] + "/"
            packer.add_tree(fd, os.fsencode(prefix), include_root=bool(prefix))
        finally:
            os.close(fd)
    else:
        directory, _, base = cleaned.rpartition("/")
        parent = open_in_root(root_fd, directory or "/", os.O_RDONLY | os.O_DIRECTORY)
        try:
            packer.add(parent, os.fsencode(base), os.fsencode(base))
        finally:
            os.close(parent)
    packer.finish()


def pack_root(root_fd: int, write: Write, skip: frozenset[bytes] = frozenset()) -> None:
    """A tar of everything (``docker export``)."""
    fd = open_in_root(root_fd, "/", os.O_RDONLY | os.O_DIRECTORY)
    try:
        packer = Packer(write, PackPolicy(one_file_system=True, skip=skip))
        packer.add_tree(fd)
        packer.finish()
    finally:
        os.close(fd)


def extract(
    root_fd: int, path: str, source: Read, *, keep_directory_kind: bool, owner: tuple[int, int] | None
) -> None:
    """Unpack an archive (plain or compressed) into an existing directory.

    Raises OSError when the path does not exist, InvalidArgument when it is no directory, and what unpacking
    raises.
    """
    base = clean(resolve_link(root_fd, path))
    try:
        os.close(open_in_root(root_fd, base, os.O_PATH | os.O_DIRECTORY))
    except NotADirectoryError:
        raise InvalidArgument("extraction point is not a directory") from None
    policy = UnpackPolicy(
        strict=False,
        overlay_whiteouts=False,
        keep_directory_kind=keep_directory_kind,
        keep_existing_directories=True,
        owner=owner,
    )
    plain = bounded(Decompressor(source, hashed=False), policy.limits)
    with TreeWriter(root_fd, policy, os.fsencode(base.lstrip("/"))) as writer:
        reader = TarReader(plain)
        writer.unpack(reader)
        reader.drain()
