"""The life of a container as a pure function: ``step(life, event, rules) -> (life, effects)``.

::

    created ──Start──▶ starting ──Started──▶ running ◀──Pause/Unpause──▶ paused
       ▲                  │ StartFailed         │ Exited
       └──────────────────┴─▶ exited ◀──────────┤
                               ▲  │ Remove      └─(policy)─▶ restarting ──Start(by_policy)──▶ starting
                               │  ▼
                        dead ◀─RemoveFailed─ removing ──▶ gone

Time arrives in the events. What happened while the daemon was away goes through the same function as
what happens while it watches. Requests that a state excludes raise, with Docker's texts.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from sampan.base.errors import Conflict, NotModified, SystemFailure
from sampan.model.container import ExitRecord, HealthState, RestartPolicy

from .views import StateView

Phase = Literal["created", "starting", "running", "paused", "restarting", "exited", "removing", "dead"]

ALIVE = ("running", "paused", "restarting")
"""What Docker's ``Running`` flag covers."""

FIRST_DELAY_NS = 100_000_000
LONGEST_DELAY_NS = 60_000_000_000
STEADY_RUN_NS = 10_000_000_000
"""A run this long makes the next restart wait the first delay again."""

START_FAILED_EXIT = 128
"""What Docker leaves as exit code when a start fails for none of the known reasons."""


class Life(msgspec.Struct, frozen=True, kw_only=True):
    """Where one container stands."""

    phase: Phase
    exit: ExitRecord
    pid: int = 0
    delay_ns: int = 0
    """The last restart delay; 0 after a steady run."""
    by_policy: bool = False
    """While starting: a restart policy asked for it, nobody waits for its error."""


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of the record that transitions depend on."""

    id: str
    name: str
    restart_policy: RestartPolicy = RestartPolicy()
    auto_remove: bool = False


# --- events -----------------------------------------------------------------------------------------------


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something was asked for or happened."""


class Start(Event, frozen=True, kw_only=True):
    by_policy: bool = False


class Started(Event, frozen=True, kw_only=True):
    pid: int
    started_ns: int


class StartFailed(Event, frozen=True, kw_only=True):
    message: str
    exit_code: int
    now_ns: int


class StopAsked(Event, frozen=True, kw_only=True):
    """``stop``, or a ``kill`` that means to end it: the restart policy rests until the next start."""

    now_ns: int


class Pause(Event, frozen=True, kw_only=True):
    pass


class Unpause(Event, frozen=True, kw_only=True):
    pass


class Exited(Event, frozen=True, kw_only=True):
    exit_code: int
    finished_ns: int
    oom_killed: bool = False
    keep: bool = False
    """``restart`` is under way: neither policy nor auto-removal applies."""


class Remove(Event, frozen=True, kw_only=True):
    pass


class RemoveFailed(Event, frozen=True, kw_only=True):
    message: str


# --- effects ----------------------------------------------------------------------------------------------


class Effect(msgspec.Struct, frozen=True, kw_only=True):
    """Something for the service to do, in this order."""


class Save(Effect, frozen=True, kw_only=True):
    pass


class Publish(Effect, frozen=True, kw_only=True):
    action: str
    attributes: dict[str, str] = {}


class NotifyStopped(Effect, frozen=True, kw_only=True):
    """Wake who waits for not-running or next-exit."""


class ScheduleRestart(Effect, frozen=True, kw_only=True):
    delay_ns: int


class CancelRestart(Effect, frozen=True, kw_only=True):
    pass


class AutoRemove(Effect, frozen=True, kw_only=True):
    pass


Step = tuple[Life, tuple[Effect, ...]]

SAVE = Save()
NOTIFY_STOPPED = NotifyStopped()


class AlreadyRunning(NotModified):
    """Start of a container that runs."""


class NotRunning(Conflict):
    """The request needs a running container."""


class RemovalInProgress(Conflict):
    """Somebody else is removing it."""


class NotRemovable(Conflict):
    """Removal of what runs; the service puts the caller's own name for the container in front."""


class NotPaused(SystemFailure):
    """Unpause of what is not paused; Docker answers 500."""


