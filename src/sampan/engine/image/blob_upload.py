"""Send blobs to a registry: what is there already is not sent, what a neighbour has is mounted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

from sampan.content.layer_blobs import LayerBlobs
from sampan.model.image import Descriptor
from sampan.transfer.errors import RegistryRefused, RegistryUnreachable
from sampan.transfer.repository import Repository
from sampan.transfer.retries import is_passing, pause_s

from .progress import Meter, Say, status

Sources = Callable[[], dict[str, str]]
"""Layer digest -> another repository of the same registry that is known to have had it."""

_CHUNK = 1 << 20
_FIRST_WAIT_S = 1.0


class BlobUpload:
    def __init__(self, blobs: LayerBlobs, *, limit: int, attempts: int) -> None:
        self._blobs = blobs
        self._limit = max(limit, 1)
        self._attempts = max(attempts, 1)

    async def layers(
        self,
        say: Say,
        repository: Repository,
        layers: Sequence[tuple[Descriptor, str]],
        sources: Sources,
    ) -> None:
        """Layers with their diff ids, lowest first: each blob once, top layer first as Docker shows them."""
        shown_as: dict[str, tuple[Descriptor, str]] = {}
        for layer, diff_id in layers:
            shown_as.setdefault(layer.digest, (layer, diff_id.removeprefix("sha256:")[:12]))
        ordered = list(reversed(shown_as.values()))
        for _, shown in ordered:
            say(status("Preparing", shown))
        slots = asyncio.Semaphore(self._limit)

        async def send(layer: Descriptor, shown: str) -> None:
            async with slots:
                await self._layer(say, repository, sources, layer, shown)

        tasks = [asyncio.ensure_future(send(layer, shown)) for layer, shown in ordered]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)

    async def config(self, say: Say, repository: Repository, config: Descriptor) -> None:
        """A blob that is no layer: nothing is shown of it."""
        if not await repository.has_blob(config.digest):
            await self._upload(say, repository, config, "", "")

    async def _layer(
        self, say: Say, repository: Repository, sources: Sources, layer: Descriptor, shown: str
    ) -> None:
        if await repository.has_blob(layer.digest):
            say(status("Layer already exists", shown))
            return
        await self._upload(say, repository, layer, sources().get(layer.digest, ""), shown)

    async def _upload(
        self, say: Say, repository: Repository, blob: Descriptor, source: str, shown: str
    ) -> None:
        """Mounted from ``source`` if that works, else sent; broken attempts are made again from the start."""
        size = self._blobs.require(blob.digest).size_bytes
        attempt = 0
        while True:
            try:
                location = await repository.start_upload(blob.digest if source else "", source)
                if not location:
                    if shown:
                        say(status(f"Mounted from {source}", shown))
                    return
                await self._send(say, repository, location, blob.digest, size, shown)
                break
            except (RegistryRefused, RegistryUnreachable) as error:
                attempt += 1
                if isinstance(error, RegistryRefused) and source:
                    source = ""  # not ours to read: send it
                    continue
                if not is_passing(error) or attempt >= self._attempts:
                    raise
                await asyncio.sleep(pause_s(error, attempt - 1, _FIRST_WAIT_S))
        if shown:
            say(status("Pushed", shown))

    async def _send(
        self, say: Say, repository: Repository, location: str, digest: str, size: int, shown: str
    ) -> None:
        meter = Meter(say, "Pushing", shown)
        with _Bytes(self._blobs, digest, size) as source:

            async def read(offset: int, length: int) -> AsyncIterator[bytes]:
                end = offset + length
                while offset < end:
                    chunk = await asyncio.to_thread(source.read_at, offset, min(_CHUNK, end - offset))
                    if not chunk:
                        break
                    offset += len(chunk)
                    yield chunk
                    if shown:
                        meter(offset, size)

            await repository.upload(location, digest, size, read)


class _Bytes:
    """A blob's bytes from any place; cheap when each read goes on where the last one ended."""

    def __init__(self, blobs: LayerBlobs, digest: str, size: int) -> None:
        self._blobs = blobs
        self._digest = digest
        self._size = size
        self._reader = blobs.open(digest)
        self._chunk = b""
        self._start = 0

    def __enter__(self) -> _Bytes:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()

    def read_at(self, offset: int, limit: int) -> bytes:
        """At most ``limit`` bytes from there, ``b""`` behind the end. Raises ContentDamaged instead of giving
        the last ones of a blob that is not what it should be."""
        if offset < self._start:
            self._reader.close()
            self._reader = self._blobs.open(self._digest)
            self._chunk, self._start = b"", 0
        while self._start + len(self._chunk) <= offset:
            self._start += len(self._chunk)
            self._chunk = self._reader.read()
            if not self._chunk:
                return b""
        if self._start + len(self._chunk) == self._size:
            self._reader.read()
        place = offset - self._start
        return self._chunk[place : place + limit]
