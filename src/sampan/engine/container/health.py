"""Health checks: one task per running container that has one; what a result means is a pure function."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

import msgspec

from sampan.base.clock import now_ns
from sampan.base.errors import SampanError
from sampan.engine.tasks import Tasks
from sampan.model.container import ContainerConfig, HealthConfig, HealthResult, HealthState

from .ledger import Ledger
from .registry import Entry

log = logging.getLogger(__name__)

DEFAULT_INTERVAL_NS = 30_000_000_000
DEFAULT_TIMEOUT_NS = 30_000_000_000
DEFAULT_START_INTERVAL_NS = 5_000_000_000
DEFAULT_RETRIES = 3
LOG_ENTRIES = 5
OUTPUT_LIMIT_BYTES = 4096


class Probed(msgspec.Struct, frozen=True, kw_only=True):
    exit_code: int | None
    """None: it was killed at the timeout."""
    output: str


class ProbeRunner(Protocol):
    async def probe(self, entry: Entry, command: list[str], timeout_s: float, limit_bytes: int) -> Probed:
        """Run a command in the container. Raises SampanError when it could not be started."""


def probe_command(config: ContainerConfig) -> list[str] | None:
    """What to run; None when health is not checked."""
    test = config.healthcheck.test if config.healthcheck is not None else None
    if not test or len(test) < 2 or test[0] not in ("CMD", "CMD-SHELL"):
        return None
    if test[0] == "CMD-SHELL":
        return [*(config.shell or ("/bin/sh", "-c")), *test[1:]]
    return test[1:]


def next_state(
    state: HealthState, result: HealthResult, config: HealthConfig, started_ns: int
) -> HealthState:
    """The state after one more probe. While starting, failures within the start period do not count."""
    entries = (*state.log, result)[-LOG_ENTRIES:]
    if result.exit_code == 0:
        return HealthState(status="healthy", failing_streak=0, log=entries)
    forgiven = state.status == "starting" and result.start_ns - started_ns < config.start_period
    streak = state.failing_streak + (0 if forgiven else 1)
    retries = config.retries if config.retries > 0 else DEFAULT_RETRIES
    status = "unhealthy" if not forgiven and streak >= retries else state.status
    return HealthState(status=status, failing_streak=streak, log=entries)


def wait_ns(state: HealthState, config: HealthConfig, since_start_ns: int) -> int:
    """Until the next probe: more often while it is still starting within its start period."""
    if since_start_ns < config.start_period and state.status == "starting":
        return config.start_interval or DEFAULT_START_INTERVAL_NS
    return config.interval or DEFAULT_INTERVAL_NS


def timeout_output(timeout_ns: int, output: str) -> str:
    text = f"Health check exceeded timeout ({format_duration(timeout_ns)})"
    return f"{text}: {output}" if output else text


def format_duration(duration_ns: int) -> str:
    """As Go prints a time.Duration: ``1.5s``, ``2m0s``, ``300ms``."""
    if duration_ns < 1_000_000_000:
        for unit, size in (("ms", 1_000_000), ("µs", 1_000)):
            if duration_ns >= size:
                return f"{_short(duration_ns / size)}{unit}"
        return f"{duration_ns}ns" if duration_ns else "0s"
    minutes, rest_ns = divmod(duration_ns, 60_000_000_000)
    hours, minutes = divmod(minutes, 60)
    seconds = f"{_short(rest_ns / 1e9)}s"
    if hours:
        return f"{hours}h{minutes}m{seconds}"
    return f"{minutes}m{seconds}" if minutes else seconds


def _short(value: float) -> str:
    return f"{value:.9f}".rstrip("0").rstrip(".")


class HealthMonitors:
    """Starts with the container, rests while it is paused, ends with it."""

    def __init__(
        self,
        ledger: Ledger,
        runner: ProbeRunner,
        tell: Callable[[str, bool], None],
        now: Callable[[], int] = now_ns,
    ) -> None:
        """``tell`` is called with a container's id when it becomes, or is no longer, healthy."""
        self._ledger = ledger
        self._tell = tell
        self._runner = runner
        self._now = now
        self._tasks = Tasks("health")
        self._monitors: dict[str, asyncio.Task[None]] = {}

    def begin(self, entry: Entry) -> None:
        """It runs (again)."""
        command = probe_command(entry.record.config)
        if command is None:
            self._ledger.set_health(entry, None)
            return
        if entry.health is None or entry.life.phase == "running":
            before = entry.health.log if entry.health is not None else ()
            self._ledger.set_health(entry, HealthState(log=before))
            self._tell(entry.id, False)
        self._monitors[entry.id] = self._tasks.spawn(self._monitor(entry, command), entry.id)

    def end(self, entry: Entry) -> None:
        """It ended. As in Docker what was running counts as unhealthy from then on."""
        task = self._monitors.pop(entry.id, None)
        if task is None:
            return
        task.cancel()
        if entry.health is not None:
            self._ledger.set_health(entry, msgspec.structs.replace(entry.health, status="unhealthy"))

    async def _monitor(self, entry: Entry, command: list[str]) -> None:
        config = entry.record.config.healthcheck
        assert config is not None
        while True:
            state = entry.health or HealthState()
            started_ns = entry.life.exit.started_ns
            await asyncio.sleep(wait_ns(state, config, self._now() - started_ns) / 1e9)
            if entry.life.phase != "running":
                continue
            result = await self._probe(entry, command, config)
            before = entry.health or HealthState()
            after = next_state(before, result, config, started_ns)
            self._ledger.set_health(entry, after)
            if after.status != before.status:
                self._tell(entry.id, after.status == "healthy")
                self._ledger.publish(entry, f"health_status: {after.status}")

    async def _probe(self, entry: Entry, command: list[str], config: HealthConfig) -> HealthResult:
        start_ns = self._now()
        timeout_ns = config.timeout or DEFAULT_TIMEOUT_NS
        try:
            probed = await self._runner.probe(entry, command, timeout_ns / 1e9, OUTPUT_LIMIT_BYTES)
        except SampanError as error:
            exit_code, output = -1, error.message
        else:
            exit_code = -1 if probed.exit_code is None else probed.exit_code
            output = probed.output
            if probed.exit_code is None:
                output = timeout_output(timeout_ns, output)
        return HealthResult(start_ns=start_ns, end_ns=self._now(), exit_code=exit_code, output=output)

    async def close(self) -> None:
        await self._tasks.close()
