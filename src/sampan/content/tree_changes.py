"""What a container has changed: its overlay's upper directory against the layers below (``docker diff``)."""

from __future__ import annotations

import errno
import os
import stat
from typing import NamedTuple

import msgspec

from .unpack import is_opaque

MODIFIED = 0
ADDED = 1
DELETED = 2

_MOUNT_POINTS = frozenset(
    (
        b".dockerenv", b"dev", b"dev/console", b"dev/pts", b"dev/shm", b"dev/mqueue", b"etc",
        b"etc/hostname", b"etc/hosts", b"etc/resolv.conf", b"etc/mtab", b"proc", b"sys",
    )
)  # fmt: skip
"""What the engine makes in every root so that it can mount there; Docker hides it in a layer of its own."""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    """Absolute, in the container."""
    kind: int
    """MODIFIED, ADDED or DELETED, with Docker's numbers."""


class _Place(NamedTuple):
    path: bytes
    upper_fd: int
    lower_fd: int
    """-1: the layers have no such directory."""


def changes(upper_fd: int, lower_fd: int) -> list[Change]:
    """Sorted by path, parents first. ``lower_fd`` is -1 for an image without layers."""
    found: dict[bytes, int] = {}
    _walk(_Place(b"", upper_fd, lower_fd), found)
    return [
        Change(path="/" + os.fsdecode(path), kind=kind)
        for path, kind in sorted(found.items(), key=lambda item: item[0].split(b"/"))
    ]


def mount_points(upper_fd: int, lower_fd: int) -> frozenset[bytes]:
    """Names in the upper directory that the engine made as mount points and that hold nothing."""
    hidden: set[bytes] = set()
    for path in sorted(_MOUNT_POINTS, key=lambda path: -path.count(b"/")):
        head, _, base = path.rpartition(b"/")
        parent = _open(upper_fd, head) if head else os.dup(upper_fd)
        if parent < 0:
            continue
        try:
            status = _status(parent, base)
            if status is None or not _is_ours(parent, base, path, status, hidden):
                continue
            old = _status(lower_fd, path) if lower_fd >= 0 else None
            # a folder of the image is copied up when a mount point is made in it
            if old is None or (stat.S_ISDIR(status.st_mode) and not _differs(status, old)):
                hidden.add(path)
        finally:
            os.close(parent)
    return frozenset(hidden)


def _is_ours(parent: int, base: bytes, path: bytes, status: os.stat_result, hidden: set[bytes]) -> bool:
    if path == b"etc/mtab":
        return stat.S_ISLNK(status.st_mode)
    if stat.S_ISREG(status.st_mode):
        return status.st_size == 0
    if not stat.S_ISDIR(status.st_mode):
        return False
    fd = _open(parent, base)
    if fd < 0:
        return False
    try:
        return not is_opaque(fd) and all(path + b"/" + os.fsencode(name) in hidden for name in os.listdir(fd))
    finally:
        os.close(fd)


def _walk(place: _Place, found: dict[bytes, int]) -> None:
    hidden = mount_points(place.upper_fd, place.lower_fd) if not place.path else frozenset()
    _walk_below(place, found, hidden)


def _walk_below(place: _Place, found: dict[bytes, int], hidden: frozenset[bytes]) -> None:
    names = {os.fsencode(name) for name in os.listdir(place.upper_fd)}
    for base in names:
        path = place.path + base
        if path in hidden:
            continue
        status = _status(place.upper_fd, base)
        if status is None:
            continue
        old = _status(place.lower_fd, base) if place.lower_fd >= 0 else None
        if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
            if old is not None:
                found[path] = DELETED
        elif stat.S_ISDIR(status.st_mode):
            _directory(place, base, status, old, found, hidden)
        elif old is None:
            found[path] = ADDED
        elif _differs(status, old):
            found[path] = MODIFIED
    if place.lower_fd >= 0 and place.path and is_opaque(place.upper_fd):
        for base in (os.fsencode(name) for name in os.listdir(place.lower_fd)):
            if base not in names:
                found[place.path + base] = DELETED


def _directory(
    place: _Place,
    base: bytes,
    status: os.stat_result,
    old: os.stat_result | None,
    found: dict[bytes, int],
    hidden: frozenset[bytes],
) -> None:
    path = place.path + base
    fd = _open(place.upper_fd, base)
    if fd < 0:
        return
    below = _open(place.lower_fd, base) if old is not None and stat.S_ISDIR(old.st_mode) else -1
    before = len(found)
    try:
        _walk_below(_Place(path + b"/", fd, below), found, hidden)
    finally:
        os.close(fd)
        if below >= 0:
            os.close(below)
    if old is None:
        found[path] = ADDED
    elif len(found) > before or _differs(status, old):
        # a directory shows when something in it changed, whatever its own times say
        found[path] = MODIFIED


def _differs(new: os.stat_result, old: os.stat_result) -> bool:
    if (new.st_mode, new.st_uid, new.st_gid, new.st_rdev) != (
        old.st_mode,
        old.st_uid,
        old.st_gid,
        old.st_rdev,
    ):
        return True
    if stat.S_ISDIR(new.st_mode):
        return False
    return (new.st_size, new.st_mtime_ns) != (old.st_size, old.st_mtime_ns)


def _status(fd: int, base: bytes) -> os.stat_result | None:
    try:
        return os.stat(base, dir_fd=fd, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _open(fd: int, path: bytes) -> int:
    """A directory below, no link; -1 when there is none."""
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
    except (FileNotFoundError, NotADirectoryError):
        return -1
    except OSError as error:
        if error.errno == errno.ELOOP:
            return -1
        raise
