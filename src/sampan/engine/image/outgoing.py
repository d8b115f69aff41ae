"""Blobs as an upload reads them: from a file, written again from a layer, or packed while they are read."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from sampan.content.layer_blobs import LayerBlobReader
from sampan.content.packing import Packer
from sampan.content.streams import Workers
from sampan.transfer.repository import Repository

Progress = Callable[[int, int], None]


class _Reader(Protocol):
    def read(self) -> bytes: ...
    def close(self) -> None: ...


class OutgoingBlob:
    """A :class:`sampan.transfer.uploads.Outgoing` whose digest is known. Close it in the end."""

    def __init__(
        self,
        workers: Workers,
        open_reader: Callable[[], _Reader],
        digest: str,
        size_bytes: int,
        progress: Progress,
    ) -> None:
        self.digest = digest
        self.size_bytes: int | None = size_bytes
        self._workers = workers
        self._open = open_reader
        self._progress = progress
        self._reader: _Reader | None = None
        self._lock = threading.Lock()

    async def chunks(self, offset: int) -> AsyncIterator[bytes]:
        """What comes before ``offset`` is read and dropped: a blob that is being made has no other way."""
        await self.close()
        done = 0
        while chunk := await self._workers.run(self._read):
            start = max(offset - done, 0)
            done += len(chunk)
            if start < len(chunk):
                yield chunk[start:] if start else chunk
                self._tell(done)
        await self.close()

    def _tell(self, done: int) -> None:
        self._progress(done, self.size_bytes or done)

    def _read(self) -> bytes:
        with self._lock:
            if self._reader is None:
                self._reader = self._open()
            return self._reader.read()

    async def close(self) -> None:
        """Idempotent; also while a read goes on that nobody waits for any more."""
        if self._reader is not None:
            await self._workers.run(self._close)

    def _close(self) -> None:
        with self._lock:
            reader, self._reader = self._reader, None
            if reader is not None:
                reader.close()


class RemoteBlob:
    """A blob that is not kept here, on its way from one repository to another. Nothing of it is stored: who
    receives it checks its digest."""

    def __init__(self, source: Repository, digest: str, size_bytes: int, progress: Progress) -> None:
        self.digest = digest
        self.size_bytes: int | None = size_bytes
        self._source = source
        self._progress = progress

    async def chunks(self, offset: int) -> AsyncIterator[bytes]:
        """Raises what the source answers."""
        async with self._source.blob(self.digest, offset) as stream:
            done = stream.offset
            async with contextlib.aclosing(stream.chunks()) as chunks:
                async for chunk in chunks:
                    start = max(offset - done, 0)
                    done += len(chunk)
                    if start < len(chunk):
                        yield chunk[start:] if start else chunk
                        self._progress(done, self.size_bytes or done)

    async def close(self) -> None:
        """There is nothing to let go of."""


class PackedBlob(OutgoingBlob):
    """A plain layer, packed while it is read. Digest and size are known from then on."""

    def __init__(
        self,
        workers: Workers,
        open_plain: Callable[[], LayerBlobReader],
        plain_bytes: int,
        progress: Progress,
    ) -> None:
        super().__init__(workers, lambda: self._begin(open_plain), "", 0, progress)
        self.size_bytes = None
        self._plain_bytes = plain_bytes
        self._packing: PackingReader | None = None

    def _begin(self, open_plain: Callable[[], LayerBlobReader]) -> PackingReader:
        self._packing = PackingReader(open_plain(), self._ended)
        return self._packing

    def _ended(self, digest: str, size_bytes: int) -> None:
        self.digest, self.size_bytes = digest, size_bytes

    def _tell(self, done: int) -> None:
        if self._packing is not None:
            self._progress(self._packing.plain_done, self._plain_bytes)


class PackingReader:
    """The packed bytes of a plain layer; at the end ``ended`` is told their digest and number."""

    def __init__(self, plain: LayerBlobReader, ended: Callable[[str, int], None]) -> None:
        self.plain_done = 0
        self._plain = plain
        self._ended = ended
        self._packer: Packer | None = Packer()
        self._hash = hashlib.sha256()
        self._size = 0

    def read(self) -> bytes:
        while self._packer is not None:
            chunk = self._plain.read()
            self.plain_done += len(chunk)
            packed = self._packer.pack(chunk) if chunk else self._packer.finish()
            self._hash.update(packed)
            self._size += len(packed)
            if not chunk:
                self._packer = None
                self._ended(f"sha256:{self._hash.hexdigest()}", self._size)
            if packed:
                return packed
        return b""

    def close(self) -> None:
        self._plain.close()
