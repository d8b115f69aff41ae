"""Blobs in memory, by the rules of the Protocol; tests of what is above it damage and delay it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable

from sampan.base.clock import now_ns
from sampan.model.registry import BlobInfo, UploadInfo
from sampan.registry.errors import BlobUnknown, DigestInvalid, RangeInvalid, UploadUnknown


def digest_of(data: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


class FakeBlobStorage:
    def __init__(self, clock: Callable[[], int] = now_ns) -> None:
        self.now_ns = clock
        self.blobs: dict[str, bytes] = {}
        self.set_aside_blobs: dict[str, bytes] = {}
        self.stored_ns: dict[str, int] = {}
        self.parts: dict[str, bytearray] = {}
        self.touched_ns: dict[str, int] = {}

    async def find(self, digest: str) -> BlobInfo | None:
        await asyncio.sleep(0)
        if digest not in self.blobs:
            return None
        return BlobInfo(digest=digest, size_bytes=len(self.blobs[digest]), stored_ns=self.stored_ns[digest])

    async def read(self, digest: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        data = self.blobs.get(digest)
        if data is None:
            raise BlobUnknown(f"blob {digest} is not here")
        data = data[start:end]
        for at in range(0, len(data), 64 << 10):
            yield data[at : at + (64 << 10)]
            await asyncio.sleep(0)

    def local_path(self, digest: str) -> str | None:
        return None

    async def redirect(self, digest: str) -> str | None:
        return None

    async def start_upload(self, upload_id: str, algorithm: str = "sha256") -> None:
        self.parts[upload_id] = bytearray()
        self.touched_ns[upload_id] = self.now_ns()

    async def append(self, upload_id: str, offset: int, chunks: AsyncIterator[bytes]) -> int:
        part = self._part(upload_id)
        if offset != len(part):
            raise RangeInvalid(f"upload {upload_id} has {len(part)} bytes", len(part))
        async for chunk in chunks:
            part += chunk
            self.touched_ns[upload_id] = self.now_ns()
        return len(part)

    async def upload_size(self, upload_id: str) -> int | None:
        return len(self.parts[upload_id]) if upload_id in self.parts else None

    async def finish(self, upload_id: str, digest: str) -> int:
        data = bytes(self._part(upload_id))
        await asyncio.sleep(0)
        await self.abort(upload_id)
        await self.put(digest, data)
        return len(data)

    async def abort(self, upload_id: str) -> None:
        self.parts.pop(upload_id, None)
        self.touched_ns.pop(upload_id, None)

    async def put(self, digest: str, data: bytes) -> None:
        if digest_of(data, digest.partition(":")[0]) != digest:
            raise DigestInvalid(f"the content is not {digest}")
        self.blobs[digest] = data
        self.stored_ns[digest] = self.now_ns()

    async def delete(self, digest: str) -> int:
        await asyncio.sleep(0)
        self.stored_ns.pop(digest, None)
        return len(self.blobs.pop(digest, b""))

    async def set_aside(self, digest: str) -> None:
        if digest in self.blobs:
            self.set_aside_blobs[digest] = self.blobs[digest]
            await self.delete(digest)

    async def digests(self) -> AsyncIterator[BlobInfo]:
        for digest in sorted(self.blobs):
            if (found := await self.find(digest)) is not None:
                yield found

    async def uploads(self) -> AsyncIterator[UploadInfo]:
        for upload_id, part in list(self.parts.items()):
            yield UploadInfo(id=upload_id, size_bytes=len(part), touched_ns=self.touched_ns[upload_id])

    async def close(self) -> None:
        pass

    def _part(self, upload_id: str) -> bytearray:
        if upload_id not in self.parts:
            raise UploadUnknown(f"there is no upload {upload_id}")
        return self.parts[upload_id]
