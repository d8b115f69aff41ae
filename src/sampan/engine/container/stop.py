"""``stop``, ``kill``, ``restart``, ``pause`` and ``unpause``."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal

import msgspec

from sampan.base.errors import Conflict, NotModified, SampanError, SystemFailure
from sampan.engine.locks import KeyedLocks
from sampan.engine.ports import Cgroups
from sampan.store.containers import RunRecord

from .ledger import Ledger
from .lifecycle import ALIVE, NotRunning, Pause, Unpause, step
from .registry import Entry
from .signals import InvalidSignal, parse_signal
from .supervision import Supervision
from .views import WaitResult

log = logging.getLogger(__name__)

KILL_PATIENCE_S = 10.0
"""How long SIGKILL may take to show; longer means a process that the kernel does not let die."""


class NotKilled(SystemFailure):
    """SIGKILL was sent and the process is still there."""


class Stopper:
    """Ends and freezes containers. No lock is held while a process takes its time."""

    def __init__(
        self,
        ledger: Ledger,
        supervision: Supervision,
        cgroups: Cgroups,
        locks: KeyedLocks,
        default_timeout_s: int = 10,
    ) -> None:
        self._ledger = ledger
        self._supervision = supervision
        self._cgroups = cgroups
        self._locks = locks
        self._default_timeout_s = default_timeout_s

    async def stop(self, entry: Entry, timeout_s: int | None, signal_name: str) -> None:
        """Raises NotModified when it does not run, InvalidArgument for an unknown signal."""
        if entry.life.phase not in ALIVE:
            raise NotModified("container is already stopped")
        await self._stop(entry, timeout_s, signal_name)

    async def _stop(self, entry: Entry, timeout_s: int | None, signal_name: str) -> None:
        config = entry.record.config
        number = parse_signal(signal_name) if signal_name else stop_signal(entry)
        if timeout_s is None:
            timeout_s = config.stop_timeout if config.stop_timeout is not None else self._default_timeout_s
        stopped = self._ledger.wait(entry, "not-running")
        try:
            self._signal(entry, number, means_stop=True)
            # below zero: as long as it takes
            if not await _done_within(stopped, timeout_s if timeout_s >= 0 else None):
                log.info("container %s ignored signal %d for %d s: killing it", entry.id, number, timeout_s)
                await self.kill_and_wait(entry)
        finally:
            stopped.cancel()
        self._ledger.publish(entry, "stop")

    async def kill(self, entry: Entry, signal_name: str) -> None:
        """SIGKILL waits for the end, other signals do not. Raises NotRunning, InvalidArgument."""
        number = parse_signal(signal_name) if signal_name else int(signal.SIGKILL)
        if entry.life.phase not in ALIVE:
            raise NotRunning(f"container {entry.id} is not running")
        if number == signal.SIGKILL:
            await self.kill_and_wait(entry)
            return
        # as in Docker: without a stop signal of its own, any signal means the user wants it down
        means_stop = not entry.record.config.stop_signal or stop_signal(entry) == number
        self._signal(entry, number, means_stop=means_stop)

    async def kill_and_wait(self, entry: Entry) -> None:
        """SIGKILL, and back when it has ended; nothing to do if it has already. Raises NotKilled."""
        if entry.life.phase not in ALIVE:
            return
        stopped = self._ledger.wait(entry, "not-running")
        try:
            self._signal(entry, int(signal.SIGKILL), means_stop=True)
            if not await _done_within(stopped, KILL_PATIENCE_S):
                raise NotKilled(
                    f"tried to kill container {entry.id}, but did not receive an exit event: "
                    "one of its processes does not die, see its state in ps"
                )
        finally:
            stopped.cancel()

    def _signal(self, entry: Entry, number: int, *, means_stop: bool) -> None:
        if means_stop:
            self._supervision.ask_stop(entry)
        process = entry.process
        if process is None:  # it waited for a restart: asking was all
            return
        try:
            process.kill(number)
        except Conflict:
            return  # it ended by itself just now; its watcher is about to say so
        if entry.life.phase == "paused" and means_stop:
            self._thaw(entry)  # a frozen process gets no signal, on cgroup v1 not even SIGKILL
        self._ledger.publish(entry, "kill", {"signal": str(number)})

    def sweep_group(self, cgroup_path: str) -> None:
        """Whatever is still in a container's control group ends, and the group goes."""
        self._cgroups.kill(cgroup_path)
        self._cgroups.remove(cgroup_path)

    async def restart(self, entry: Entry, timeout_s: int | None, signal_name: str) -> None:
        """Stop if it runs, then start. Raises what starting raises."""
        try:
            self._supervision.keep(entry)
            try:
                if entry.life.phase in ALIVE:
                    with contextlib.suppress(NotRunning):  # it has just ended by itself
                        await self._stop(entry, timeout_s, signal_name)
            finally:
                self._supervision.unkeep(entry)
            with contextlib.suppress(NotModified):  # somebody else was faster: it runs anew all the same
                await self._supervision.start(entry)
        except SampanError as error:
            error.message = f"Cannot restart container {entry.name}: {error.message}"
            error.args = (error.message,)
            raise
        self._ledger.publish(entry, "restart")

    async def pause(self, entry: Entry) -> None:
        """Raises Conflict."""
        async with self._locks.hold("container", entry.id):
            step(entry.life, Pause(), entry.rules)
            run = _require_run(entry)
            try:
                self._cgroups.freeze(run.cgroup_path)
            except FileNotFoundError:
                # it has just ended, and its group with it
                raise NotRunning(f"container {entry.id} is not running") from None
            except OSError as error:
                raise SystemFailure(f"cannot pause container {entry.id}: {error}") from error
            try:
                self._ledger.apply(entry, Pause(), msgspec.structs.replace(run, paused=True))
            except SampanError:
                # a container that is frozen and not known to be would not even be killed
                self._cgroups.thaw(run.cgroup_path)
                raise
            self._ledger.publish(entry, "pause")

    async def unpause(self, entry: Entry) -> None:
        """Raises SystemFailure, as Docker does, for one that is not paused."""
        async with self._locks.hold("container", entry.id):
            self._thaw(entry)

    def _thaw(self, entry: Entry) -> None:
        step(entry.life, Unpause(), entry.rules)
        run = _require_run(entry)
        try:
            self._cgroups.thaw(run.cgroup_path)
        except FileNotFoundError:
            return  # it has just ended, and its group with it
        except OSError as error:
            raise SystemFailure(f"Cannot unpause container {entry.id}: {error}") from error
        self._ledger.apply(entry, Unpause(), msgspec.structs.replace(run, paused=False))
        self._ledger.publish(entry, "unpause")


def _require_run(entry: Entry) -> RunRecord:
    if entry.run is None:
        raise NotRunning(f"container {entry.id} is not running")
    return entry.run


async def _done_within(future: asyncio.Future[WaitResult], timeout_s: float | None) -> bool:
    done, _ = await asyncio.wait((future,), timeout=timeout_s)
    return bool(done)


def stop_signal(entry: Entry) -> int:
    """The container's own, else SIGTERM; also SIGTERM where an image names one that does not exist."""
    configured = entry.record.config.stop_signal
    try:
        return parse_signal(configured) if configured else int(signal.SIGTERM)
    except InvalidSignal:
        return int(signal.SIGTERM)
