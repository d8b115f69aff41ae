"""Changes of the index reach the disk before their clients are told, without holding up the loop.

SQLite syncs its log at each commit, in the thread that commits: on a busy disk everybody else waits along.
So changes are committed unsynced, and whoever answers for one waits here; one sync in a thread is for all of
them that were committed before it. A process that is killed loses nothing either way. What a power cut takes,
nobody was told of.
"""

from __future__ import annotations

import asyncio
import os

from sampan.base.errors import SystemFailure


class Durability:
    """For one database in WAL mode."""

    def __init__(self, path: str) -> None:
        """``path`` is the database's; there is nothing to wait for with ``:memory:``."""
        self._path = "" if path == ":memory:" else f"{path}-wal"
        self._fd = -1
        self._changes = 0
        self._synced = 0
        self._running: asyncio.Task[None] | None = None

    def changed(self) -> None:
        """Something was committed."""
        self._changes += 1

    async def reached(self) -> None:
        """Wait until all that was committed by now is on the disk. Raises SystemFailure."""
        wanted = self._changes
        while self._synced < wanted:
            if self._running is None:
                self._running = asyncio.create_task(self._sync())
            await asyncio.shield(self._running)

    async def _sync(self) -> None:
        covered = self._changes
        try:
            if self._path:
                await asyncio.to_thread(self._sync_log)
            self._synced = covered
        except OSError as error:
            raise SystemFailure(f"sync {self._path}: {os.strerror(error.errno or 0)}") from error
        finally:
            self._running = None

    def _sync_log(self) -> None:
        if self._fd < 0:
            # SQLite keeps this file while it has the database open, and holds no locks on it
            self._fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        os.fdatasync(self._fd)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
