"""Starts containers, watches them, and does what their end asks for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from sampan.base.clock import now_ns
from sampan.base.crashpoints import crash_point
from sampan.base.errors import SampanError
from sampan.engine.locks import KeyedLocks
from sampan.engine.ports import Supervised
from sampan.engine.streams.attachments import Attachments
from sampan.engine.streams.execs import kill_if_alive
from sampan.engine.tasks import Tasks
from sampan.model.launch import ExitStatus
from sampan.store.containers import RunRecord

from .health import HealthMonitors
from .launcher import Launcher
from .ledger import Ledger
from .lifecycle import (
    AutoRemove,
    CancelRestart,
    Effect,
    Exited,
    ScheduleRestart,
    Start,
    Started,
    StartFailed,
    StopAsked,
)
from .registry import Entry

log = logging.getLogger(__name__)


class Supervision:
    """One watcher task per running container, one timer per waiting restart."""

    def __init__(
        self,
        ledger: Ledger,
        launcher: Launcher,
        locks: KeyedLocks,
        attachments: Attachments,
        health: HealthMonitors,
    ) -> None:
        self._ledger = ledger
        self._launcher = launcher
        self._locks = locks
        self._attachments = attachments
        self._health = health
        self._tasks = Tasks("containers")
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._kept: set[str] = set()
        self.auto_remove: Callable[[Entry], Awaitable[None]] = _nothing
        self.sweep_group: Callable[[str], None] = _leave

    async def start(self, entry: Entry, *, by_policy: bool = False) -> None:
        """Raises what :func:`lifecycle.step` and :meth:`Launcher.launch` raise; by then a container with
        ``--rm`` is gone."""
        async with self._locks.hold("container", entry.id):
            self._ledger.apply(entry, Start(by_policy=by_policy))
            failure, effects = await self._launch(entry)
        if failure is None:
            return
        if any(isinstance(effect, AutoRemove) for effect in effects):
            await self._auto_remove(entry)
        raise failure

    async def _launch(self, entry: Entry) -> tuple[BaseException | None, tuple[Effect, ...]]:
        """Why it failed and what is to be done about it; (None, ()) when it runs."""
        sessions = self._attachments.pending(entry.id)
        try:
            process, run = await self._launcher.launch(entry, sessions)
            await self._record_start(entry, process, run)
        except BaseException as error:  # noqa: BLE001 - recorded, then raised again by start()
            return error, self._start_failed(entry, error)
        crash_point("container.start.stored")
        self.watch(entry, process)
        for session in self._attachments.launched(entry.id, sessions):
            await session.attach_to(process)
        return None, ()

    async def _record_start(self, entry: Entry, process: Supervised, run: RunRecord) -> None:
        """A start that cannot be recorded has failed: the next daemon would not know of it."""
        try:
            self._ledger.apply(entry, Started(pid=process.pid, started_ns=process.started_ns), run)
        except SampanError:
            kill_if_alive(process)
            await process.wait()
            await self._launcher.release(entry.record, run)
            await self._launcher.clear(entry.id, process)
            raise

    def _start_failed(self, entry: Entry, error: BaseException) -> tuple[Effect, ...]:
        self._attachments.abandon(entry.id)
        message = error.message if isinstance(error, SampanError) else f"{type(error).__name__}: {error}"
        exit_code = getattr(error, "exit_code", 0)
        failed = StartFailed(message=message, exit_code=exit_code, now_ns=now_ns())
        return self._ledger.apply(entry, failed, None)

    def watch(self, entry: Entry, process: Supervised) -> None:
        """Own a live process from here on, whether it was started now or found at start-up."""
        entry.process = process
        self._health.begin(entry)
        self._tasks.spawn(self._watch(entry, process), f"watch {entry.id}")

    async def _watch(self, entry: Entry, process: Supervised) -> None:
        status = await process.wait()
        async with self._locks.hold("container", entry.id):
            run = entry.run
            effects = await self.ended(entry, status)
            try:
                await self._launcher.clear(entry.id, process)
                if run is not None and not status.finished_ns:
                    self.sweep_group(run.cgroup_path)  # its monitor was killed and cleaned up nothing
            except OSError:
                log.exception("container %s: something of its run is left", entry.id)
        self.perform(entry, effects)

    async def ended(self, entry: Entry, status: ExitStatus) -> tuple[Effect, ...]:
        """The process is gone: give back what it held, record it, and say what is to be done next. Under
        the container's lock."""
        entry.process = None
        self._health.end(entry)
        try:
            await self._launcher.release(entry.record, entry.run)
        except (OSError, SampanError):
            # it has ended all the same, and whoever waits for that must hear of it
            log.exception("container %s: not everything it held could be given back", entry.id)
        exited = Exited(
            exit_code=status.exit_code,
            finished_ns=status.finished_ns or now_ns(),
            oom_killed=status.oom_killed,
            keep=entry.id in self._kept,
        )
        effects = self._ledger.apply(entry, exited, None)
        crash_point("container.exit.stored")
        return effects

    def keep(self, entry: Entry) -> None:
        """``restart`` begins: the coming exit neither restarts by policy nor removes."""
        self._kept.add(entry.id)

    def unkeep(self, entry: Entry) -> None:
        self._kept.discard(entry.id)

    def ask_stop(self, entry: Entry) -> None:
        """The user wants it down: policies rest. Raises NotRunning."""
        effects = self._ledger.apply(entry, StopAsked(now_ns=now_ns()))
        self.perform(entry, effects)

    def perform(self, entry: Entry, effects: tuple[Effect, ...]) -> None:
        """What cannot be done at once."""
        for effect in effects:
            match effect:
                case ScheduleRestart(delay_ns=delay_ns):
                    loop = asyncio.get_running_loop()
                    self._timers[entry.id] = loop.call_later(delay_ns / 1e9, self._restart_due, entry)
                case CancelRestart():
                    self.cancel_restart(entry)
                case AutoRemove():
                    self.remove_later(entry)
                case _:
                    raise AssertionError(f"unknown effect {effect!r}")

    def start_later(self, entry: Entry) -> None:
        """At daemon start: a restart policy wants it running."""
        self._tasks.spawn(self._boot(entry), f"start {entry.id}")

    async def _boot(self, entry: Entry) -> None:
        try:
            await self.start(entry, by_policy=entry.life.phase == "restarting")
        except SampanError as error:
            log.warning("container %s: could not start: %s", entry.id, error.message)

    def remove_later(self, entry: Entry) -> None:
        """``--rm`` of a container that ended."""
        self._tasks.spawn(self._auto_remove(entry), f"remove {entry.id}")

    def cancel_restart(self, entry: Entry) -> None:
        timer = self._timers.pop(entry.id, None)
        if timer is not None:
            timer.cancel()

    def _restart_due(self, entry: Entry) -> None:
        del self._timers[entry.id]
        self._tasks.spawn(self._restart(entry), f"restart {entry.id}")

    async def _restart(self, entry: Entry) -> None:
        try:
            await self.start(entry, by_policy=True)
        except SampanError as error:
            log.warning("container %s: could not restart: %s", entry.id, error.message)

    async def _auto_remove(self, entry: Entry) -> None:
        try:
            await self.auto_remove(entry)
        except SampanError as error:
            log.warning("container %s: could not remove: %s", entry.id, error.message)

    async def close(self) -> None:
        """Stop watching. Containers go on; the next daemon finds them."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        await self._tasks.close()


async def _nothing(_: Entry) -> None:
    return None


def _leave(_: str) -> None:
    return None
