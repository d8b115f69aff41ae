"""Ticks for those who follow a log: something was written, or the container has ended."""

from __future__ import annotations

import asyncio
import errno
import os
from typing import Any

from sampan.kernel import inotify

_MASK = inotify.IN_MODIFY | inotify.IN_CREATE | inotify.IN_MOVED_TO


class LogWatch:
    """One follower: an async iterator of ticks that ends with the container. Must be closed.

    The first tick comes at once: something may have been written before this began to watch.
    """

    def __init__(self, owner: LogWatcher, watch: int, ended: asyncio.Future[Any]) -> None:
        self._owner = owner
        self._watch = watch
        self._wake = asyncio.Event()
        self._wake.set()
        self._ended = ended
        ended.add_done_callback(self._tick_at_end)

    def tick(self) -> None:
        self._wake.set()

    def _tick_at_end(self, _: asyncio.Future[Any]) -> None:
        self._wake.set()

    def __aiter__(self) -> LogWatch:
        return self

    async def __anext__(self) -> None:
        await self._wake.wait()
        self._wake.clear()
        if self._ended.done():
            raise StopAsyncIteration

    async def aclose(self) -> None:
        """Idempotent; ``ended`` stays as it is."""
        self._ended.remove_done_callback(self._tick_at_end)
        self._owner.forget(self._watch, self)


class LogWatcher:
    """One inotify instance for every follower: a user has only 128 of them."""

    def __init__(self) -> None:
        self._fd = -1
        self._followers: dict[int, set[LogWatch]] = {}

    def watch(self, path: str, ended: asyncio.Future[Any]) -> LogWatch:
        """Follow the log at ``path``, whose directory exists, until ``ended`` is done. Raises OSError."""
        if self._fd < 0:
            self._fd = inotify.open_instance()
            asyncio.get_running_loop().add_reader(self._fd, self._ready)
        # the directory, because rotation puts a new file at the path
        descriptor = inotify.add_watch(self._fd, os.path.dirname(path), _MASK)
        follower = LogWatch(self, descriptor, ended)
        self._followers.setdefault(descriptor, set()).add(follower)
        return follower

    def forget(self, descriptor: int, follower: LogWatch) -> None:
        followers = self._followers.get(descriptor)
        if followers is None:
            return
        followers.discard(follower)
        if not followers:
            del self._followers[descriptor]
            try:
                inotify.remove_watch(self._fd, descriptor)
            except OSError as error:
                if error.errno != errno.EINVAL:  # the container was removed, and its directory with it
                    raise

    def close(self) -> None:
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _ready(self) -> None:
        for descriptor, _ in inotify.read_events(self._fd):
            for follower in self._followers.get(descriptor, ()):
                follower.tick()
