"""Send blobs to a registry: what is there already is not sent, what a neighbour has is mounted."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence

from sampan.content.blobs import BlobStore
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
    def __init__(self, blobs: BlobStore, *, limit: int, attempts: int) -> None:
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
        size = self._blobs.require(blob.digest).size
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
        fd = self._blobs.open(digest)

        async def read(offset: int, length: int) -> AsyncIterator[bytes]:
            end = offset + length
            while offset < end:
                chunk = await asyncio.to_thread(os.pread, fd, min(_CHUNK, end - offset), offset)
                if not chunk:
                    break
                offset += len(chunk)
                yield chunk
                if shown:
                    meter(offset, size)

        try:
            await repository.upload(location, digest, size, read)
        finally:
            os.close(fd)
