"""Online garbage collection: pushes and pulls go on meanwhile.

A run goes through uploads, manifests, links, blobs and, once a day, the storage itself. Each step looks at a
window of rows, decides (``garbage_rules``) and changes rows in one transaction without awaiting, so that
nothing can come between a decision and its effect. Then it lets everybody else run.

A blob's bytes go in three steps: its row is marked (durable; nothing links a marked blob), the bytes are
deleted under the digest's lock, which the end of a push of the same digest holds too, and the row goes if it
is still marked. A push in between stores the bytes again and takes the mark away. A crash leaves marked rows
or bytes without a row, which the next run removes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec

from sampan.base.crashpoints import crash_point
from sampan.base.errors import Conflict, SampanError
from sampan.model.registry import Actor, UploadInfo

from ..service import Registry
from .garbage_rules import (
    GarbageSettings,
    blob_goes,
    is_receiving,
    link_goes,
    manifest_goes,
    stray_goes,
    upload_goes,
)

log = logging.getLogger(__name__)
ACTOR = Actor(name="garbage collector")
"""In events about what the collector removed."""


class GarbageReport(msgspec.Struct, kw_only=True):
    """What a run has done so far."""

    started_ns: int = 0
    finished_ns: int = 0
    """0: it goes on, or it failed."""
    error: str = ""
    step: str = ""
    """What it is doing: uploads, cache, manifests, links, blobs, strays."""
    uploads: int = 0
    evicted: int = 0
    """Manifests of caches, to keep their limits."""
    manifests: int = 0
    links: int = 0
    blobs: int = 0
    strays: int = 0
    """Blobs of the storage without a row."""
    strays_kept: int = 0
    """Those that are older than the index: run with ``everything`` to remove them."""
    failures: int = 0
    """Blobs that could not be deleted; the next run tries again."""
    repositories: int = 0
    freed_bytes: int = 0
    cpu_s: float = 0.0
    """Of the process, while the run lasted: what was served meanwhile counts too."""


class GarbageRunning(Conflict):
    """One run at a time."""


class Evictor(Protocol):
    """Makes room in what can be fetched again (``sampan.registry.upstreams``)."""

    async def evict(self) -> int:
        """Manifests removed."""


class Garbage:
    """``garbage.run()`` on demand; ``sampan.registry.upkeep.schedule`` runs it at its interval."""

    def __init__(self, registry: Registry, settings: GarbageSettings, evictor: Evictor | None = None) -> None:
        self.settings = settings
        self.last = GarbageReport()
        """The present run, or the one before."""
        self._registry = registry
        self._index = registry.index
        self._context = registry.context
        self._evictor = evictor
        self._running = False
        self._searched_s: float | None = None

    @property
    def is_running(self) -> bool:
        return self._running

    def reload(self, settings: GarbageSettings) -> None:
        """From the next run on."""
        self.settings = settings

    async def run(self, *, everything: bool = False) -> GarbageReport:
        """One whole run. ``everything``: also blobs the index has never known of, see ``stray_goes``.

        Raises GarbageRunning, and what the index or the storage raises; ``last`` says how far it came.
        """
        if self._running:
            raise GarbageRunning(f"garbage collection is running ({self.last.step}): ask for its status")
        self._running = True
        cpu_s = time.process_time()
        self.last = report = GarbageReport(started_ns=self._context.now_ns())
        try:
            await self._run(report, everything)
            report.finished_ns = self._context.now_ns()
        except BaseException as error:
            report.error = error.message if isinstance(error, SampanError) else repr(error)
            raise
        finally:
            report.step = ""
            report.cpu_s = time.process_time() - cpu_s
            self._running = False
        log.info(
            "garbage: %d manifests, %d links, %d blobs, %d uploads, %d bytes freed",
            report.manifests + report.evicted,
            report.links,
            report.blobs + report.strays,
            report.uploads,
            report.freed_bytes,
        )
        return report

    async def _run(self, report: GarbageReport, everything: bool) -> None:
        report.step = "uploads"
        receiving = await self._uploads(report)
        if self._evictor is not None:
            report.step = "cache"
            report.evicted = await self._evictor.evict()
        report.step = "manifests"
        # what an index needed can go when the index has gone
        while self.settings.untagged_s is not None and await self._manifests(report):
            pass
        report.step = "links"
        await self._links(report, receiving)
        report.step = "blobs"
        await self._blobs(report)
        now_s = time.monotonic()
        if (
            everything
            or self._searched_s is None
            or now_s - self._searched_s >= self.settings.strays_interval_s
        ):
            report.step = "strays"
            await self._strays(report, everything)
            self._searched_s = now_s
        before_ns = self._context.now_ns() - self.settings.grace_s * 1_000_000_000
        report.repositories = self._index.repositories.delete_empty(before_ns)

    async def _uploads(self, report: GarbageReport) -> frozenset[str]:
        """Remove what nobody goes on with; the repositories with uploads somebody does go on with."""
        now_ns = self._context.now_ns()
        known: set[str] = set()
        receiving: set[str] = set()
        stale: list[UploadInfo] = []
        async for upload in self._context.storage.uploads():
            known.add(upload.id)
            if upload_goes(upload, self.settings, now_ns):
                stale.append(upload)
            elif is_receiving(upload, self.settings, now_ns):
                name = self._index.uploads.find(upload.id)
                receiving |= {name} if name is not None else set()
        for upload in stale:
            if await self._registry.uploads.expire(upload.id):
                report.uploads += 1
                report.freed_bytes += upload.size_bytes
        # rows whose bytes are gone, which a restored snapshot of the index has
        before_ns = now_ns - self.settings.upload_life_s * 1_000_000_000
        for upload_id in self._index.uploads.started_before(before_ns, self.settings.batch):
            if upload_id not in known and await self._registry.uploads.expire(upload_id):
                report.uploads += 1
        return frozenset(receiving)

    async def _manifests(self, report: GarbageReport) -> bool:
        """Whether any went."""
        after, found = 0, False
        while window := self._index.garbage.manifests(after, self.settings.batch):
            after = window[-1].number
            now_ns = self._context.now_ns()
            gone = [
                one
                for one in window
                if manifest_goes(one, self.settings, now_ns)
                and not self._context.upstreams.serves(one.repository)
            ]
            if gone:
                with self._index.transaction():
                    self._index.garbage.delete_manifests([one.number for one in gone])
                for one in gone:
                    self._context.tell(
                        "delete",
                        "manifest",
                        one.repository,
                        ACTOR,
                        digest=one.digest,
                        media_type=one.media_type,
                        size_bytes=one.size_bytes,
                    )
                report.manifests += len(gone)
                found = True
            await asyncio.sleep(0)
        return found

    async def _links(self, report: GarbageReport, receiving: frozenset[str]) -> None:
        after = (0, "")
        while window := self._index.garbage.links(after, self.settings.batch):
            after = (window[-1].repository, window[-1].digest)
            now_ns = self._context.now_ns()
            gone = [one for one in window if link_goes(one, self.settings, now_ns, receiving)]
            if gone:
                with self._index.transaction():
                    self._index.garbage.unlink(gone)
                report.links += len(gone)
            await asyncio.sleep(0)

    async def _blobs(self, report: GarbageReport) -> None:
        after = ""
        while window := self._index.garbage.blobs(after, self.settings.batch):
            after = window[-1].digest
            now_ns = self._context.now_ns()
            marked = [one.digest for one in window if blob_goes(one, self.settings, now_ns)]
            if marked:
                with self._index.transaction():
                    self._index.garbage.mark(marked)
                crash_point("registry.garbage.marked")
                gone = await self._delete_bytes(report, marked, self._delete_marked)
                with self._index.transaction():
                    self._index.garbage.forget(gone)
                report.blobs += len(gone)
            await asyncio.sleep(0)

    async def _delete_bytes(
        self, report: GarbageReport, digests: list[str], delete: Callable[[str], Awaitable[int | None]]
    ) -> list[str]:
        """Those whose bytes are gone."""
        places = asyncio.Semaphore(self.settings.deletions_at_once)
        gone: list[str] = []

        async def remove(digest: str) -> None:
            async with places:
                try:
                    freed = await delete(digest)
                except SampanError as error:
                    log.warning("garbage: %s stays: %s", digest, error.message)
                    report.failures += 1
                    return
            if freed is not None:
                report.freed_bytes += freed
                gone.append(digest)

        async with asyncio.TaskGroup() as group:
            for digest in digests:
                group.create_task(remove(digest))
        return gone

    async def _delete_marked(self, digest: str) -> int | None:
        async with self._context.digests.hold(digest):
            if not self._index.garbage.is_marked(digest):
                return None  # pushed again since
            freed = await self._context.storage.delete(digest)
            crash_point("registry.garbage.deleted")
            return freed

    async def _strays(self, report: GarbageReport, everything: bool) -> None:
        oldest_ns = self._index.garbage.oldest_repository_ns()
        window: list[str] = []
        kept: list[str] = []
        async for blob in self._context.storage.digests():
            now_ns = self._context.now_ns()
            if stray_goes(blob, self.settings, now_ns, oldest_ns, everything=everything):
                window.append(blob.digest)
            elif stray_goes(blob, self.settings, now_ns, oldest_ns, everything=True):
                kept.append(blob.digest)
            if len(window) + len(kept) >= self.settings.batch:
                await self._delete_strays(report, window, kept)
                window, kept = [], []
        await self._delete_strays(report, window, kept)
        if report.strays_kept:
            log.warning(
                "garbage: %d blobs are older than the registry's database and unknown to it: they stay",
                report.strays_kept,
            )

    async def _delete_strays(self, report: GarbageReport, window: list[str], kept: list[str]) -> None:
        report.strays_kept += len(self._index.garbage.unknown(kept))
        gone = await self._delete_bytes(report, self._index.garbage.unknown(window), self._delete_stray)
        report.strays += len(gone)
        await asyncio.sleep(0)

    async def _delete_stray(self, digest: str) -> int | None:
        async with self._context.digests.hold(digest):
            if not self._index.garbage.unknown([digest]):
                return None  # pushed meanwhile
            return await self._context.storage.delete(digest)