def step(life: Life, event: Event, rules: Rules) -> Step:
    """One transition. Raises Conflict, NotModified or SystemFailure for what the state excludes."""
    match event:
        case Start():
            return _start(life, event)
        case Started():
            return _started(life, event)
        case StartFailed():
            return _start_failed(life, event, rules)
        case StopAsked():
            return _stop_asked(life, event, rules)
        case Pause():
            return _pause(life, rules)
        case Unpause():
            return _unpause(life, rules)
        case Exited():
            return _exited(life, event, rules)
        case Remove():
            return _remove(life, rules)
        case RemoveFailed():
            failed = replace_exit(life, dead=True, error=event.message)
            return msgspec.structs.replace(failed, phase="dead"), (SAVE,)
    raise AssertionError(f"unknown event {event!r}")


def initial(exit_record: ExitRecord, has_run: bool) -> Life:
    """Where the store says a container stands. ``has_run``: it was running when last heard of."""
    phase: Phase = "created"
    if exit_record.dead:
        phase = "dead"
    elif has_run:
        phase = "running"
    elif exit_record.started_ns:
        phase = "exited"
    return Life(phase=phase, exit=exit_record)


def replace_exit(life: Life, **changes: object) -> Life:
    return msgspec.structs.replace(life, exit=msgspec.structs.replace(life.exit, **changes))


def _resting(exit_record: ExitRecord) -> Phase:
    return "exited" if exit_record.started_ns else "created"


def _start(life: Life, event: Start) -> Step:
    if life.phase == "paused":
        raise Conflict("cannot start a paused container, try unpause instead")
    if life.phase in ("removing", "dead"):
        raise Conflict("container is marked for removal and cannot be started")
    if event.by_policy and life.phase != "restarting":
        raise AlreadyRunning("container is not waiting for a restart")
    if not event.by_policy and life.phase in ("running", "restarting", "starting"):
        raise AlreadyRunning("container is already running")
    if not event.by_policy:
        life = msgspec.structs.replace(replace_exit(life, restart_count=0, stopped_by_user=False), delay_ns=0)
    return msgspec.structs.replace(life, phase="starting", by_policy=event.by_policy), ()


def _started(life: Life, event: Started) -> Step:
    life = replace_exit(
        life, started_ns=event.started_ns, exit_code=0, oom_killed=False, error="", wanted_running=True
    )
    life = msgspec.structs.replace(life, phase="running", pid=event.pid, by_policy=False)
    return life, (SAVE, Publish(action="start"))


def _start_failed(life: Life, event: StartFailed, rules: Rules) -> Step:
    by_policy = life.by_policy
    life = replace_exit(
        life,
        error=event.message,
        exit_code=event.exit_code or START_FAILED_EXIT,
        wanted_running=False,
        finished_ns=event.now_ns if by_policy else life.exit.finished_ns,
    )
    life = msgspec.structs.replace(life, phase=_resting(life.exit), pid=0, by_policy=False)
    effects: tuple[Effect, ...] = (SAVE, NOTIFY_STOPPED) if by_policy else (SAVE,)
    return life, (*effects, AutoRemove()) if rules.auto_remove else effects


def _stop_asked(life: Life, event: StopAsked, rules: Rules) -> Step:
    if life.phase not in ALIVE:
        raise NotRunning(f"container {rules.id} is not running")
    life = replace_exit(life, stopped_by_user=True, wanted_running=False)
    if life.phase == "restarting":
        life = msgspec.structs.replace(life, phase="exited", pid=0)
        return life, (CancelRestart(), SAVE, NOTIFY_STOPPED)
    # without a policy the exit saves it soon enough, and nothing would be done differently until then
    return life, (SAVE,) if restarts_at_all(rules.restart_policy) else ()


def _pause(life: Life, rules: Rules) -> Step:
    if life.phase == "paused":
        raise Conflict(f"Container {rules.id} is already paused")
    if life.phase == "restarting":
        raise restarting_conflict(rules.id)
    if life.phase != "running":
        raise NotRunning(f"container {rules.id} is not running")
    return msgspec.structs.replace(life, phase="paused"), (SAVE,)


