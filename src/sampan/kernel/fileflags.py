"""Attributes of inodes that chattr(1) sets (ioctl_iflags(2))."""

from __future__ import annotations

import errno
import fcntl
import os
import struct

_GETFLAGS = 0x80086601
_SETFLAGS = 0x40086602
_TOPDIR = 0x00020000


def spread_directories(path: str) -> bool:
    """Let ext4 place each directory made in ``path`` in a block group of its own choice (chattr +T), as it
    does below the root of a file system. False where the file system has no such thing.

    Otherwise all trees share one group, and where many files were deleted lately, ext4 without a journal
    looks at each of their inodes again for every new file: 20 to 50 times the cost of a creation.
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flags = struct.unpack("l", fcntl.ioctl(fd, _GETFLAGS, bytes(8)))[0]
        if not flags & _TOPDIR:
            fcntl.ioctl(fd, _SETFLAGS, struct.pack("l", flags | _TOPDIR))
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM, errno.EACCES):
            return False
        raise
    finally:
        os.close(fd)
    return True
