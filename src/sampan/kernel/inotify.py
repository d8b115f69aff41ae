"""inotify(7): a descriptor that becomes readable when something in a watched directory changes."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

from .syscalls import check, libc

IN_MODIFY = 0x0002
IN_CLOSE_WRITE = 0x0008
IN_MOVED_TO = 0x0080
IN_CREATE = 0x0100
IN_IGNORED = 0x8000

_EVENT = struct.Struct("iIII")


def open_instance() -> int:
    """A non-blocking, close-on-exec instance."""
    return check(libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC), "inotify")


def add_watch(fd: int, path: str, mask: int) -> int:
    """Answers the watch descriptor, the same one again for the same directory."""
    return check(libc.inotify_add_watch(fd, os.fsencode(path), mask), path)


def remove_watch(fd: int, watch: int) -> None:
    """Raises OSError(EINVAL) when the directory is gone already."""
    check(libc.inotify_rm_watch(fd, watch), f"inotify watch {watch}")


def read_events(fd: int) -> Iterator[tuple[int, int]]:
    """Watch descriptor and mask of each pending event; nothing when there is none."""
    try:
        data = os.read(fd, 65536)
    except BlockingIOError:
        return
    position = 0
    while position < len(data):
        watch, mask, _, length = _EVENT.unpack_from(data, position)
        position += _EVENT.size + length
        yield watch, mask
