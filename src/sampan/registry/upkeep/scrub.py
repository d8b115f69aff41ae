"""Re-reading every blob, slowly: does its content still have its digest?

A damaged blob is set aside and hidden in every repository, so that clients are told that it is missing, and
the next push of it repairs them all. A whole pass of a large registry takes days at the default rate; where
it stands is kept in memory only, and a pass that was interrupted begins anew.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable

import msgspec

from sampan.base.errors import Conflict, SampanError
from sampan.model.registry import BlobInfo

from ..errors import BlobUnknown
from ..service import Registry

log = logging.getLogger(__name__)
_PAGE = 100
_HASHED_BYTES = 1 << 20
"""Bytes that are handed to a thread at once."""
_DAMAGED_NAMED = 1000
"""Digests a report names at most."""


class ScrubSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[scrub]`` of the settings file."""

    interval_s: int = 7 * 24 * 3600
    """Between the starts of two passes; 0: only on demand."""
    bytes_per_s: int = 20 << 20
    """How fast it reads; 0: as fast as it can."""


class Damaged(msgspec.Struct, frozen=True, kw_only=True):
    """A blob whose content is not what it was."""

    digest: str
    reason: str
    repositories: list[str]
    """In which it is missing now, until it is pushed again."""


class ScrubReport(msgspec.Struct, kw_only=True):
    """What a pass has done so far."""

    started_ns: int = 0
    finished_ns: int = 0
    """0: it goes on, or it failed."""
    error: str = ""
    blobs: int = 0
    bytes: int = 0
    total_blobs: int = 0
    """Of the index, when the pass began."""
    total_bytes: int = 0
    unreadable: int = 0
    """Blobs that the storage failed to give: nothing is known of them."""
    damaged: list[Damaged] = []
    """The first 1000."""
    damaged_blobs: int = 0


class ScrubRunning(Conflict):
    """One pass at a time."""


class Scrub:
    def __init__(
        self,
        registry: Registry,
        settings: ScrubSettings,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.last = ScrubReport()
        """The present pass, or the one before."""
        self._registry = registry
        self._sleep = sleep
        self._clock = clock
        self._running = False
        self._began_s = 0.0

    @property
    def is_running(self) -> bool:
        return self._running

    def reload(self, settings: ScrubSettings) -> None:
        """The rate at once, the interval from the next pass on."""
        self.settings = settings

    async def run(self) -> ScrubReport:
        """One pass over all blobs. Raises ScrubRunning, and what the index or the storage raises."""
        if self._running:
            raise ScrubRunning("a scrub is running: ask for its status")
        self._running = True
        blobs, size = self._registry.index.blobs.totals()
        now_ns = self._registry.context.now_ns
        self.last = report = ScrubReport(started_ns=now_ns(), total_blobs=blobs, total_bytes=size)
        try:
            after, self._began_s = "", self._clock()
            while page := self._registry.index.blobs.page(after, _PAGE):
                after = page[-1].digest
                for blob in page:
                    await self._check(report, blob)
            report.finished_ns = now_ns()
        except BaseException as error:
            report.error = error.message if isinstance(error, SampanError) else repr(error)
            raise
        finally:
            self._running = False
        log.info("scrub: %d blobs, %d bytes, %d damaged", report.blobs, report.bytes, report.damaged_blobs)
        return report

    async def _check(self, report: ScrubReport, blob: BlobInfo) -> None:
        reason = await self._fault_of(report, blob, paced=True)
        report.blobs += 1
        if not reason:
            return
        context = self._registry.context
        async with context.digests.hold(blob.digest):
            # under the lock of those who store it: it may be another one, or gone, by now
            if context.index.blobs.find(blob.digest) is None:
                return
            reason = await self._fault_of(report, blob, paced=False)
            if not reason:
                return
            repositories = context.index.blobs.repositories_with(blob.digest)
            with context.index.transaction():
                context.index.blobs.set_damaged(blob.digest)
            await context.storage.set_aside(blob.digest)
        log.error(
            "scrub: blob %s is damaged (%s) and set aside: push it again to %s",
            blob.digest,
            reason,
            ", ".join(repositories) or "any repository",
        )
        report.damaged_blobs += 1
        if len(report.damaged) < _DAMAGED_NAMED:
            report.damaged.append(Damaged(digest=blob.digest, reason=reason, repositories=repositories))

    async def _fault_of(self, report: ScrubReport, blob: BlobInfo, *, paced: bool) -> str:
        """What is wrong with a blob; "" when nothing is, or nothing is known. ``paced``: at the set rate."""
        algorithm = blob.digest.partition(":")[0]
        hashed = hashlib.new(algorithm)
        size, held = 0, bytearray()
        try:
            async for piece in self._registry.storage.read(blob.digest):
                size += len(piece)
                report.bytes += len(piece)
                held += piece
                if len(held) >= _HASHED_BYTES:
                    await asyncio.to_thread(hashed.update, bytes(held))
                    held.clear()
                    if paced:
                        await self._keep_rate(report)
        except BlobUnknown:
            return "missing" if self._registry.index.blobs.find(blob.digest) is not None else ""
        except SampanError as error:
            log.warning("scrub: %s cannot be read: %s", blob.digest, error.message)
            report.unreadable += 1
            return ""
        if paced:
            await self._keep_rate(report)
        hashed.update(held)
        if size != blob.size_bytes:
            return f"{size} bytes instead of {blob.size_bytes}"
        return "" if f"{algorithm}:{hashed.hexdigest()}" == blob.digest else "other content"

    async def _keep_rate(self, report: ScrubReport) -> None:
        rate = self.settings.bytes_per_s
        ahead_s = report.bytes / rate - (self._clock() - self._began_s) if rate else 0.0
        await self._sleep(max(ahead_s, 0.0))