def _unpause(life: Life, rules: Rules) -> Step:
    if life.phase != "paused":
        raise NotPaused(f"Container {rules.id} is not paused")
    return msgspec.structs.replace(life, phase="running"), (SAVE,)


def _exited(life: Life, event: Exited, rules: Rules) -> Step:
    ran_ns = max(0, event.finished_ns - life.exit.started_ns)
    die = Publish(
        action="die",
        attributes={"exitCode": str(event.exit_code), "execDuration": str(ran_ns // 1_000_000_000)},
    )
    oom: tuple[Effect, ...] = (Publish(action="oom"),) if event.oom_killed else ()
    life = replace_exit(
        life, exit_code=event.exit_code, finished_ns=event.finished_ns, oom_killed=event.oom_killed
    )
    life = msgspec.structs.replace(life, pid=0)
    if not event.keep and wants_restart(rules.restart_policy, life.exit):
        delay_ns = next_delay_ns(life.delay_ns, ran_ns)
        life = replace_exit(life, restart_count=life.exit.restart_count + 1)
        life = msgspec.structs.replace(life, phase="restarting", delay_ns=delay_ns)
        return life, (*oom, SAVE, NOTIFY_STOPPED, die, ScheduleRestart(delay_ns=delay_ns))
    life = msgspec.structs.replace(replace_exit(life, wanted_running=False), phase="exited")
    effects: tuple[Effect, ...] = (*oom, SAVE, NOTIFY_STOPPED, die)
    return life, (*effects, AutoRemove()) if rules.auto_remove and not event.keep else effects


def _remove(life: Life, rules: Rules) -> Step:
    if life.phase == "removing":
        raise RemovalInProgress(f"removal of container {rules.name} is already in progress")
    if life.phase == "paused":
        raise NotRemovable("container is paused and must be unpaused first")
    if life.phase in (*ALIVE, "starting"):
        status = "running" if life.phase == "starting" else life.phase
        raise NotRemovable(f"container is {status}: stop the container before removing or force remove")
    return msgspec.structs.replace(life, phase="removing"), ()


def restarting_conflict(container_id: str) -> Conflict:
    return Conflict(f"Container {container_id} is restarting, wait until the container is running")


# --- restart policy ---------------------------------------------------------------------------------------


def restarts_at_all(policy: RestartPolicy) -> bool:
    return policy.name not in ("", "no")


def wants_restart(policy: RestartPolicy, exit_record: ExitRecord) -> bool:
    """After an exit that somebody watched, or that is found out at start-up."""
    if exit_record.stopped_by_user:
        return False
    if policy.name == "on-failure":
        retries_left = (
            not policy.maximum_retry_count or exit_record.restart_count < policy.maximum_retry_count
        )
        return exit_record.exit_code != 0 and retries_left
    return policy.name in ("always", "unless-stopped")


def starts_at_boot(policy: RestartPolicy, exit_record: ExitRecord) -> bool:
    """For a container that is not running when the daemon starts."""
    if not exit_record.started_ns:
        return False
    if policy.name == "always":
        return True
    # wanted but not running: the daemon ended while a restart was due
    return exit_record.wanted_running and restarts_at_all(policy) and not exit_record.stopped_by_user


def next_delay_ns(previous_ns: int, ran_ns: int) -> int:
    """100 ms, doubled with every restart up to a minute; a run of ten seconds starts over."""
    if ran_ns >= STEADY_RUN_NS or previous_ns == 0:
        return FIRST_DELAY_NS
    return min(previous_ns * 2, LONGEST_DELAY_NS)


def state_view(life: Life, health: HealthState | None) -> StateView:
    """What clients see. A start under way still shows the state before it."""
    phase = life.phase
    record = life.exit
    return StateView(
        status=_resting(record) if phase == "starting" else phase,
        running=phase in ALIVE,
        paused=phase == "paused",
        restarting=phase == "restarting",
        oom_killed=record.oom_killed,
        dead=phase == "dead",
        pid=life.pid,
        exit_code=record.exit_code,
        error=record.error,
        started_ns=record.started_ns,
        finished_ns=record.finished_ns,
        health=health,
    )
