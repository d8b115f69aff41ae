"""Locks by kind and key, taken in one order.

A task that holds a container's lock may take a network's, never the other way round: the order of
``KINDS`` is checked at every acquisition, so a deadlock shows up as an error in the first test that
could have run into it. Readers (list, inspect) take no lock. Nobody holds one across a client's stream,
a pull, or the patience of a stop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar

KINDS = ("container", "exec", "network", "volume", "image")

_held: ContextVar[tuple[tuple[int, str], ...]] = ContextVar("sampan_locks_held", default=())


class LockOrderViolation(RuntimeError):
    """A defect of ours: two tasks doing this could wait for each other for ever."""


class KeyedLocks:
    """One lock per (kind, key), existing only while somebody holds or wants it."""

    def __init__(self) -> None:
        self._locks: dict[tuple[int, str], asyncio.Lock] = {}
        self._interested: dict[tuple[int, str], int] = {}

    @asynccontextmanager
    async def hold(self, kind: str, key: str) -> AsyncIterator[None]:
        """Wait for and hold one lock. Raises LockOrderViolation for a kind that comes before, or is, one
        already held by this task."""
        rank = KINDS.index(kind)
        held = _held.get()
        if held and held[-1][0] >= rank:
            names = ", ".join(f"{KINDS[r]} {k}" for r, k in held)
            raise LockOrderViolation(f"{kind} {key} wanted while holding {names}")
        name = (rank, key)
        lock = self._locks.get(name)
        if lock is None:
            lock = self._locks[name] = asyncio.Lock()
        self._interested[name] = self._interested.get(name, 0) + 1
        try:
            async with lock:
                token = _held.set((*held, name))
                try:
                    yield
                finally:
                    _held.reset(token)
        finally:
            self._interested[name] -= 1
            if not self._interested[name]:
                del self._interested[name], self._locks[name]

    def __len__(self) -> int:
        """Locks that somebody holds or wants now."""
        return len(self._locks)
