"""Blobs on their way in: in one piece, in chunks, or as they come, resumed after whatever went wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sampan.base.crashpoints import crash_point
from sampan.model.registry import Actor

from .blobs import Blobs
from .context import Context
from .digests import algorithm_of, check_algorithm
from .errors import DigestInvalid, QuotaExceeded, UploadInvalid, UploadUnknown
from .locks import NamedLocks
from .storage.port import UPLOAD_ID, new_upload_id

ASK_BYTES = 16 << 20
"""After so many more bytes of an upload the gate is asked again."""


class Uploads:
    def __init__(self, context: Context, blobs: Blobs) -> None:
        self._context = context
        self._blobs = blobs
        self._turns = NamedLocks()
        self._writing: dict[str, asyncio.Future[int]] = {}
        """By upload: the request that is sending."""

    async def start(self, repository: str, algorithm: str = "sha256") -> str:
        """The upload's id. Raises DigestInvalid for an unknown algorithm, QuotaExceeded."""
        check_algorithm(algorithm)
        self._context.check_writable(repository)
        self._context.gate.check_push(repository, 0)
        upload_id = new_upload_id()
        await self._context.storage.start_upload(upload_id, algorithm)
        index, now_ns = self._context.index, self._context.now_ns()
        with index.relaxed(), index.transaction():  # what a power cut takes, its client starts again
            number = index.repositories.ensure(repository, now_ns)
            index.uploads.insert(upload_id, number, now_ns)
        crash_point("registry.upload.started")
        return upload_id

    async def size(self, repository: str, upload_id: str) -> int:
        """Bytes that have come and are kept. Raises UploadUnknown."""
        self._check(repository, upload_id)
        size = await self._context.storage.upload_size(upload_id)
        if size is None:
            raise _unknown(upload_id)
        return size

    async def append(
        self,
        repository: str,
        upload_id: str,
        offset: int | None,
        chunks: AsyncIterator[bytes],
        length: int | None = None,
    ) -> int:
        """The new size. Without an offset they come behind what is there; ``length``: as far as it is known.

        Raises UploadUnknown, RangeInvalid, UploadInvalid: what came before is kept. QuotaExceeded: it is not.
        """
        async with self._turn(repository, upload_id):
            size = await self.size(repository, upload_id)
            offset = size if offset is None else offset
            try:
                self._context.gate.check_push(repository, size + (length or 0))
                return await self._write(upload_id, offset, self._watched(repository, size, chunks))
            except QuotaExceeded:
                await self._drop(upload_id)
                raise

    async def _write(self, upload_id: str, offset: int, chunks: AsyncIterator[bytes]) -> int:
        """Until the end of ``chunks``, or until another request goes on with the upload."""
        writing = asyncio.ensure_future(self._context.storage.append(upload_id, offset, chunks))
        self._writing[upload_id] = writing
        try:
            return await asyncio.shield(writing)
        except asyncio.CancelledError:
            superseded = writing.cancelled()
            if not writing.done():
                writing.cancel()
            await asyncio.wait({writing})
            if superseded:
                raise UploadInvalid("another request goes on with this upload") from None
            raise
        finally:
            del self._writing[upload_id]

    async def _watched(
        self, repository: str, size: int, chunks: AsyncIterator[bytes]
    ) -> AsyncIterator[bytes]:
        """Ask the gate again now and then: how much comes is often not known before."""
        asked = size
        async for chunk in chunks:
            size += len(chunk)
            if size - asked >= ASK_BYTES:
                self._context.gate.check_push(repository, size)
                asked = size
            yield chunk

    async def finish(self, repository: str, upload_id: str, digest: str, actor: Actor) -> int:
        """The upload is a blob of the repository; its size.

        Raises UploadUnknown, DigestInvalid, QuotaExceeded: after the last two the upload is gone.
        """
        index, storage = self._context.index, self._context.storage
        async with self._turn(repository, upload_id), self._context.digests.hold(digest):
            size = await self.size(repository, upload_id)
            try:
                if index.blobs.find_link(repository, digest) is None:
                    self._context.gate.check_push(repository, size)
                size = await storage.finish(upload_id, digest)
            except (DigestInvalid, QuotaExceeded):
                await self._drop(upload_id)
                raise
            crash_point("registry.upload.stored")
            with self._context.change():
                self._blobs.adopt(repository, digest, size)
                index.uploads.delete(upload_id)
            crash_point("registry.upload.linked")
        self._context.tell("push", "blob", repository, actor, digest=digest, size_bytes=size)
        return size

    async def cancel(self, repository: str, upload_id: str) -> None:
        """Raises UploadUnknown."""
        async with self._turn(repository, upload_id):
            await self._drop(upload_id)

    async def receive(
        self,
        repository: str,
        digest: str,
        chunks: AsyncIterator[bytes],
        actor: Actor,
        length: int | None = None,
    ) -> int:
        """A blob in one go; its size. Nothing of it is left when it fails. Raises as the steps do."""
        upload_id = await self.start(repository, algorithm_of(digest))
        try:
            await self.append(repository, upload_id, 0, chunks, length)
            return await self.finish(repository, upload_id, digest, actor)
        except BaseException:
            await self._drop(upload_id)
            raise

    async def keep_copy(self, repository: str, digest: str, chunks: AsyncIterator[bytes]) -> int:
        """Store a blob that another registry has; its size. No rule of this one concerns it.

        Raises DigestInvalid and whatever ``chunks`` raises; nothing is left then.
        """
        storage = self._context.storage
        upload_id = new_upload_id()
        await storage.start_upload(upload_id, algorithm_of(digest))
        try:
            await storage.append(upload_id, 0, chunks)
            async with self._context.digests.hold(digest):
                size = await storage.finish(upload_id, digest)
                with self._context.change():
                    self._blobs.adopt(repository, digest, size)
        except BaseException:
            await storage.abort(upload_id)
            raise
        return size

    async def expire(self, upload_id: str) -> bool:
        """Forget an upload nobody goes on with, whatever repository it is for; False: one is sending now."""
        if upload_id in self._writing:
            return False
        async with self._turns.hold(upload_id):
            await self._drop(upload_id)
        return True

    async def _drop(self, upload_id: str) -> None:
        """The bytes first: on a full disk the row can only go when they have gone."""
        await self._context.storage.abort(upload_id)
        self._context.index.uploads.delete(upload_id)

    def _check(self, repository: str, upload_id: str) -> None:
        known = UPLOAD_ID.fullmatch(upload_id) and self._context.index.uploads.find(upload_id) == repository
        if not known:
            raise _unknown(upload_id)

    @asynccontextmanager
    async def _turn(self, repository: str, upload_id: str) -> AsyncIterator[None]:
        """One request at a time. The latest one wins: the one before may hang on a dead connection."""
        self._check(repository, upload_id)
        earlier = self._writing.get(upload_id)
        if earlier is not None:
            earlier.cancel()
        async with self._turns.hold(upload_id):
            self._check(repository, upload_id)
            yield


def _unknown(upload_id: str) -> UploadUnknown:
    return UploadUnknown(f"upload {upload_id[:64]} unknown to registry: start a new one")
