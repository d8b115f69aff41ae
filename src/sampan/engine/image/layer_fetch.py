"""The layers of one pull: fetched a few at a time, unpacked as they arrive, out of sight until all are in."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence

from sampan.base.errors import InvalidArgument, SampanError
from sampan.content.compression import file_source
from sampan.content.images import ImageStore
from sampan.content.layers import StagedLayer
from sampan.content.streams import Workers
from sampan.model.image import Descriptor
from sampan.transfer.downloads import Downloads
from sampan.transfer.repository import Repository

from .progress import Meter, Say, status


class LayerFetch:
    """The layers of one pull: what was fetched, and what was unpacked, out of sight so far."""

    def __init__(
        self,
        store: ImageStore,
        downloads: Downloads,
        workers: Workers,
        repositories: Sequence[Repository],
        say: Say,
    ) -> None:
        self.paths: dict[str, str] = {}
        """Verified files by digest."""
        self._staged: dict[int, StagedLayer] = {}
        self._store = store
        self._downloads = downloads
        self._workers = workers
        self._repositories = repositories
        self._say = say

    def take_staged(self) -> dict[int, StagedLayer]:
        """By place; the caller publishes or discards them."""
        staged, self._staged = self._staged, {}
        return staged

    async def fetch_all(self, layers: list[Descriptor], diff_ids: list[str], chains: list[str]) -> None:
        """Raises what the first layer that fails raises; nothing is staged then."""
        work = []
        for place, layer in enumerate(layers):
            known = self._store.layer(chains[place]) is not None
            if known and self._store.blobs.find(layer.digest) is not None:
                self._say(status("Already exists", _short(layer)))
                continue
            self._say(status("Pulling fs layer", _short(layer)))
            work.append(self._layer(place, layer, "" if known else diff_ids[place]))
        try:
            async with asyncio.TaskGroup() as group:
                for one in work:
                    group.create_task(one)
        except BaseException as error:
            for staged in self.take_staged().values():
                await self._workers.run(lambda staged=staged: self._store.layers.discard(staged))  # type: ignore[misc]
            if isinstance(error, BaseExceptionGroup):
                raise _single(error) from None
            raise

    async def _layer(self, place: int, layer: Descriptor, diff_id: str) -> None:
        """Fetch one, and unpack it unless ``diff_id`` is empty."""
        name = _short(layer)
        if self._store.blobs.find(layer.digest) is None:
            meter = Meter(self._say, "Downloading", name)
            self.paths[layer.digest] = await self._downloads.fetch(
                layer.digest, layer.size, self._repositories, meter
            )
            self._say(status("Verifying Checksum", name))
        self._say(status("Download complete", name))
        if diff_id:
            await self._stage(place, layer, diff_id, name)
        self._say(status("Pull complete", name))

    async def _stage(self, place: int, layer: Descriptor, diff_id: str, name: str) -> None:
        meter = Meter(self._say, "Extracting", name)
        loop = asyncio.get_running_loop()

        def stage() -> None:
            fd = self._open(layer.digest)
            try:
                plain = file_source(fd)
                done = 0

                def read() -> bytes:
                    nonlocal done
                    chunk = plain()
                    done += len(chunk)
                    if chunk:
                        loop.call_soon_threadsafe(meter, done, layer.size)
                    return chunk

                self._staged[place] = self._store.layers.stage(read, diff_id, trusted=layer.digest == diff_id)
            finally:
                os.close(fd)

        try:
            await self._workers.run(stage)
        except InvalidArgument:
            # fetching the same bytes again would not make a layer of them
            if self.paths.pop(layer.digest, None) is not None:
                self._downloads.drop(layer.digest)
            raise

    def _open(self, digest: str) -> int:
        """The file that was fetched, or the blob that another pull has made of it meanwhile."""
        path = self.paths.get(digest)
        if path is not None:
            with contextlib.suppress(FileNotFoundError):
                return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        return self._store.blobs.open(digest)


def _short(layer: Descriptor) -> str:
    return layer.digest.removeprefix("sha256:")[:12]


def _single(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error that says something."""
    flat = [_single(one) if isinstance(one, BaseExceptionGroup) else one for one in group.exceptions]
    return next((error for error in flat if isinstance(error, SampanError)), flat[0])
