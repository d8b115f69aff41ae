"""Doing something again and again: when it is due, not twice at once, and without ending the process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from sampan.base.errors import Conflict, SampanError

log = logging.getLogger(__name__)


class Schedule:
    """Runs jobs at their intervals from :meth:`start` to :meth:`close`.

    ::

        schedule = Schedule()
        schedule.add("garbage collection", lambda: garbage.settings.interval_s, garbage.run)
        schedule.start()
    """

    def __init__(self) -> None:
        self._jobs: list[tuple[str, Callable[[], float], Callable[[], Awaitable[object]]]] = []
        self._tasks: list[asyncio.Task[None]] = []

    def add(self, name: str, interval_s: Callable[[], float], run: Callable[[], Awaitable[object]]) -> None:
        """``interval_s`` is asked before each wait; 0: not now, ask again in a minute. The first run comes
        after one interval, so that a restart does not begin with work for everybody."""
        self._jobs.append((name, interval_s, run))

    def start(self) -> None:
        for name, interval_s, run in self._jobs:
            self._tasks.append(asyncio.create_task(_repeat(name, interval_s, run), name=name))

    async def close(self) -> None:
        """What is running is cancelled: each job can be cut off anywhere."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._tasks.clear()


async def _repeat(name: str, interval_s: Callable[[], float], run: Callable[[], Awaitable[object]]) -> None:
    while True:
        wait_s = interval_s()
        await asyncio.sleep(wait_s or 60.0)
        if not wait_s:
            continue
        try:
            await run()
        except Conflict:
            log.debug("%s: somebody else has started it", name)
        except SampanError as error:
            log.error("%s: %s", name, error.message)
        except Exception:
            # a defect of ours; the registry serves all the same, and the next time may be better
            log.exception("%s failed", name)
