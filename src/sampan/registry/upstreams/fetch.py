"""A blob on its way from an upstream: stored, and sent to whoever waits for it, at the same time.

The last pieces are kept in memory for those who follow. The upstream is read no further ahead of the fastest
of them than that window; a slower one that falls behind it gets the rest from the storage when all is there.
The last byte is sent only when the whole was verified, so that nobody takes damaged content for whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any

from sampan.base.errors import SampanError, Unavailable

from ..errors import BlobUnknown
from ..storage.port import BlobStorage
from .source import Source, UpstreamAway

log = logging.getLogger(__name__)
WINDOW_BYTES = 4 << 20
_PATIENCE_S = 10.0
"""For so long the fastest follower may take nothing before the rest is fetched without it."""
_ATTEMPTS = 4
"""Without progress."""
_PAUSE_S = 0.5

Store = Callable[[AsyncIterator[bytes]], Awaitable[int]]
"""Takes all pieces, verifies, and makes the blob visible; its size."""


class Fetch:
    """One for each blob and repository, however many ask. :meth:`run` is a task of its own, which goes on
    when all who follow have gone: the next one will ask for the rest."""

    def __init__(self, source: Source, path: str, digest: str, storage: BlobStorage) -> None:
        self._source = source
        self._path = path
        self._digest = digest
        self._storage = storage
        self._window: deque[bytes] = deque()
        self._start = 0
        """Offset of the window's first byte."""
        self._end = 0
        self._followers: dict[object, int] = {}
        """Up to where each has taken."""
        self._paced = True
        """Whether followers are waited for: not when none has taken anything for long."""
        self._changed = asyncio.Event()
        self.size_bytes: int | None = None
        """Known from the upstream's answer on, if it says it."""
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """The upstream has begun to send it, or it is here; or why not."""
        self.stored: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        """Its size, when it is verified and visible; or why it is not."""
        self.opened.add_done_callback(_retrieved)
        self.stored.add_done_callback(_retrieved)

    async def run(self, store: Store) -> None:
        """Raises nothing: who waits is told by the futures."""
        pieces = self._pieces()
        try:
            async with contextlib.aclosing(pieces):
                size = await store(pieces)
        except asyncio.CancelledError:
            self._end_with(UpstreamAway(f"blob {self._digest}: the registry is shutting down"))
            raise
        except SampanError as error:
            log.warning("blob %s is not fetched: %s", self._digest, error.message)
            self._end_with(error)
        else:
            self.found(size)

    def found(self, size_bytes: int) -> None:
        """It is here."""
        self.size_bytes = size_bytes
        if not self.opened.done():
            self.opened.set_result(None)
        if not self.stored.done():
            self.stored.set_result(size_bytes)
        self._notify()

    def _end_with(self, error: SampanError) -> None:
        if not self.opened.done():
            self.opened.set_exception(error)
        if not self.stored.done():
            self.stored.set_exception(error)
        self._notify()

    # from the upstream

    async def _pieces(self) -> AsyncGenerator[bytes, None]:
        """All of it, over as many connections as it takes. Raises BlobUnknown and what the source raises."""
        failures, reached = 0, 0
        while True:
            try:
                async with contextlib.aclosing(self._connection()) as connection:
                    async for piece in connection:
                        yield piece
                if self.size_bytes is None or self._end >= self.size_bytes:
                    return
                raise UpstreamAway(f"the upstream sent {self._end} of {self.size_bytes} bytes")
            except Unavailable as error:
                failures = 0 if self._end > reached else failures + 1
                reached = self._end
                if not self.opened.done() or failures >= _ATTEMPTS:
                    raise
                log.info("blob %s goes on at %d: %s", self._digest, self._end, error.message)
            await asyncio.sleep(_PAUSE_S * failures)

    async def _connection(self) -> AsyncGenerator[bytes, None]:
        async with self._source.blob(self._path, self._digest, self._end) as stream:
            if stream is None:
                raise BlobUnknown(f"blob {self._digest} is not in the upstream's {self._path}")
            if self.size_bytes is None:
                self.size_bytes = stream.size_bytes
            if not self.opened.done():
                self.opened.set_result(None)
            skipped = self._end - stream.offset
            async for chunk in stream.chunks():
                piece = chunk[skipped:] if skipped > 0 else chunk
                skipped -= len(chunk) - len(piece)
                if not piece:
                    continue
                if self.size_bytes is not None and self._end + len(piece) > self.size_bytes:
                    raise UpstreamAway(f"the upstream sends more of {self._digest} than it said")
                self._keep(piece)
                yield piece
                await self._wait_for_the_fastest()

    def _keep(self, piece: bytes) -> None:
        self._window.append(piece)
        self._end += len(piece)
        fastest = self._fastest()
        fastest = self._end if fastest is None else fastest
        while self._end - (after := self._start + len(self._window[0])) >= WINDOW_BYTES and after <= fastest:
            self._window.popleft()
            self._start = after
        self._source.state.fetched_bytes += len(piece)
        self._notify()

    async def _wait_for_the_fastest(self) -> None:
        while (fastest := self._fastest()) is not None and self._end - fastest >= WINDOW_BYTES:
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    await self._change()
            except TimeoutError:
                self._paced = False

    # to followers

    def join(self) -> object:
        """The window waits for who has joined. To be given to :meth:`follow` or :meth:`leave`."""
        me = object()
        self._followers[me] = 0
        return me

    def leave(self, me: object) -> None:
        self._followers.pop(me, None)
        self._notify()

    def _fastest(self) -> int | None:
        """Up to where the fastest has taken; None: nobody is to be waited for. Who is behind the window
        waits for the end."""
        if not self._paced:
            return None
        return max((one for one in self._followers.values() if one >= self._start), default=None)

    async def follow(self, me: object) -> AsyncIterator[bytes]:
        """All of it. Needs :attr:`size_bytes`. Raises what ends the fetch."""
        assert self.size_bytes is not None
        position = 0
        try:
            while not self.stored.done():
                # without the last byte, which says that all are right
                piece = self._take(position, self.size_bytes - 1)
                if piece:
                    position += len(piece)
                    yield piece
                    self._followers[me] = position
                    self._paced = True
                    self._notify()
                else:
                    await self._change()
        finally:
            self.leave(me)
        await self.stored
        if position < self.size_bytes:
            async for piece in self._storage.read(self._digest, position):
                yield piece

    def _take(self, position: int, limit: int) -> bytes:
        """What the window has from ``position`` on, as one of its pieces; b"" when it has nothing."""
        start = self._start
        if position < start:
            return b""
        for piece in self._window:
            if position < start + len(piece):
                return piece[position - start : max(limit - start, 0)]
            start += len(piece)
        return b""

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _change(self) -> None:
        await self._changed.wait()


def _retrieved(future: asyncio.Future[Any]) -> None:
    """Nobody may wait for it: its error was logged."""
    if not future.cancelled():
        future.exception()
