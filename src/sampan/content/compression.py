"""Plain, gzip, zstd, bzip2 and xz streams, told apart by their first bytes.

A source is a callable that returns the next chunk and ``b""`` at the end. Output comes in chunks of at most
:data:`CHUNK` bytes, whatever the input claims, so that a bomb costs no memory.
"""

from __future__ import annotations

import functools
import hashlib
import os
import zlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import zstandard
from isal import isal_zlib
from isal.igzip_lib import IsalError

from sampan.formats.tar import BadTar

if TYPE_CHECKING:
    import bz2
    import lzma

Read = Callable[[], bytes]

CHUNK = 1 << 20
PLAIN = "plain"
GZIP = "gzip"
ZSTD = "zstd"
BZIP2 = "bzip2"
XZ = "xz"
_MAGIC = (
    (b"\x1f\x8b", GZIP),
    (b"\x28\xb5\x2f\xfd", ZSTD),
    (b"BZh", BZIP2),
    (b"\xfd7zXZ\0", XZ),
)
_HEAD = 32
_HASHED_ASIDE = 4 << 20
_WORTH_A_THREAD = 64 << 10
_MAX_ZSTD_WINDOW = 1 << 27


def detect(head: bytes) -> str:
    """The compression of a stream that starts with ``head`` (6 bytes suffice)."""
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    # skippable zstd frames, as written by tools that store a seek table or a signature (RFC 8878 3.1.2)
    if len(head) >= 4 and head[1:4] == b"\x2a\x4d\x18" and 0x50 <= head[0] <= 0x5F:
        return ZSTD
    return PLAIN


def file_source(fd: int, size: int = CHUNK) -> Read:
    """Chunks of an open file from its current position."""
    return lambda: os.read(fd, size)


class StreamHash:
    """SHA-256 of a stream. Of a long one the chunks are hashed in another thread while whoever reads works on
    the same chunk: both need about as long."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._length = 0
        self._pending: Future[None] | None = None

    def update(self, data: bytes | memoryview) -> None:
        self._length += len(data)
        if self._length < _HASHED_ASIDE or len(data) < _WORTH_A_THREAD:
            self._wait()
            self._hash.update(data)
            return
        self._wait()
        self._pending = _hashing().submit(self._hash.update, data)

    def _wait(self) -> None:
        if self._pending is not None:
            self._pending.result()
            self._pending = None

    def hexdigest(self) -> str:
        self._wait()
        return self._hash.hexdigest()


@functools.cache
def _hashing() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="hash")


class Decompressor:
    """A source turned into the plain bytes behind it; ``read`` is again a source.

    ``digest`` is of the plain bytes read so far, ``bytes_in`` and ``bytes_out`` count both sides.
    Raises BadTar on damaged or truncated input.
    """

    def __init__(self, source: Read, *, hashed: bool = True) -> None:
        self.bytes_in = 0
        self.bytes_out = 0
        self._source = source
        self._hash = StreamHash() if hashed else None
        head = b""
        while len(head) < _HEAD:
            chunk = source()
            if not chunk:
                break
            head += chunk
        self.bytes_in += len(head)
        self._head = head
        self.start = bytes(head[:64])
        """The first bytes of what came."""
        self.kind = detect(head)
        self._plain = self._decoder()

    def read(self) -> bytes:
        chunk = self._plain()
        self.bytes_out += len(chunk)
        if self._hash is not None:
            self._hash.update(chunk)
        return chunk

    @property
    def digest(self) -> str:
        if self._hash is None:
            raise ValueError("this stream is not hashed")
        return "sha256:" + self._hash.hexdigest()

    def _input(self) -> bytes:
        if self._head:
            head, self._head = self._head, b""
            return head
        chunk = self._source()
        self.bytes_in += len(chunk)
        return chunk

    def _decoder(self) -> Read:
        if self.kind == PLAIN:
            return self._input
        if self.kind == GZIP:
            return _GzipStream(self._input).read
        if self.kind == ZSTD:
            return zstd_source(self._input)
        return _StdlibStream(self._input, self.kind).read


class _GzipStream:
    """Any number of members, as RFC 1952 allows; zeros may pad the end."""

    def __init__(self, source: Read) -> None:
        self._source = source
        self._object = isal_zlib.decompressobj(wbits=31)
        self._tail = b""
        self._ended = False
        self._started = False

    def read(self) -> bytes:
        while not self._ended:
            data = self._tail or self._source()
            self._tail = b""
            if not data:
                if self._started and not self._object.eof:
                    raise BadTar("gzip: unexpected EOF")
                self._ended = True
                break
            if self._object.eof and not self._next_member(data):
                continue
            self._started = True
            try:
                chunk: bytes = self._object.decompress(self._tail or data, CHUNK)
            except (IsalError, zlib.error) as error:  # type: ignore[misc]  # isal's stub takes it for an instance
                raise BadTar(f"gzip: invalid data: {error}") from error
            self._tail = self._object.unused_data if self._object.eof else self._object.unconsumed_tail
            if chunk:
                return chunk
        return b""

    def _next_member(self, data: bytes) -> bool:
        rest = data.lstrip(b"\0")
        if not rest:
            return False
        if not rest.startswith(b"\x1f"):
            raise BadTar("gzip: invalid data after the end")
        self._object = isal_zlib.decompressobj(wbits=31)
        self._tail = rest
        return True


class _ByteFile:
    """The file face of a source, as zstandard wants it."""

    def __init__(self, source: Read) -> None:
        self._source = source

    def read(self, size: int = -1) -> bytes:
        return self._source()


def zstd_source(source: Read) -> Read:
    """The plain bytes of zstd frames. Raises BadTar on damaged input."""
    decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_ZSTD_WINDOW)
    reader = decompressor.stream_reader(_ByteFile(source), read_across_frames=True)  # type: ignore[arg-type]

    def read() -> bytes:
        try:
            return reader.read(CHUNK)
        except zstandard.ZstdError as error:
            raise BadTar(f"zstd: invalid data: {error}") from error

    return read


class _StdlibStream:
    """bzip2 and xz: rare in images, so their modules are imported only when met."""

    def __init__(self, source: Read, kind: str) -> None:
        self._source = source
        self._kind = kind
        self._object = self._new()
        self._pending = b""
        self._ended = False

    def _new(self) -> bz2.BZ2Decompressor | lzma.LZMADecompressor:
        if self._kind == BZIP2:
            import bz2

            return bz2.BZ2Decompressor()
        import lzma

        return lzma.LZMADecompressor(memlimit=1 << 28)

    def read(self) -> bytes:
        import lzma

        while not self._ended:
            data = self._pending
            self._pending = b""
            if not data and (self._object.eof or self._object.needs_input):
                data = self._source()
                if not data:
                    if not self._object.eof:
                        raise BadTar(f"{self._kind}: unexpected EOF")
                    self._ended = True
                    break
            if self._object.eof:
                self._object = self._new()
            try:
                chunk: bytes = self._object.decompress(data, CHUNK)
            except (OSError, ValueError, lzma.LZMAError) as error:
                raise BadTar(f"{self._kind}: invalid data: {error}") from error
            if self._object.eof:
                self._pending = self._object.unused_data
            if chunk:
                return chunk
        return b""
