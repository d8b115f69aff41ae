"""Blobs on their way in: a few at a time, each once however many want it, resumed where they broke off.

A blob is written to ``<folder>/<hex>`` as it comes. What a cut connection, a cancelled pull or a killed
daemon leaves there is hashed and continued by the next download of the same digest. When it is whole and
verified, it stays until somebody takes it, so that a pull that fails at its last layer need not fetch the
others again.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from typing import Protocol, TypeVar, TypeVarTuple, Unpack

from sampan.base.errors import ResourceExhausted, SampanError

from .errors import ContentMismatch, RegistryRefused, RegistryUnreachable
from .http import is_retried
from .repository import BlobStream

log = logging.getLogger(__name__)

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

_BATCH = 1 << 20
_KEPT_S = 7 * 24 * 3600

Listener = Callable[[int, int], None]
"""Bytes that are here and bytes in all."""


class Source(Protocol):
    """Somewhere a blob can be had: a repository at one address."""

    def blob(self, digest: str, offset: int = 0) -> contextlib.AbstractAsyncContextManager[BlobStream]: ...


class NoSpace(ResourceExhausted):
    def __init__(self, path: str) -> None:
        super().__init__(f"write {path}: no space left on device: free disk space and try again")


class PartialFile:
    """The bytes of a blob that are here. Methods block; they run in a thread, one at a time."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.size = 0
        self._hash = hashlib.sha256()
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def recover(self, limit_bytes: int) -> None:
        """Hash what an earlier download has left; more than the blob has is of no use."""
        while chunk := os.read(self._fd, _BATCH):
            self._hash.update(chunk)
            self.size += len(chunk)
        if self.size > limit_bytes:
            self.reset()

    def reset(self) -> None:
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> None:
        """Raises NoSpace; then what fitted stays."""
        view = memoryview(data)
        try:
            while view:
                written = os.write(self._fd, view)
                self._hash.update(view[:written])
                self.size += written
                view = view[written:]
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise NoSpace(self.path) from error
            raise

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"

    def close(self) -> None:
        os.close(self._fd)


class _Job:
    """One download and those who wait for it."""

    def __init__(self) -> None:
        self.listeners: list[Listener] = []
        self.task: asyncio.Task[str]

    def tell(self, done: int, total: int) -> None:
        for listener in self.listeners:
            listener(done, total)


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
        self._slots = asyncio.Semaphore(max(limit, 1))
        self._attempts = max(attempts, 1)
        self._first_wait_s = first_wait_s
        self._jobs: dict[str, _Job] = {}
        self._held: Counter[str] = Counter()
        os.makedirs(folder, mode=0o700, exist_ok=True)

    def path(self, digest: str) -> str:
        """Where the blob is while nobody has taken it."""
        return os.path.join(self._folder, digest.removeprefix("sha256:"))

    def sweep(self, now_s: float | None = None) -> None:
        """Remove what nobody has continued for a week. Blocks."""
        oldest = (time.time() if now_s is None else now_s) - _KEPT_S
        with os.scandir(self._folder) as entries:
            old = [entry.path for entry in entries if entry.stat(follow_symlinks=False).st_mtime < oldest]
        for path in old:
            os.unlink(path)

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
        used = {os.path.basename(self.path(digest)) for digest in (*self._held, *self._jobs)}
        return await self._in_thread(self._clear, used)

    def _clear(self, used: set[str]) -> int:
        freed = 0
        with os.scandir(self._folder) as entries:
            idle = [entry for entry in entries if entry.name not in used]
        for entry in idle:
            with contextlib.suppress(FileNotFoundError):
                freed += entry.stat(follow_symlinks=False).st_blocks * 512
                os.unlink(entry.path)
        return freed

    def drop(self, digest: str) -> None:
        """Remove what was fetched, because it is of no use although it is what its digest says."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path(digest))

    async def fetch(self, digest: str, size_bytes: int, sources: Sequence[Source], listener: Listener) -> str:
        """The path of the verified blob. Joins a download of it that goes on already.

        Raises ContentMismatch, RegistryRefused, RegistryUnreachable, NoSpace; what came stays for the next
        time, unless its digest is wrong. When the last who waits is cancelled, the download stops.
        """
        while True:
            job = self._jobs.get(digest)
            joined = job is not None
            if job is None:
                job = self._jobs[digest] = _Job()
                job.task = asyncio.ensure_future(self._run(job, digest, size_bytes, sources))
            try:
                return await self._wait(job, listener)
            except SampanError as error:
                if not joined:
                    raise
                # it failed with somebody else's address or credentials; ours may do
                log.info("download of %s that was shared failed: %s", digest, error.message)

    async def _wait(self, job: _Job, listener: Listener) -> str:
        job.listeners.append(listener)
        try:
            return await asyncio.shield(job.task)
        finally:
            job.listeners.remove(listener)
            if not job.listeners and not job.task.done():
                job.task.cancel()
                await asyncio.wait([job.task])

    async def _run(self, job: _Job, digest: str, size_bytes: int, sources: Sequence[Source]) -> str:
        try:
            async with self._slots:
                file = await self._in_thread(PartialFile, self.path(digest))
                try:
                    await self._complete(file, job, digest, size_bytes, sources)
                except ContentMismatch:
                    self.drop(digest)
                    raise
                finally:
                    file.close()
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
                failures = 0 if file.size > before else failures + 1
                last = turn % len(sources) == len(sources) - 1
                passing = isinstance(error, RegistryUnreachable) or is_retried(error.status)
                if (not passing and last) or failures >= self._attempts * len(sources):
                    raise
                log.info("blob %s at %d of %d bytes: %s", digest, file.size, size_bytes, error.message)
                if file.size == before:
                    turn += 1
                    if last:
                        rounds = failures // len(sources)
                        await asyncio.sleep(min(self._first_wait_s * 2.0 ** max(rounds - 1, 0), 30.0))

    async def _read(self, file: PartialFile, job: _Job, digest: str, size_bytes: int, source: Source) -> None:
        async with source.blob(digest, file.size) as stream:
            if stream.offset != file.size:
                await self._in_thread(file.reset)
                if stream.offset:
                    raise RegistryUnreachable("get", digest, "the registry sent another range")
            job.tell(file.size, size_bytes)
            parts: list[bytes] = []
            waiting = 0
            try:
                async for chunk in stream.chunks():
                    parts.append(chunk)
                    waiting += len(chunk)
                    if file.size + waiting > size_bytes:
                        raise ContentMismatch(f"blob {digest} is larger than the {size_bytes} bytes promised")
                    if waiting >= _BATCH:
                        data, parts, waiting = b"".join(parts), [], 0
                        await self._in_thread(file.write, data)
                        job.tell(file.size, size_bytes)
            finally:
                if parts:
                    # also what came just before a cut or a cancellation: it need not come twice
                    file.write(b"".join(parts))
            job.tell(file.size, size_bytes)

    async def _in_thread(self, work: Callable[[Unpack[Arguments]], T], *arguments: *Arguments) -> T:
        """Finished when this returns, also when this is cancelled: a file is written by one at a time."""
        future = asyncio.get_running_loop().run_in_executor(self._executor, work, *arguments)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            raise
