"""Blobs on their way in: a few at a time, each once however many want it, resumed where they broke off.

A blob is written to ``<folder>/<hex>`` as it comes. What a cut connection, a cancelled pull or a killed
daemon leaves there is hashed and continued by the next download of the same digest. When it is whole and
verified, it stays until somebody takes it, so that a pull that fails at its last layer need not fetch the
others again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from typing import Protocol, TypeVar, TypeVarTuple, Unpack

from sampan.base.crashpoints import crash_point
from sampan.base.slots import Slots

from .errors import (
    RANGE_NOT_SATISFIABLE,
    ContentMismatch,
    RegistryRefused,
    RegistryUnreachable,
    TooSlow,
)
from .partial_file import PartialFile
from .repository import BlobStream
from .retries import is_passing, pause_s

log = logging.getLogger(__name__)

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

_BATCH = 512 << 10
_MOST_PENDING = 8 << 20
_KEPT_S = 7 * 24 * 3600


class Source(Protocol):
    """Somewhere a blob can be had: a repository at one address."""

    def blob(self, digest: str, offset: int = 0) -> contextlib.AbstractAsyncContextManager[BlobStream]: ...


class Listener(Protocol):
    """What those who wait for a blob are told, on the event loop."""

    def waiting(self) -> None:
        """Others are being fetched; it has not begun."""

    def progress(self, done: int, total: int) -> None:
        """Bytes that are here and bytes in all."""

    def retrying(self, seconds: int) -> None:
        """It broke off and is tried again after a pause."""


class _Job:
    """One download and those who wait for it."""

    def __init__(self) -> None:
        self.listeners: list[Listener] = []
        self.file: PartialFile | None = None
        self.opened = asyncio.Event()
        self.task: asyncio.Task[str]

    def open(self, file: PartialFile) -> None:
        self.file = file
        self.opened.set()

    def waiting(self) -> None:
        for listener in self.listeners:
            listener.waiting()

    def progress(self, done: int, total: int) -> None:
        for listener in self.listeners:
            listener.progress(done, total)

    def retrying(self, seconds: int) -> None:
        for listener in self.listeners:
            listener.retrying(seconds)


class Download:
    """One's part in a download."""

    def __init__(self, job: _Job, joined: bool) -> None:
        self._job = job
        self.joined = joined
        """Somebody else began it, with other addresses or credentials: when these fail, ours may do."""

    async def opened(self) -> PartialFile:
        """The file, once it has begun to grow; readable as long as the download is joined. Raises as
        :meth:`finished`."""
        waiter = asyncio.ensure_future(self._job.opened.wait())
        try:
            await asyncio.wait([waiter, self._job.task], return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiter.cancel()
        if self._job.file is None:
            await self.finished()
        assert self._job.file is not None
        return self._job.file

    @property
    def failed(self) -> bool:
        task = self._job.task
        return task.done() and (task.cancelled() or task.exception() is not None)

    async def finished(self) -> str:
        """The path of the verified blob."""
        return await asyncio.shield(self._job.task)


class _Pending:
    """Bytes that have come and are not written yet.

    They are taken from the connection while earlier ones are being written: what its buffers hold when it is
    cut is lost.
    """

    def __init__(self, write: Callable[[bytes], Coroutine[None, None, None]]) -> None:
        self._write = write
        self._parts: list[bytes] = []
        self._size = 0
        self._writing: asyncio.Task[None] | None = None

    async def add(self, data: bytes) -> None:
        """Raises what writing raises."""
        self._parts.append(data)
        self._size += len(data)
        if self._size >= _MOST_PENDING or (self._writing is not None and self._writing.done()):
            await self._written()
        if self._writing is None and self._size >= _BATCH:
            self._writing = asyncio.ensure_future(self._write_all(_BATCH))

    async def finish(self) -> None:
        """Until everything is written, also when the caller has been cancelled."""
        await self._written()
        self._writing = asyncio.ensure_future(self._write_all(1))
        await self._written()

    async def _write_all(self, least: int) -> None:
        while self._size >= least:
            data, self._parts, self._size = b"".join(self._parts), [], 0
            await self._write(data)

    async def _written(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            try:
                await asyncio.shield(writing)
            except asyncio.CancelledError:
                await asyncio.wait([writing])
                raise


class Downloads:
    def __init__(
        self,
        folder: str,
        executor: Executor | None = None,
        *,
        limit: int = 3,
        attempts: int = 5,
        first_wait_s: float = 1.0,
    ) -> None:
        """``folder`` is made when missing."""
        self._folder = folder
        self._executor = executor
        self.slots = Slots(limit)
        """May be resized while downloads go on."""
        self.attempts = max(attempts, 1)
        self._first_wait_s = first_wait_s
        self._jobs: dict[str, _Job] = {}
        self._held: Counter[str] = Counter()
        self._removing = asyncio.Lock()
        os.makedirs(folder, mode=0o700, exist_ok=True)

    def path(self, digest: str) -> str:
        """Where the blob is while nobody has taken it."""
        return os.path.join(self._folder, digest.removeprefix("sha256:"))

    def size(self, digest: str) -> int:
        """Bytes of the blob that are here."""
        try:
            return os.stat(self.path(digest)).st_size
        except FileNotFoundError:
            return 0

    def sweep(self, now_s: float | None = None) -> None:
        """At start: remove what nobody has continued for a week. Blocks."""
        self._remove(set(), (time.time() if now_s is None else now_s) - _KEPT_S)

    async def expire(self, *, dry_run: bool = False) -> int:
        """Remove what nobody has continued for a week and no pull is using; the bytes freed, or with
        ``dry_run`` those that would be."""
        async with self._removing:
            return await self._in_thread(self._remove, self._used(), time.time() - _KEPT_S, dry_run)

    @contextlib.contextmanager
    def holding(self, digests: Iterable[str]) -> Iterator[None]:
        """What is fetched within the block stays at least as long, unless the caller takes it."""
        wanted = list(digests)
        self._held.update(wanted)
        try:
            yield
        finally:
            self._held.subtract(wanted)
            self._held += Counter()

    async def clear(self) -> int:
        """Remove everything that no pull is using; the bytes freed."""
        async with self._removing:
            return await self._in_thread(self._remove, self._used(), math.inf)

    def _used(self) -> set[str]:
        return {os.path.basename(self.path(digest)) for digest in (*self._held, *self._jobs)}

    def _remove(self, used: set[str], before_s: float, dry_run: bool = False) -> int:
        """Files changed last before that; their bytes."""
        freed = 0
        with os.scandir(self._folder) as entries:
            idle = [entry for entry in entries if entry.name not in used]
        for entry in idle:
            with contextlib.suppress(FileNotFoundError):
                status = entry.stat(follow_symlinks=False)
                if status.st_mtime < before_s:
                    freed += status.st_blocks * 512
                    if not dry_run:
                        os.unlink(entry.path)
        return freed

    def drop(self, digest: str) -> None:
        """Remove what was fetched, because it is of no use although it is what its digest says."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path(digest))

    @contextlib.asynccontextmanager
    async def joined(
        self, digest: str, size_bytes: int, sources: Sequence[Source], listener: Listener
    ) -> AsyncIterator[Download]:
        """Take part in the download of a blob, which begins unless it goes on already.

        It ends early when the last who takes part leaves; what came stays for the next time, unless its
        digest is wrong. Within the block :meth:`Download.opened` and :meth:`Download.finished` raise
        ContentMismatch, RegistryRefused, RegistryUnreachable, NoSpace.
        """
        async with self._removing:
            # what is begun from here on is not taken for idle
            while (job := self._jobs.get(digest)) is not None and not job.listeners:
                # the last who wanted it is leaving just now
                await asyncio.wait([job.task])
                await asyncio.sleep(0)
        joined = job is not None
        if job is None:
            job = self._jobs[digest] = _Job()
            job.task = asyncio.ensure_future(self._run(job, digest, size_bytes, sources))
        job.listeners.append(listener)
        try:
            yield Download(job, joined)
        finally:
            job.listeners.remove(listener)
            if not job.listeners:
                # to the end also when this is cancelled: two must not write one file
                await asyncio.shield(asyncio.ensure_future(self._end(digest, job)))

    async def _end(self, digest: str, job: _Job) -> None:
        job.task.cancel()
        await asyncio.wait([job.task])
        if self._jobs.get(digest) is job:
            # cancelled before it had begun
            del self._jobs[digest]
        if not job.task.cancelled():
            job.task.exception()  # seen: whoever waited has been told
        if job.file is not None:
            job.file.close()

    async def _run(self, job: _Job, digest: str, size_bytes: int, sources: Sequence[Source]) -> str:
        try:
            if self.slots.full:
                job.waiting()
            async with self.slots:
                file = PartialFile(self.path(digest))
                job.open(file)
                try:
                    await self._complete(file, job, digest, size_bytes, sources)
                except BaseException as error:
                    if isinstance(error, ContentMismatch):
                        self.drop(digest)
                    file.end(whole=False)
                    raise
                crash_point("download.write.verified")
                file.end(whole=True)
            return self.path(digest)
        finally:
            del self._jobs[digest]

    async def _complete(
        self, file: PartialFile, job: _Job, digest: str, size_bytes: int, sources: Sequence[Source]
    ) -> None:
        await self._in_thread(file.recover, size_bytes)
        resumed = file.size > 0
        while True:
            await self._fill(file, job, digest, size_bytes, sources)
            if file.digest == digest:
                return
            actual = file.digest
            await self._in_thread(file.reset)
            if not resumed:
                raise ContentMismatch(
                    f"filesystem layer verification failed for digest {digest}: got {actual}"
                )
            # what was here may have been damaged, by a power cut for instance
            log.warning("blob %s was damaged on disk: fetching it again from the start", digest)
            resumed = False

    async def _fill(
        self, file: PartialFile, job: _Job, digest: str, size_bytes: int, sources: Sequence[Source]
    ) -> None:
        """Until all bytes are here. Attempts without any progress are counted, addresses take turns."""
        failures = 0
        turn = 0
        while file.size < size_bytes:
            before = file.size
            try:
                await self._read(file, job, digest, size_bytes, sources[turn % len(sources)])
                if file.size >= size_bytes:
                    break
                raise RegistryUnreachable("get", digest, "unexpected EOF")
            except (RegistryRefused, RegistryUnreachable) as error:
                progress = file.size > before and not isinstance(error, TooSlow)
                failures = 0 if progress else failures + 1
                last = turn % len(sources) == len(sources) - 1
                if isinstance(error, RegistryRefused) and error.status == RANGE_NOT_SATISFIABLE and last:
                    raise ContentMismatch(
                        f"blob {digest} has {file.size} bytes, fewer than the {size_bytes} promised"
                    ) from error
                if (not is_passing(error) and last) or failures >= self.attempts * len(sources):
                    raise
                log.info("blob %s at %d of %d bytes: %s", digest, file.size, size_bytes, error.message)
                if progress:
                    continue
                turn += 1
                if last:
                    wait_s = pause_s(error, failures // len(sources) - 1, self._first_wait_s)
                    if wait_s >= 1:
                        job.retrying(math.ceil(wait_s))
                    await asyncio.sleep(wait_s)

    async def _read(self, file: PartialFile, job: _Job, digest: str, size_bytes: int, source: Source) -> None:
        async with source.blob(digest, file.size) as stream:
            # a registry without ranges sends all of it: what is here already is passed over
            known = file.size - stream.offset
            if known < 0:
                raise RegistryUnreachable("get", digest, "the registry sent another range")
            job.progress(file.size, size_bytes)
            pending = _Pending(lambda data: self._write(file, job, data, size_bytes))
            room = size_bytes - file.size
            try:
                async for piece in stream.chunks():
                    chunk = piece
                    if known:
                        chunk, known = piece[known:], max(known - len(piece), 0)
                    room -= len(chunk)
                    if room < 0:
                        raise ContentMismatch(f"blob {digest} is larger than the {size_bytes} bytes promised")
                    await pending.add(chunk)
            finally:
                # also what came just before a cut or a cancellation: it need not come twice
                await pending.finish()

    async def _write(self, file: PartialFile, job: _Job, data: bytes, size_bytes: int) -> None:
        await self._in_thread(file.write, data)
        job.progress(file.size, size_bytes)

    async def _in_thread(self, work: Callable[[Unpack[Arguments]], T], *arguments: *Arguments) -> T:
        """Finished when this returns, also when this is cancelled: a file is written by one at a time."""
        future = asyncio.get_running_loop().run_in_executor(self._executor, work, *arguments)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            raise
