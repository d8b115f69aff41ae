"""The layers of pulls: downloaded, checked and unpacked at the same time, each once however many want it.

A layer is unpacked from the file that its download is still writing. The unpacker comes to the end of that
file only when the digest has been verified, and what it unpacked stays out of sight until the image is put
together, so bytes that are wrong never become part of anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from sampan.base.crashpoints import crash_point
from sampan.base.errors import Cancelled, InvalidArgument, SampanError
from sampan.base.slots import Slots
from sampan.content.compression import Read
from sampan.content.images import ImageStore
from sampan.content.layer_blobs import is_spare
from sampan.content.layers import StagedLayer
from sampan.content.streams import Workers
from sampan.model.image import Descriptor
from sampan.model.progress import ProgressMessage
from sampan.store.images import LayerRecord
from sampan.transfer.downloads import Download, Downloads
from sampan.transfer.partial_file import BytesReplaced, PartialFile
from sampan.transfer.repository import Repository

from .progress import Meter, Say, status

log = logging.getLogger(__name__)


class WantedLayer(msgspec.Struct, frozen=True, kw_only=True):
    blob: Descriptor
    diff_id: str
    chain_id: str


class FetchedLayers(msgspec.Struct, frozen=True, kw_only=True):
    """What was fetched for one pull; it stays as long as the pull's ``async with`` lasts."""

    paths: dict[str, str]
    """Verified files by digest."""
    staged: dict[int, StagedLayer]
    """Unpacked layers by their place from the bottom. Another pull may share one: publish, never discard."""


class _Job:
    """One layer on its way, and the pulls that want it."""

    def __init__(self, layer: WantedLayer, unpacked: bool) -> None:
        self.blob = layer.blob
        self.diff_id = layer.diff_id
        self.unpacked = unpacked
        """Whether it has to be unpacked, or its bytes alone are wanted."""
        self.name = short(layer.blob)
        self.path = ""
        self.staged: StagedLayer | None = None
        self.pulls: list[Say] = []
        self.task: asyncio.Task[None]
        self._said: list[ProgressMessage] = []
        self._extracting = Meter(self._say, "Extracting", self.name)
        self._extracted = 0
        self._downloaded = False

    def join(self, say: Say) -> None:
        """A pull that comes later is told what the others have been told: each step, and how far the present
        one is."""
        for message in self._said:
            say(message)
        self.pulls.append(say)

    def _say(self, message: ProgressMessage) -> None:
        if self._said and self._said[-1].progress:
            self._said.pop()
        self._said.append(message)
        for say in self.pulls:
            say(message)

    def step(self, text: str) -> None:
        self._say(status(text, self.name))

    def downloaded(self) -> None:
        """From here on the unpacking is shown, which may have come far by now."""
        self.step("Download complete")
        self._downloaded = True
        if self._extracted:
            self._extracting(self._extracted, self.blob.size)

    def extracted(self, done: int) -> None:
        self._extracted = done
        if self._downloaded:
            self._extracting(done, self.blob.size)

    # a listener of sampan.transfer.downloads

    def waiting(self) -> None:
        self.step("Waiting")

    def retrying(self, seconds: int) -> None:
        self.step(f"Retrying in {seconds} second{'s' if seconds > 1 else ''}")

    @functools.cached_property
    def progress(self) -> Meter:
        return Meter(self._say, "Downloading", self.name)


_Key = tuple[str, str]
"""Digest of the blob, and chain id or "" when the layer itself is here."""


