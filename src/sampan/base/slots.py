"""A bound on how much goes on at once that can be changed meanwhile."""

from __future__ import annotations

import asyncio
from collections import deque


class Slots:
    """As :class:`asyncio.Semaphore`, first come first served; used within ``async with``, on one loop."""

    def __init__(self, limit: int) -> None:
        """``limit`` is at least 1, whatever is given."""
        self._limit = max(limit, 1)
        self._taken = 0
        self._waiters: deque[asyncio.Future[None]] = deque()

    @property
    def limit(self) -> int:
        return self._limit

    @property
    def full(self) -> bool:
        """Whether who comes now has to wait."""
        return self._taken >= self._limit or bool(self._waiters)

    def resize(self, limit: int) -> None:
        """More may begin at once; when it is fewer, those that go on are left to finish."""
        self._limit = max(limit, 1)
        self._admit()

    async def __aenter__(self) -> None:
        if not self.full:
            self._taken += 1
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                # admitted and cancelled in the same moment: the place is the next one's
                self._release()
            else:
                self._waiters.remove(waiter)
            raise

    async def __aexit__(self, *_: object) -> None:
        self._release()

    def _release(self) -> None:
        self._taken -= 1
        self._admit()

    def _admit(self) -> None:
        while self._waiters and self._taken < self._limit:
            waiter = self._waiters.popleft()
            if not waiter.done():
                self._taken += 1
                waiter.set_result(None)
