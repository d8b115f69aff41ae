"""Between the event loop and threads: bodies that a thread reads, output that a thread writes.

Unpacking and packing block on the disk and on other people's sockets, so they run in threads of their own
pool: a slow client cannot keep the loop's default executor from other work. Both directions are bounded, and
a cancelled side makes the other end with :class:`~sampan.base.errors.Cancelled`.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

from sampan.base.errors import Cancelled

Result = TypeVar("Result")
Item = TypeVar("Item")

_BATCH = 512 << 10
_IN_FLIGHT = 4
_THREADS = 64


class Input:
    """A body on its way into a thread. ``read`` is a source as in :mod:`sampan.content.compression`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._batches: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._space = asyncio.Semaphore(_IN_FLIGHT)
        self._ended = False

    async def feed(self, body: AsyncIterator[bytes]) -> None:
        """Pass the whole body on. If it breaks off or this is cancelled, the reader gets Cancelled."""
        parts: list[bytes] = []
        size = 0
        try:
            async for chunk in body:
                parts.append(chunk)
                size += len(chunk)
                if size >= _BATCH:
                    await self._space.acquire()
                    self._batches.put(b"".join(parts) if len(parts) > 1 else chunk)
                    parts, size = [], 0
            if parts:
                await self._space.acquire()
                self._batches.put(b"".join(parts))
            self._batches.put(b"")
        except BaseException:
            self._batches.put(None)
            raise

    def read(self) -> bytes:
        """In the thread: the next chunk, ``b""`` at the end. Raises Cancelled."""
        if self._ended:
            return b""
        batch = self._batches.get()
        if batch is None:
            raise Cancelled("the client went away before it had sent everything")
        if batch:
            self._loop.call_soon_threadsafe(self._space.release)
        else:
            self._ended = True
        return batch


class Output(Generic[Item]):
    """Items from a thread to the loop; the thread waits while ``limit`` of them are not taken."""

    def __init__(self, loop: asyncio.AbstractEventLoop, limit: int) -> None:
        self._loop = loop
        self._items: asyncio.Queue[Item | None] = asyncio.Queue()
        self._space = threading.Semaphore(limit)
        self._aborted = False

    def put(self, item: Item) -> None:
        """In the thread. Raises Cancelled when nobody listens any more."""
        self._space.acquire()
        if self._aborted:
            self._space.release()
            raise Cancelled("the client went away")
        self._loop.call_soon_threadsafe(self._items.put_nowait, item)

    def end(self) -> None:
        """In either: no more items."""
        self._loop.call_soon_threadsafe(self._items.put_nowait, None)

    def abort(self) -> None:
        self._aborted = True
        self._space.release()

    async def items(self) -> AsyncIterator[Item]:
        while (item := await self._items.get()) is not None:
            self._space.release()
            yield item


class Workers:
    """The threads of content. Close it last."""

    def __init__(self, threads: int = _THREADS) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="content")

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    async def run(self, work: Callable[[], Result]) -> Result:
        """Call ``work`` in a thread. It is finished when this returns, also when this is cancelled."""
        future = asyncio.get_running_loop().run_in_executor(self._pool, work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            future.exception()  # seen: whoever cancels is not told
            raise

    async def consume(
        self, body: AsyncIterator[bytes], work: Callable[[Callable[[], bytes]], Result]
    ) -> Result:
        """Call ``work(read)`` in a thread while the body is fed to it; its result.

        What ``work`` does not read of the body is dropped. When the body breaks off, ``work`` ends with
        Cancelled and the body's own error is raised.
        """
        source = Input(asyncio.get_running_loop())
        feeder = asyncio.ensure_future(source.feed(body))
        task = asyncio.ensure_future(self.run(lambda: work(source.read)))
        try:
            return await asyncio.shield(task)
        except Cancelled:
            _raise_from(feeder)
            raise
        finally:
            # first: the thread may be waiting for the body
            feeder.cancel()
            await asyncio.wait([feeder, task])
            _seen(feeder, task)

    async def produce(self, work: Callable[[Callable[[bytes], None]], None]) -> AsyncGenerator[bytes, None]:
        """The bytes that ``work(write)`` writes in a thread, in large chunks."""

        def run(put: Callable[[bytes], None]) -> None:
            _write_in_batches(work, put)

        async for chunk in self.items(run, _IN_FLIGHT):
            yield chunk

    async def items(
        self,
        work: Callable[[Callable[[Item], None]], None],
        limit: int = 64,
        feeder: asyncio.Future[None] | None = None,
    ) -> AsyncGenerator[Item, None]:
        """The items that ``work(put)`` puts in a thread. Its exception is raised after the last item.

        ``feeder`` feeds the thread and is cancelled with it: the thread may be waiting for it.
        """
        output: Output[Item] = Output(asyncio.get_running_loop(), limit)

        def run() -> None:
            try:
                work(output.put)
            finally:
                output.end()

        task = asyncio.ensure_future(self.run(run))
        try:
            async for item in output.items():
                yield item
            await task
        finally:
            if feeder is not None:
                feeder.cancel()
            if not task.done():
                output.abort()
            await asyncio.wait([task])
            # raised above, unless the listener left first; then Cancelled is all it can be
            _seen(task)

    async def converse(
        self,
        body: AsyncIterator[bytes],
        work: Callable[[Callable[[], bytes], Callable[[Item], None]], None],
    ) -> AsyncGenerator[Item, None]:
        """The items that ``work(read, put)`` puts in a thread while the body is fed to it."""
        source = Input(asyncio.get_running_loop())
        feeder = asyncio.ensure_future(source.feed(body))

        def run(put: Callable[[Item], None]) -> None:
            work(source.read, put)

        items = self.items(run, feeder=feeder)
        try:
            async for item in items:
                yield item
        except Cancelled:
            _raise_from(feeder)
            raise
        finally:
            await items.aclose()
            feeder.cancel()
            await asyncio.wait([feeder])
            _seen(feeder)


def _raise_from(feeder: asyncio.Future[None]) -> None:
    """Raise the body's own error, which is why the thread was cancelled."""
    if feeder.done() and not feeder.cancelled() and (error := feeder.exception()) is not None:
        raise error from None


def _seen(*futures: asyncio.Future[Any]) -> None:
    """Their exceptions need not be logged as never retrieved."""
    for future in futures:
        if not future.cancelled():
            future.exception()


def _write_in_batches(work: Callable[[Callable[[bytes], None]], None], put: Callable[[bytes], None]) -> None:
    parts: list[bytes] = []
    size = 0

    def write(data: bytes) -> None:
        nonlocal size
        parts.append(data)
        size += len(data)
        if size >= _BATCH:
            put(b"".join(parts))
            parts.clear()
            size = 0

    work(write)
    if parts:
        put(b"".join(parts))