class LayerFetch:
    """What all pulls share."""

    def __init__(self, store: ImageStore, downloads: Downloads, workers: Workers) -> None:
        self._store = store
        self._downloads = downloads
        self._workers = workers
        self._jobs: dict[_Key, _Job] = {}
        self._unpacking = Slots(1)

    @contextlib.asynccontextmanager
    async def fetched(
        self, layers: Sequence[WantedLayer], repositories: Sequence[Repository], say: Say
    ) -> AsyncIterator[FetchedLayers]:
        """All layers of an image, fetched and unpacked as far as they are not here.

        Raises what the first layer that fails raises: as :meth:`Downloads.joined` and unpacking do.
        """
        places: dict[int, _Key] = {}
        for place, layer in enumerate(layers):
            record = self._store.layer(layer.chain_id)
            known = record is not None
            if known and self._has_blob(record, layer.blob.digest):
                say(status("Already exists", short(layer.blob)))
                continue
            say(status("Pulling fs layer", short(layer.blob)))
            places[place] = (layer.blob.digest, "" if known else layer.chain_id)
        wanted = {key: layers[place] for place, key in places.items()}
        self._require_space(wanted)
        jobs: dict[_Key, _Job] = {}
        try:
            await _together(self._join(key, layer, repositories, say, jobs) for key, layer in wanted.items())
            yield FetchedLayers(
                paths={job.blob.digest: job.path for job in jobs.values() if job.path},
                staged={
                    place: staged for place, key in places.items() if (staged := jobs[key].staged) is not None
                },
            )
        finally:
            leaving = [asyncio.ensure_future(self._leave(key, job, say)) for key, job in jobs.items()]
            if leaving:
                await asyncio.wait(leaving)

    def _require_space(self, wanted: Mapping[_Key, WantedLayer]) -> None:
        """What is to be fetched has to fit, and unpacked it is as large at least. Raises DiskFull."""
        sizes = {blob: layer.blob.size for (blob, _), layer in wanted.items()}
        missing = sum(max(size - self._downloads.size(blob), 0) for blob, size in sizes.items())
        unpacked = sum(layer.blob.size for (_, chain), layer in wanted.items() if chain)
        self._store.layers.space.require(missing + unpacked, "pull")

    def _has_blob(self, record: LayerRecord | None, digest: str) -> bool:
        """Whether it is here, or is not needed beside the layer."""
        return (
            is_spare(record, digest, self._store.layers.policy)
            or self._store.layer_blobs.find(digest) is not None
        )

    async def _join(
        self,
        key: _Key,
        layer: WantedLayer,
        repositories: Sequence[Repository],
        say: Say,
        jobs: dict[_Key, _Job],
    ) -> None:
        """One layer; ``jobs`` has it until it is left."""
        while True:
            while (job := self._jobs.get(key)) is not None and not job.pulls:
                # the last who wanted it is leaving just now
                await asyncio.wait([job.task])
                await asyncio.sleep(0)
            shared = job is not None
            if job is None:
                job = self._jobs[key] = _Job(layer, unpacked=bool(key[1]))
                job.task = asyncio.ensure_future(self._run(key, job, repositories))
            job.join(say)
            jobs[key] = job
            try:
                return await asyncio.shield(job.task)
            except SampanError as error:
                # it failed with somebody else's address or credentials; ours may do
                if not shared:
                    raise
                log.info("layer %s that was shared failed: %s", job.name, error.message)
            del jobs[key]
            await self._leave(key, job, say)

    async def _leave(self, key: _Key, job: _Job, say: Say) -> None:
        job.pulls.remove(say)
        if job.pulls:
            return
        job.task.cancel()
        await asyncio.wait([job.task])
        if self._jobs.get(key) is job:
            del self._jobs[key]
        if not job.task.cancelled():
            job.task.exception()  # seen: whoever waited has been told
        staged, job.staged = job.staged, None
        if staged is not None:
            # of one that was published meanwhile nothing is left there
            await self._workers.run(lambda: self._store.layers.discard(staged))

    async def _run(self, key: _Key, job: _Job, repositories: Sequence[Repository]) -> None:
        try:
            if self._store.layer_blobs.find(job.blob.digest) is not None:
                job.downloaded()
                if job.unpacked:
                    await self._unpack_blob(job)
            else:
                while not job.path:
                    await self._download(job, repositories)
            job.step("Pull complete")
        except SampanError:
            # who comes now begins anew
            del self._jobs[key]
            raise

    # fetching

    async def _download(self, job: _Job, repositories: Sequence[Repository]) -> None:
        """Fetch and unpack side by side; nothing is done when a download that another layer began fails."""
        blob = job.blob
        async with self._downloads.joined(blob.digest, blob.size, repositories, job) as download:
            try:
                file = await download.opened()
                work = [self._finish(job, download)]
                if job.unpacked:
                    work.append(self._unpack(job, download, file))
                await _together(work)
                job.path = file.path
            except SampanError as error:
                if not (download.joined and download.failed):
                    raise
                log.info("download of %s that was shared failed: %s", job.name, error.message)

    @staticmethod
    async def _finish(job: _Job, download: Download) -> None:
        await download.finished()
        job.step("Verifying Checksum")
        job.downloaded()

    async def _unpack(self, job: _Job, download: Download, file: PartialFile) -> None:
        while True:
            reader = file.reader()
            try:
                return await self._stage(job, reader.read, reader.cancel)
            except BytesReplaced as error:
                log.info("layer %s: %s", job.name, error.message)
            except (InvalidArgument, Cancelled):
                # first of all its bytes have to be the right ones, which the download knows
                await download.finished()
                if file.version == reader.version:
                    # fetching the same bytes again would not make a layer of them
                    self._downloads.drop(job.blob.digest)
                    raise

    async def _unpack_blob(self, job: _Job) -> None:
        with self._store.layer_blobs.open(job.blob.digest) as reader:
            await self._stage(job, reader.read, lambda: None)

    async def _stage(self, job: _Job, source: Read, cancel: Callable[[], None]) -> None:
        """In a thread, which has ended when this returns; what it staged is the job's."""
        loop = asyncio.get_running_loop()
        done = 0

        def read() -> bytes:
            nonlocal done
            chunk = source()
            done += len(chunk)
            if chunk:
                loop.call_soon_threadsafe(job.extracted, done)
            return chunk

        def stage() -> None:
            trusted = job.blob.digest == job.diff_id
            job.staged = self._store.layers.stage(read, job.diff_id, trusted=trusted)
            crash_point("pull.unpack.staged")

        # those that wait for the network leave room for those that do not
        self._unpacking.resize(self._downloads.slots.limit + (os.cpu_count() or 1))
        async with self._unpacking:
            work = asyncio.ensure_future(self._workers.run(stage))
            try:
                await asyncio.shield(work)
            except asyncio.CancelledError:
                cancel()
                await asyncio.wait([work])
                if not work.cancelled():
                    work.exception()  # seen: that it was broken off
                raise


def short(blob: Descriptor) -> str:
    """As clients show a layer."""
    return blob.digest.removeprefix("sha256:")[:12]


async def _together(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """All at once; the first that fails ends the others, and its error is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            for one in work:
                group.create_task(one)
    except BaseExceptionGroup as errors:
        raise _single(errors) from None


def _single(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error that says something."""
    flat = [_single(one) if isinstance(one, BaseExceptionGroup) else one for one in group.exceptions]
    return next((error for error in flat if isinstance(error, SampanError)), flat[0])
