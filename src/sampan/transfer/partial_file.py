"""A file that grows while others read it: a blob on its way in.

Written by one thread at a time, read by any number of others. Readers see bytes as soon as they are written,
from the page cache; that the file ends they see only when its digest has been verified. So whatever has read
to the end has read the right bytes.
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading

from sampan.base.crashpoints import crash_point
from sampan.base.errors import Cancelled, ResourceExhausted, SampanError

_BATCH = 1 << 20


class NoSpace(ResourceExhausted):
    def __init__(self, path: str) -> None:
        super().__init__(f"write {path}: no space left on device: free disk space and try again")


class BytesReplaced(SampanError):
    """What was read of a file was damaged, and is being fetched anew: read it again from the start."""

    def __init__(self, path: str) -> None:
        super().__init__(f"{path} was damaged and is fetched again")


class PartialFile:
    """The bytes of a blob that are here. Methods that write block; they run in a thread, one at a time."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.size = 0
        self.version = 0
        """Goes up when bytes that may have been read are replaced."""
        self._hash = hashlib.sha256()
        self._changed = threading.Condition()
        self._whole = False
        self._abandoned = False
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    # writing

    def recover(self, limit_bytes: int) -> None:
        """Hash what an earlier download has left; more than the blob has is of no use."""
        if os.fstat(self._fd).st_size > limit_bytes:
            self.reset()
        while chunk := os.read(self._fd, _BATCH):
            self._hash.update(chunk)
            self._grow(len(chunk))

    def reset(self) -> None:
        """Start again from nothing."""
        with self._changed:
            self.version += self.size > 0
            self.size = 0
            self._hash = hashlib.sha256()
            os.ftruncate(self._fd, 0)
            os.lseek(self._fd, 0, os.SEEK_SET)
            self._changed.notify_all()

    def write(self, data: bytes) -> None:
        """Raises NoSpace; then what fitted stays."""
        view = memoryview(data)
        try:
            while view:
                written = os.write(self._fd, view)
                self._hash.update(view[:written])
                self._grow(written)
                crash_point("download.write.grown")
                view = view[written:]
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise NoSpace(self.path) from error
            raise

    def _grow(self, count: int) -> None:
        with self._changed:
            self.size += count
            self._changed.notify_all()

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"

    def end(self, *, whole: bool) -> None:
        """No more will come. Readers of what is ``whole``, and verified, come to the end, others are told."""
        with self._changed:
            self._whole = whole
            self._abandoned = not whole
            self._changed.notify_all()

    def close(self) -> None:
        """When nobody reads any more."""
        os.close(self._fd)

    def reader(self) -> Reader:
        """From the start of the file; used in one thread."""
        return Reader(self, self._fd, self._changed)

    @property
    def is_whole(self) -> bool:
        return self._whole

    @property
    def is_over(self) -> bool:
        """Nothing will be added."""
        return self._whole or self._abandoned


class Reader:
    def __init__(self, file: PartialFile, fd: int, changed: threading.Condition) -> None:
        self.version = file.version
        """Of the bytes it reads."""
        self._file = file
        self._fd = fd
        self._changed = changed
        self._offset = 0
        self._cancelled = False

    def read(self) -> bytes:
        """The next bytes, when there are some; ``b""`` at the end of a verified file.

        Raises BytesReplaced, and Cancelled when no more will come.
        """
        with self._changed:
            self._changed.wait_for(self._has_news)
            if self._cancelled:
                raise Cancelled(f"nobody wants {self._file.path} any more")
            if self.version != self._file.version:
                raise BytesReplaced(self._file.path)
            available = self._file.size - self._offset
        if not available:
            if not self._file.is_whole:
                raise Cancelled(f"the download of {self._file.path} was broken off")
            return b""
        data = os.pread(self._fd, min(available, _BATCH), self._offset)
        if not data:
            # cut off in this very moment
            raise BytesReplaced(self._file.path)
        self._offset += len(data)
        return data

    def _has_news(self) -> bool:
        file = self._file
        return self._offset < file.size or self.version != file.version or file.is_over or self._cancelled

    def cancel(self) -> None:
        """From any thread: a :meth:`read` that waits, and each later one, raises Cancelled."""
        with self._changed:
            self._cancelled = True
            self._changed.notify_all()
