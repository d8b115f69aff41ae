"""Blobs in an S3-compatible object store.

Keys, below the settings' prefix::

    blobs/<algorithm>/<hex>      a blob, whole and verified
    uploads/<id>/state           an upload: its multipart upload's id, the algorithm its client named
    uploads/<id>/tail-<offset>   what has arrived beyond the parts, less than a part
    uploads/<id>/data            all of it, between its completion and its becoming a blob
    quarantine/<algorithm>/<hex> a damaged blob, for somebody to look at

A blob appears under its key by one request that the store makes atomic (a PUT, a server-side copy, or the
completion of a copy in parts), and only after its digest was verified. Nothing needed to go on with an
upload is in this process alone.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator

from sampan.model.registry import BlobInfo, UploadInfo

from ..digests import is_digest
from ..errors import BlobUnknown, DigestInvalid
from .bucket import Bucket, ObjectMissing, S3Settings
from .multipart import Multiparts, Part
from .s3_uploads import S3Uploads

_BLOBS = "blobs/"
_QUARANTINE = "quarantine/"
COPY_LIMIT_BYTES = 5 << 30
"""What one CopyObject may copy (Amazon S3 User Guide, "Multipart upload limits")."""
COPIED_PART_BYTES = 1 << 30
_COPIES_AT_ONCE = 4


class S3BlobStorage:
    """A BlobStorage. Call :meth:`check` once before serving."""

    def __init__(
        self,
        settings: S3Settings,
        *,
        copy_limit_bytes: int = COPY_LIMIT_BYTES,
        copied_part_bytes: int = COPIED_PART_BYTES,
    ) -> None:
        self.bucket = Bucket(settings)
        self.multiparts = Multiparts(self.bucket)
        self._uploads = S3Uploads(self.bucket)
        self._copy_limit_bytes = copy_limit_bytes
        self._copied_part_bytes = copied_part_bytes

    async def check(self) -> None:
        """Raises FailedPrecondition, SystemFailure or Unavailable when the bucket cannot be used."""
        await self.bucket.check()

    async def close(self) -> None:
        await self.bucket.close()

    # blobs

    async def find(self, digest: str) -> BlobInfo | None:
        found = await self.bucket.find(_key(digest))
        if found is None:
            return None
        return BlobInfo(digest=digest, size_bytes=found.size_bytes, stored_ns=found.modified_ns)

    async def read(self, digest: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        try:
            async for piece in self.bucket.read(_key(digest), start, end):
                yield piece
        except ObjectMissing:
            raise BlobUnknown(f"blob {digest} is not in the bucket") from None

    def local_path(self, digest: str) -> str | None:
        return None

    async def redirect(self, digest: str) -> str | None:
        """Where a client may read the blob itself; None: the settings do not want it."""
        settings = self.bucket.settings
        if not settings.redirect:
            return None
        return await self.bucket.signed_url(_key(digest), settings.redirect_life_s)

    async def put(self, digest: str, data: bytes) -> None:
        algorithm = digest.partition(":")[0]
        actual = f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"
        if actual != digest:
            raise DigestInvalid(f"the content has the digest {actual}, not {digest}")
        await self.bucket.put(_key(digest), data)

    async def delete(self, digest: str) -> int:
        found = await self.bucket.find(_key(digest))
        if found is None:
            return 0
        await self.bucket.delete([found.key])
        return found.size_bytes

    async def set_aside(self, digest: str) -> None:
        """Move a damaged blob out of the way, so that a push stores it again."""
        found = await self.bucket.find(_key(digest))
        if found is None:
            return
        try:
            await self._copy(found.key, _QUARANTINE + found.key.removeprefix(_BLOBS), found.size_bytes)
        except ObjectMissing:
            return
        await self.bucket.delete([found.key])

    async def digests(self) -> AsyncIterator[BlobInfo]:
        async for found in self.bucket.objects(_BLOBS):
            digest = found.key.removeprefix(_BLOBS).replace("/", ":", 1)
            if is_digest(digest):  # else somebody else's
                yield BlobInfo(digest=digest, size_bytes=found.size_bytes, stored_ns=found.modified_ns)

    # uploads

    async def start_upload(self, upload_id: str, algorithm: str = "sha256") -> None:
        await self._uploads.start(upload_id, algorithm)

    async def append(self, upload_id: str, offset: int, chunks: AsyncIterator[bytes]) -> int:
        return await self._uploads.append(upload_id, offset, chunks)

    async def upload_size(self, upload_id: str) -> int | None:
        return await self._uploads.size(upload_id)

    async def finish(self, upload_id: str, digest: str) -> int:
        try:
            async with self._uploads.verified(upload_id, digest) as (source, data, size_bytes):
                if source is None:
                    await self.bucket.put(_key(digest), data)
                elif await self.bucket.find(_key(digest)) is None:
                    await self._copy(source, _key(digest), size_bytes)
        except DigestInvalid:
            await self._uploads.abort(upload_id)
            raise
        await self._uploads.abort(upload_id)
        return size_bytes

    async def abort(self, upload_id: str) -> None:
        await self._uploads.abort(upload_id)

    def uploads(self) -> AsyncIterator[UploadInfo]:
        return self._uploads.all()

    async def _copy(self, source: str, target: str, size_bytes: int) -> None:
        if size_bytes <= self._copy_limit_bytes:
            await self.bucket.copy(source, target)
            return
        multipart = await self.multiparts.start(target)
        try:
            parts = await self._copy_parts(source, target, multipart, size_bytes)
            await self.multiparts.complete(target, multipart, parts)
        except BaseException:
            await self.multiparts.abort(target, multipart)
            raise

    async def _copy_parts(self, source: str, target: str, multipart: str, size_bytes: int) -> list[Part]:
        places = asyncio.Semaphore(_COPIES_AT_ONCE)

        async def copy(number: int, start: int) -> Part:
            end = min(start + self._copied_part_bytes, size_bytes)
            async with places:
                return await self.multiparts.copy(source, start, end, target, multipart, number)

        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(copy(number, start))
                for number, start in enumerate(range(0, size_bytes, self._copied_part_bytes), start=1)
            ]
        return [task.result() for task in tasks]


def _key(digest: str) -> str:
    algorithm, _, value = digest.partition(":")
    return f"{_BLOBS}{algorithm}/{value}"


__all__ = ["S3BlobStorage", "S3Settings"]
