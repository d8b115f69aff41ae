"""The writing end of a container's log: whole lines into Docker's json-file format, with rotation.

Used by the monitor process, so standard library only and no import that is not needed at once. A log must
never stop its container: when the disk refuses, lines are dropped and counted, and the next write that
succeeds says in the log how many are missing.
"""

from __future__ import annotations

import os
import time

from sampan.formats.jsonlog import PARTIAL_BYTES, encode

UNLIMITED = -1
_COPY_BYTES = 256 * 1024


class JsonFileWriter:
    """Writes ``path``, and keeps ``max_files - 1`` rotated ones as ``path.1`` (newest), ``path.2``, …

    ``attributes`` is a JSON object's text that every line carries as ``attrs``, or empty.
    Raises OSError when the file cannot be opened at first; never afterwards.
    """

    def __init__(
        self,
        path: str,
        max_size_bytes: int = 20 * 1024 * 1024,
        max_files: int = 5,
        compress: bool = False,
        attributes: str = "",
    ) -> None:
        self.path = path
        self.dropped_lines = 0
        """Lines lost since the log last said so."""
        self._max_size_bytes = max_size_bytes
        self._max_files = max_files
        self._compress = compress and max_files > 1
        self._attributes = attributes.encode()
        self._unfinished: dict[str, bytes] = {}
        self._second = -1
        self._second_text = b""
        self._compressing: _Compression | None = None
        self._reason = ""
        self._fd = -1
        self._size_bytes = 0
        self._open(0)

    def write(self, chunk: bytes, stream: str) -> None:
        """Log ``chunk``. Its last line waits for its newline, for 16 KiB, or for :meth:`close`."""
        unfinished = self._unfinished.pop(stream, b"")
        if unfinished:
            chunk = unfinished + chunk
        whole = chunk.rfind(b"\n") + 1
        whole += (len(chunk) - whole) // PARTIAL_BYTES * PARTIAL_BYTES
        if whole < len(chunk):
            self._unfinished[stream] = chunk[whole:]
            chunk = chunk[:whole]
        if chunk:
            self._append(encode(chunk, stream, self._time_text(), self._attributes))

    def close(self) -> None:
        """Write the unfinished lines, wait for a compression under way, close. Idempotent."""
        for stream, rest in self._unfinished.items():
            self._append(encode(rest, stream, self._time_text(), self._attributes))
        self._unfinished = {}
        self._close_file()
        if self._compressing is not None:
            self._compressing.wait()
            self._compressing = None

    def reopen(self) -> None:
        """Open ``path`` again, after somebody else has moved or truncated it."""
        self._close_file()
        self._try_open(0)

    def _time_text(self) -> bytes:
        seconds, nanos = divmod(time.time_ns(), 1_000_000_000)
        if seconds != self._second:
            self._second = seconds
            self._second_text = b"%04d-%02d-%02dT%02d:%02d:%02d" % time.gmtime(seconds)[:6]
        return b"%b.%09dZ" % (self._second_text, nanos)

    def _append(self, data: bytes) -> None:
        lost = self.dropped_lines
        if lost and not self._put(self._loss_notice()):
            self.dropped_lines = lost + data.count(b"\n")
            return
        if self._max_size_bytes == UNLIMITED:
            self._put(data)
            return
        start = 0
        while start < len(data):
            room = self._max_size_bytes - self._size_bytes
            if room <= 0:
                self._rotate()
                room = self._max_size_bytes
            end = len(data) if len(data) - start <= room else data.find(b"\n", start + room - 1) + 1
            if not self._put(data[start:end]):
                self.dropped_lines += data.count(b"\n", end)
                return
            start = end

    def _loss_notice(self) -> bytes:
        text = f"[sampan: {self.dropped_lines} lines of this log were lost: {self._reason}]\n"
        return encode(text.encode(), "stderr", self._time_text(), self._attributes)

    def _put(self, data: bytes) -> bool:
        """All of ``data`` in the file, or only whole lines of it and the rest counted as lost."""
        if self._fd < 0 and not self._try_open(0):
            self.dropped_lines += data.count(b"\n")
            return False
        written = 0
        try:
            written = os.write(self._fd, data)
            while written < len(data):
                written += os.write(self._fd, data[written:])
        except OSError as error:
            self._reason = error.strerror or str(error)
            self._keep_whole_lines(data, written)
            return False
        self._size_bytes += written
        self.dropped_lines = 0
        return True

    def _keep_whole_lines(self, data: bytes, written: int) -> None:
        kept = data.rfind(b"\n", 0, written) + 1
        if kept < written:
            try:
                os.ftruncate(self._fd, os.fstat(self._fd).st_size - (written - kept))
            except OSError as error:
                self._reason = error.strerror or str(error)
        self._size_bytes += kept
        self.dropped_lines += data.count(b"\n", kept)

    def _open(self, flags: int) -> None:
        flags |= os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(self.path, flags, 0o640)
        try:
            size = os.fstat(fd).st_size
            if size and os.pread(fd, 1, size - 1) != b"\n":
                size += os.write(fd, b"\n")  # a crash of the machine tore the last line
        except OSError:
            os.close(fd)
            raise
        self._fd, self._size_bytes = fd, size

    def _try_open(self, flags: int) -> bool:
        try:
            self._open(flags)
        except OSError as error:
            self._reason = error.strerror or str(error)
            return False
        return True

    def _close_file(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _rotate(self) -> None:
        """Move the file aside and begin a new one, as Docker does: one file only is simply replaced."""
        if self._compressing is not None:
            self._compressing.wait()
            self._compressing = None
        self._close_file()
        try:
            if self._max_files < 2:
                os.unlink(self.path)
            else:
                self._shift()
        except OSError as error:
            self._reason = error.strerror or str(error)
        # Truncated, should the file not have moved: the bound on the disk space holds in any case.
        self._try_open(os.O_TRUNC)
        if self._compress:
            self._compressing = _Compression(self.path + ".1")

    def _shift(self) -> None:
        for index in range(self._max_files - 1, 0, -1):
            older = f"{self.path}.{index}"
            newer = f"{self.path}.{index - 1}" if index > 1 else self.path
            for suffix in ("", ".gz"):
                if index == self._max_files - 1:
                    _unlink_if_there(older + suffix)
                if index > 1 or not suffix:
                    _rename_if_there(newer + suffix, older + suffix)


def _unlink_if_there(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


def _rename_if_there(source: str, target: str) -> None:
    try:
        os.rename(source, target)
    except FileNotFoundError:
        return


class _Compression:
    """``path`` becomes ``path.gz`` in a thread of its own: zlib lets go of the interpreter meanwhile.

    The plain file is removed after the other is complete, so a reader always finds one of them whole.
    """

    def __init__(self, path: str) -> None:
        import _thread

        self._path = path
        self._done = _thread.allocate_lock()
        self._done.acquire()
        _thread.start_new_thread(self._run, ())

    def wait(self) -> None:
        self._done.acquire()
        self._done.release()

    def _run(self) -> None:
        temporary = self._path + ".gz.tmp"
        try:
            self._compress(temporary)
            os.rename(temporary, self._path + ".gz")
            os.unlink(self._path)
        except OSError:
            # The log stays plain, which every reader accepts; only the half-written copy must go.
            _unlink_if_there(temporary)
        finally:
            self._done.release()

    def _compress(self, target: str) -> None:
        import zlib

        packer = zlib.compressobj(1, zlib.DEFLATED, 16 + zlib.MAX_WBITS)  # 16: with a gzip header
        with open(self._path, "rb", buffering=0) as source, open(target, "wb", buffering=0) as sink:
            os.fchmod(sink.fileno(), 0o640)
            while block := source.read(_COPY_BYTES):
                sink.write(packer.compress(block))
            sink.write(packer.flush())
