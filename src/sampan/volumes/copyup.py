"""Fill an empty volume from a directory of an image, everything kept: owners, modes, times, extended
attributes, hard links, device nodes, holes.

Both sides are descriptors and every name is opened relative to its directory without following links, so
neither an image nor a process that writes to the volume meanwhile can lead the copy astray.
"""

from __future__ import annotations

import errno
import os
import stat

_NO_FOLLOW = os.O_NOFOLLOW | os.O_CLOEXEC
_COPY_BYTES = 1 << 30


def copy_tree(source_fd: int, target_fd: int) -> None:
    """The content of one directory into another, which also takes over the first one's owner, mode, times
    and attributes. Both are readable directory descriptors. Blocking. Raises OSError."""
    _Copy(target_fd).directory(source_fd, target_fd, b"")


class _Copy:
    def __init__(self, root_fd: int) -> None:
        self._root_fd = root_fd
        self._linked: dict[tuple[int, int], bytes] = {}
        """Where the first name of a file with several was put, relative to the root."""

    def directory(self, source_fd: int, target_fd: int, path: bytes) -> None:
        for name in sorted(os.fsencode(name) for name in os.listdir(source_fd)):
            self._entry(source_fd, target_fd, name, path + b"/" + name if path else name)
        self._finish_open(source_fd, target_fd)

    def _entry(self, source_fd: int, target_fd: int, name: bytes, path: bytes) -> None:
        status = os.stat(name, dir_fd=source_fd, follow_symlinks=False)
        kind = stat.S_IFMT(status.st_mode)
        if kind != stat.S_IFDIR and status.st_nlink > 1:
            key = (status.st_dev, status.st_ino)
            first = self._linked.setdefault(key, path)
            if first != path:
                os.link(first, name, src_dir_fd=self._root_fd, dst_dir_fd=target_fd, follow_symlinks=False)
                return
        if kind == stat.S_IFDIR:
            self._subdirectory(source_fd, target_fd, name, path)
        elif kind == stat.S_IFREG:
            self._file(source_fd, target_fd, name, status)
        elif kind == stat.S_IFLNK:
            os.symlink(os.readlink(name, dir_fd=source_fd), name, dir_fd=target_fd)
            self._finish_name(source_fd, target_fd, name, status)
        elif kind != stat.S_IFSOCK:  # a socket file means nothing without its process; Docker skips it too
            os.mknod(name, status.st_mode, status.st_rdev, dir_fd=target_fd)
            self._finish_name(source_fd, target_fd, name, status)

    def _subdirectory(self, source_fd: int, target_fd: int, name: bytes, path: bytes) -> None:
        flags = os.O_RDONLY | os.O_DIRECTORY | _NO_FOLLOW
        os.mkdir(name, 0o700, dir_fd=target_fd)
        source = os.open(name, flags, dir_fd=source_fd)
        try:
            target = os.open(name, flags, dir_fd=target_fd)
            try:
                self.directory(source, target, path)
            finally:
                os.close(target)
        finally:
            os.close(source)

    def _file(self, source_fd: int, target_fd: int, name: bytes, status: os.stat_result) -> None:
        source = os.open(name, os.O_RDONLY | os.O_NONBLOCK | _NO_FOLLOW, dir_fd=source_fd)
        try:
            target = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW, 0o600, dir_fd=target_fd)
            try:
                _copy_data(source, target, status)
                self._finish_open(source, target)
            finally:
                os.close(target)
        finally:
            os.close(source)

    def _finish_open(self, source: int, target: int) -> None:
        status = os.fstat(source)
        os.fchown(target, status.st_uid, status.st_gid)  # before the mode: chown clears setuid
        os.fchmod(target, stat.S_IMODE(status.st_mode))
        for attribute in os.listxattr(source):
            _set_attribute(target, attribute, os.getxattr(source, attribute))
        os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))

    def _finish_name(self, source_fd: int, target_fd: int, name: bytes, status: os.stat_result) -> None:
        """What cannot be opened without an effect: links, devices, pipes."""
        os.chown(name, status.st_uid, status.st_gid, dir_fd=target_fd, follow_symlinks=False)
        if not stat.S_ISLNK(status.st_mode):
            self._chmod_name(target_fd, name, stat.S_IMODE(status.st_mode))
        os.utime(name, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=target_fd, follow_symlinks=False)

    def _chmod_name(self, target_fd: int, name: bytes, mode: int) -> None:
        """chmod(2) follows links, so only through a descriptor of what is not one."""
        fd = os.open(name, os.O_PATH | _NO_FOLLOW, dir_fd=target_fd)
        try:
            if not stat.S_ISLNK(os.fstat(fd).st_mode):
                os.chmod(f"/proc/self/fd/{fd}", mode)
        finally:
            os.close(fd)


def _set_attribute(target: int, attribute: str, value: bytes) -> None:
    try:
        os.setxattr(target, attribute, value)
    except OSError as error:
        # the overlay's own marks and labels the volume's file system does not know stay behind
        if error.errno not in (errno.ENOTSUP, errno.EPERM, errno.EINVAL):
            raise


def _copy_data(source: int, target: int, status: os.stat_result) -> None:
    size = status.st_size
    if status.st_blocks * 512 >= size:
        _copy_range(source, target, 0, size)
        return
    os.ftruncate(target, size)
    offset = 0
    while offset < size:  # only what is not a hole (lseek(2), SEEK_DATA)
        try:
            start = os.lseek(source, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        offset = os.lseek(source, start, os.SEEK_HOLE)
        _copy_range(source, target, start, offset)


def _copy_range(source: int, target: int, start: int, end: int) -> None:
    while start < end:
        try:
            done = os.copy_file_range(source, target, min(end - start, _COPY_BYTES), start, start)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM):
                raise
            os.lseek(target, start, os.SEEK_SET)
            done = os.sendfile(target, source, start, min(end - start, _COPY_BYTES))
        if done == 0:
            return
        start += done
