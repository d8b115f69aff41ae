"""Uploads to an object store: parts as they fill up, the rest beside them, the digest on the way.

Parts can be read only when they are an object, so what was hashed by a process that is gone is hashed
again when the upload is complete; an upload that is sent and finished in one life is hashed once.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import OrderedDict
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from sampan.model.registry import UploadInfo
from sampan.registry.storage.port import UPLOAD_ID

from ..errors import DigestInvalid, RangeInvalid, UploadInvalid, UploadUnknown
from .bucket import Bucket, ObjectMissing, StoredObject
from .multipart import Multiparts, Part

UPLOADS = "uploads/"
_STATE, _DATA, _TAIL = "state", "data", "tail-"
_MAX_PARTS = 10_000
_REMEMBERED = 256
"""Uploads whose digest so far is kept in memory while nothing is sent."""
_TAILS_BYTES = 64 << 20
"""Of unfinished parts that are kept in memory while nothing is sent; all are in the bucket, too."""


class UploadState(msgspec.Struct, frozen=True, kw_only=True):
    """``uploads/<id>/state``."""

    algorithm: str
    multipart: str = ""


class _Upload:
    """What this process knows of an upload. Used under its lock."""

    def __init__(self, upload_id: str, state: UploadState) -> None:
        self.id = upload_id
        self.state = state
        self.parts: list[Part] = []
        self.tail: bytearray | None = bytearray()
        """Bytes after the parts; None: they are in the bucket only."""
        self.tail_bytes = 0
        self.hashed: Any = hashlib.new(state.algorithm)
        """Over the parts; None when another process has sent some."""
        self.complete_bytes: int | None = None
        """Size of ``data``, when the parts have become an object."""
        self.settled = True
        """Whether all this is what the bucket has; else it is read from there again."""
        self.lock = asyncio.Lock()

    @property
    def parts_bytes(self) -> int:
        return sum(part.size_bytes for part in self.parts)

    @property
    def size_bytes(self) -> int:
        return self.parts_bytes + self.tail_bytes if self.complete_bytes is None else self.complete_bytes

    def key(self, name: str) -> str:
        return f"{UPLOADS}{self.id}/{name}"

    @property
    def tail_key(self) -> str:
        return self.key(f"{_TAIL}{self.parts_bytes}")


class S3Uploads:
    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._multiparts = Multiparts(bucket)
        self._known: OrderedDict[str, _Upload] = OrderedDict()

    async def start(self, upload_id: str, algorithm: str) -> None:
        upload = _Upload(upload_id, UploadState(algorithm=algorithm))
        await self._save_state(upload)
        self._remember(upload)

    async def size(self, upload_id: str) -> int | None:
        try:
            upload = await self._require(upload_id)
        except UploadUnknown:
            return None
        return upload.size_bytes

    async def append(self, upload_id: str, offset: int, chunks: AsyncIterator[bytes]) -> int:
        async with self._using(upload_id) as upload:
            if offset != upload.size_bytes:
                raise RangeInvalid(
                    f"upload {upload_id} has {upload.size_bytes} bytes: go on there", upload.size_bytes
                )
            if upload.complete_bytes is not None:
                raise UploadInvalid(f"upload {upload_id} is complete: finish it or begin another one")
            tail = await self._load_tail(upload)
            upload.settled = False
            sending: asyncio.Task[None] | None = None
            try:
                async for chunk in chunks:
                    tail += chunk
                    while len(tail) >= (wanted := self._part_bytes(len(upload.parts) + bool(sending) + 1)):
                        await _ended(sending)
                        part = bytes(tail[:wanted])
                        del tail[:wanted]
                        sending = asyncio.create_task(self._send_part(upload, part))
            finally:
                # also after a broken connection: the client is told how far it got, and goes on there
                await _ended(sending)
                await self._save_tail(upload, tail)
                upload.settled = True
            return upload.size_bytes

    @contextlib.asynccontextmanager
    async def verified(self, upload_id: str, digest: str) -> AsyncIterator[tuple[str | None, bytes, int]]:
        """``(key, b"", size)`` of an object with the content, or ``(None, data, size)`` for a small one.

        Raises DigestInvalid, UploadUnknown.
        """
        async with self._using(upload_id) as upload:
            algorithm = digest.partition(":")[0]
            if upload.complete_bytes is None and not upload.parts:
                data = bytes(await self._load_tail(upload))
                hashed = hashlib.new(algorithm)
                await asyncio.to_thread(hashed.update, data)
                _compare(f"{algorithm}:{hashed.hexdigest()}", digest)
                yield None, data, len(data)
                return
            if upload.complete_bytes is None:
                tail = bytes(await self._load_tail(upload))
                known = upload.hashed is not None and algorithm == upload.state.algorithm
                if known:
                    whole = upload.hashed.copy()
                    await asyncio.to_thread(whole.update, tail)
                    _compare(f"{algorithm}:{whole.hexdigest()}", digest)
                await self._complete(upload, tail)
                if not known:
                    _compare(await self._hash_again(upload, algorithm), digest)
            else:
                _compare(await self._hash_again(upload, algorithm), digest)
            yield upload.key(_DATA), b"", upload.size_bytes

    async def abort(self, upload_id: str) -> None:
        upload = self._known.pop(upload_id, None)
        if upload is not None and upload.settled:
            if upload.state.multipart and upload.complete_bytes is None:
                await self._multiparts.abort(upload.key(_DATA), upload.state.multipart)
            keys = [upload.key(_STATE)]
            keys += [upload.tail_key] if upload.tail_bytes else []
            keys += [] if upload.complete_bytes is None else [upload.key(_DATA)]
        else:
            below = f"{UPLOADS}{upload_id}/"
            for key, multipart, _ in await self._multiparts.all(below):
                await self._multiparts.abort(key, multipart)
            keys = [found.key async for found in self._bucket.objects(below)]
        if keys:
            await self._bucket.delete(keys)

    async def all(self) -> AsyncIterator[UploadInfo]:
        """Also what a crash left without a state."""
        found: dict[str, list[StoredObject]] = {}
        async for item in self._bucket.objects(UPLOADS):
            found.setdefault(item.key.split("/")[1], []).append(item)
        multiparts = {
            key.split("/")[1]: (multipart, started_ns)
            for key, multipart, started_ns in await self._multiparts.all(UPLOADS)
        }
        for upload_id in sorted(found.keys() | multiparts.keys()):
            if not UPLOAD_ID.fullmatch(upload_id):
                continue  # somebody else's
            objects = found.get(upload_id, [])
            multipart, started_ns = multiparts.get(upload_id, ("", 0))
            touched_ns = max([started_ns, *(item.modified_ns for item in objects)])
            size_bytes = sum(item.size_bytes for item in objects if not item.key.endswith(f"/{_STATE}"))
            if multipart:
                with contextlib.suppress(ObjectMissing):
                    parts = await self._multiparts.parts(f"{UPLOADS}{upload_id}/{_DATA}", multipart)
                    size_bytes += sum(part.size_bytes for part in parts)
                    touched_ns = max([touched_ns, *(part.modified_ns for part in parts)])
            yield UploadInfo(id=upload_id, size_bytes=size_bytes, touched_ns=touched_ns)

    # what is known

    @contextlib.asynccontextmanager
    async def _using(self, upload_id: str) -> AsyncIterator[_Upload]:
        """The upload, locked. After an error what is known of it is read from the bucket again."""
        upload = await self._require(upload_id)
        async with upload.lock:
            if self._known.get(upload_id) is not upload:
                # finished, aborted or failed while we waited
                upload = await self._require(upload_id)
            try:
                yield upload
            finally:
                if not upload.settled:
                    self._known.pop(upload_id, None)

    async def _require(self, upload_id: str) -> _Upload:
        found = self._known.get(upload_id)
        if found is not None:
            self._known.move_to_end(upload_id)
            return found
        upload = await self._load(upload_id)
        # another task may have been quicker: all use one
        return self._known.get(upload_id) or self._remember(upload)

    def _remember(self, upload: _Upload) -> _Upload:
        self._known[upload.id] = upload
        while len(self._known) > _REMEMBERED:
            oldest = next(
                (one for one in self._known.values() if one is not upload and not one.lock.locked()), None
            )
            if oldest is None:
                break
            del self._known[oldest.id]
        return upload

    async def _load(self, upload_id: str) -> _Upload:
        """From the bucket. Raises UploadUnknown."""
        below = f"{UPLOADS}{upload_id}/"
        sizes = {
            found.key.removeprefix(below): found.size_bytes async for found in self._bucket.objects(below)
        }
        try:
            state = msgspec.json.decode(await self._bucket.read_all(f"{below}{_STATE}"), type=UploadState)
        except ObjectMissing:
            raise UploadUnknown(f"there is no upload {upload_id}: begin another one") from None
        upload = _Upload(upload_id, state)
        upload.complete_bytes = sizes.get(_DATA)
        if upload.complete_bytes is None and state.multipart:
            with contextlib.suppress(ObjectMissing):
                listed = await self._multiparts.parts(upload.key(_DATA), state.multipart)
                upload.parts = [part for number, part in enumerate(listed, start=1) if part.number == number]
            upload.hashed = None
        upload.tail_bytes = sizes.get(f"{_TAIL}{upload.parts_bytes}", 0)
        if upload.tail_bytes:
            upload.tail = None
        return upload

    async def _save_state(self, upload: _Upload) -> None:
        await self._bucket.put(upload.key(_STATE), msgspec.json.encode(upload.state))

    # parts and what is beyond them

    def _part_bytes(self, number: int) -> int:
        """Larger ones later: 10,000 parts of which the first has 8 MiB are enough for 640 GiB."""
        base = self._bucket.settings.part_size_bytes
        if number > _MAX_PARTS:
            raise UploadInvalid("the blob is larger than an object in 10,000 parts can be")
        return base if number <= 2000 else base * 4 if number <= 6000 else base * 16

    async def _send_part(self, upload: _Upload, data: bytes) -> None:
        if not upload.state.multipart:
            multipart = await self._multiparts.start(upload.key(_DATA))
            upload.state = msgspec.structs.replace(upload.state, multipart=multipart)
            await self._save_state(upload)
        if upload.hashed is not None:
            await asyncio.to_thread(upload.hashed.update, data)
        number = len(upload.parts) + 1
        part = await self._multiparts.put(upload.key(_DATA), upload.state.multipart, number, data)
        stale = upload.tail_key if upload.tail_bytes else ""
        upload.tail_bytes = 0
        upload.parts.append(part)
        if stale:
            await self._bucket.delete([stale])

    async def _load_tail(self, upload: _Upload) -> bytearray:
        if upload.tail is None:
            upload.tail = bytearray(await self._bucket.read_all(upload.tail_key))
        return upload.tail

    async def _save_tail(self, upload: _Upload, tail: bytearray) -> None:
        if tail:
            await self._bucket.put(upload.tail_key, bytes(tail))
        upload.tail_bytes = len(tail)
        held = sum(len(one.tail) for one in self._known.values() if one.tail is not None)
        if held > _TAILS_BYTES and tail:
            upload.tail = None

    async def _complete(self, upload: _Upload, tail: bytes) -> None:
        parts = list(upload.parts)
        if tail:
            number = len(parts) + 1
            parts.append(await self._multiparts.put(upload.key(_DATA), upload.state.multipart, number, tail))
        size_bytes = upload.size_bytes
        upload.settled = False
        await self._multiparts.complete(upload.key(_DATA), upload.state.multipart, parts)
        upload.complete_bytes = size_bytes
        upload.settled = True

    async def _hash_again(self, upload: _Upload, algorithm: str) -> str:
        hashed = hashlib.new(algorithm)
        async for piece in self._bucket.read(upload.key(_DATA)):
            await asyncio.to_thread(hashed.update, piece)
        return f"{algorithm}:{hashed.hexdigest()}"


async def _ended(sending: asyncio.Task[None] | None) -> None:
    """Wait for a part. Our cancellation is not the part's: what has arrived is worth keeping."""
    if sending is not None:
        await asyncio.wait((sending,))
        sending.result()


def _compare(actual: str, digest: str) -> None:
    if actual != digest:
        raise DigestInvalid(f"the content has the digest {actual}, not {digest}")
