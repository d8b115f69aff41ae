"""Waiting for descriptors and for time, in one thread (epoll(7)).

Standard library only.
"""

from __future__ import annotations

import heapq
import itertools
import select
import time
from collections.abc import Callable

READABLE = select.EPOLLIN
WRITABLE = select.EPOLLOUT


class Timer:
    """Something to be done later, unless it is cancelled."""

    __slots__ = ("action",)

    def __init__(self, action: Callable[[], None]) -> None:
        self.action: Callable[[], None] | None = action

    def cancel(self) -> None:
        """Idempotent."""
        self.action = None


class Poller:
    """Every ready descriptor gets one turn before any gets a second one."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._actions: dict[int, Callable[[], None]] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self.now_s = time.monotonic()
        """As of the last wait."""

    def watch(self, fd: int, action: Callable[[], None], events: int = READABLE) -> None:
        """Call ``action`` whenever ``fd`` is ready. A descriptor is watched for one thing at a time."""
        if fd in self._actions:
            self._epoll.modify(fd, events)
        else:
            self._epoll.register(fd, events)
        self._actions[fd] = action

    def forget(self, fd: int) -> None:
        """Before it is closed. Idempotent."""
        if self._actions.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def later(self, seconds: float, action: Callable[[], None]) -> Timer:
        timer = Timer(action)
        heapq.heappush(self._timers, (self.now_s + seconds, next(self._order), timer))
        return timer

    def turn(self, longest_s: float = 60.0) -> None:
        """Wait, and do what is due."""
        while self._timers and self._timers[0][2].action is None:
            heapq.heappop(self._timers)
        wait_s = longest_s
        if self._timers:
            wait_s = min(max(self._timers[0][0] - time.monotonic(), 0.0), longest_s)
        ready = self._epoll.poll(wait_s)
        self.now_s = time.monotonic()
        for fd, _ in ready:
            action = self._actions.get(fd)  # gone when an earlier one has closed it
            if action is not None:
                action()
        while self._timers and self._timers[0][0] <= self.now_s:
            due = heapq.heappop(self._timers)[2].action
            if due is not None:
                due()

    def close(self) -> None:
        self._epoll.close()
