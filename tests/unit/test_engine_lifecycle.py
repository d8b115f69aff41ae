"""The state machine of a container's life: what always holds, and what each request answers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.base.errors import SampanError
from sampan.engine.container.lifecycle import (
    ALIVE,
    FIRST_DELAY_NS,
    LONGEST_DELAY_NS,
    SAVE,
    AutoRemove,
    Event,
    Exited,
    Life,
    Pause,
    Publish,
    Remove,
    RemoveFailed,
    Rules,
    ScheduleRestart,
    Start,
    Started,
    StartFailed,
    StopAsked,
    Unpause,
    initial,
    next_delay_ns,
    starts_at_boot,
    state_view,
    step,
    wants_restart,
)
from sampan.model.container import ExitRecord, RestartPolicy

POLICIES = st.sampled_from(
    [
        RestartPolicy(),
        RestartPolicy(name="no"),
        RestartPolicy(name="always"),
        RestartPolicy(name="unless-stopped"),
        RestartPolicy(name="on-failure"),
        RestartPolicy(name="on-failure", maximum_retry_count=2),
    ]
)
RULES = st.builds(
    lambda policy, auto_remove: Rules(
        id="i" * 64, name="web", restart_policy=policy, auto_remove=auto_remove and policy.name in ("", "no")
    ),
    POLICIES,
    st.booleans(),
)
EVENTS: st.SearchStrategy[Any] = st.one_of(
    st.builds(Start, by_policy=st.booleans()),
    st.just("started"),
    st.builds(
        StartFailed, message=st.just("no"), exit_code=st.sampled_from([0, 126, 127]), now_ns=st.just(1)
    ),
    st.just("stop"),
    st.just(Pause()),
    st.just(Unpause()),
    st.tuples(st.sampled_from([0, 1, 137]), st.integers(0, 30), st.booleans()),
    st.just(Remove()),
    st.just(RemoveFailed(message="busy")),
)


def is_possible(life: Life, event: Event) -> bool:
    """What happens (rather than is asked for) happens only where it can."""
    match event:
        case Started() | StartFailed():
            return life.phase == "starting"
        case Exited():
            return life.phase in ("running", "paused")
        case RemoveFailed():
            return life.phase == "removing"
    return True


@settings(max_examples=400)
@given(RULES, st.lists(EVENTS, max_size=30))
def test_what_always_holds(rules: Rules, script: list[Any]) -> None:
    life, now_ns, pid = Life(phase="created", exit=ExitRecord()), 1, 1
    for item in script:
        now_ns += 1
        event = item
        if item == "started":
            pid += 1
            event = Started(pid=pid, started_ns=now_ns)
        elif item == "stop":
            event = StopAsked(now_ns=now_ns)
        elif isinstance(item, tuple):
            now_ns += item[1] * 10**9
            event = Exited(exit_code=item[0], finished_ns=now_ns, oom_killed=False, keep=item[2])
        if not is_possible(life, event):
            continue
        try:
            after, effects = step(life, event, rules)
        except SampanError:
            continue  # refused: nothing has changed
        restarts = [e for e in effects if isinstance(e, ScheduleRestart)]
        view = state_view(after, None)
        # a pid exactly while there is a process
        assert (after.pid != 0) == (after.phase in ("running", "paused"))
        assert view.running == (after.phase in ALIVE)
        assert view.status in ("created", "running", "paused", "restarting", "removing", "exited", "dead")
        # waiting for a restart and having scheduled one are the same
        assert bool(restarts) == (after.phase == "restarting" and life.phase != "restarting")
        if restarts:
            assert FIRST_DELAY_NS <= restarts[0].delay_ns <= LONGEST_DELAY_NS
            assert not after.exit.stopped_by_user
            assert SAVE in effects
        if any(isinstance(e, AutoRemove) for e in effects):
            assert rules.auto_remove
            assert after.phase in ("created", "exited")
        if isinstance(event, StopAsked):
            assert after.exit.stopped_by_user
            assert not after.exit.wanted_running
        # whatever changed what the next daemon must know was saved, unless the exit will
        if after.exit != life.exit and not isinstance(event, (Start, StopAsked)):
            assert SAVE in effects
        # every state comes back from the store as something that can go on
        again = initial(after.exit, after.phase in ("running", "paused"))
        assert again.phase in ("created", "exited", "running", "dead")
        life = after


@given(st.integers(0, LONGEST_DELAY_NS), st.integers(0, 10**12))
def test_delays_double_up_to_a_minute(previous_ns: int, ran_ns: int) -> None:
    delay = next_delay_ns(previous_ns, ran_ns)
    assert delay >= FIRST_DELAY_NS or 0 < previous_ns < FIRST_DELAY_NS
    assert delay <= LONGEST_DELAY_NS
    if ran_ns >= 10 * 10**9:
        assert delay == FIRST_DELAY_NS


def test_delays_from_the_first() -> None:
    delays, delay = [], 0
    for _ in range(12):
        delay = next_delay_ns(delay, 0)
        delays.append(delay / 1e9)
    assert delays[:4] == [0.1, 0.2, 0.4, 0.8]
    assert delays[-2:] == [60, 60]


@pytest.mark.parametrize(
    ("policy", "record", "expected"),
    [
        ("no", {"exit_code": 1}, False),
        ("always", {"exit_code": 0}, True),
        ("always", {"exit_code": 0, "stopped_by_user": True}, False),
        ("unless-stopped", {"exit_code": 0}, True),
        ("unless-stopped", {"stopped_by_user": True}, False),
        ("on-failure", {"exit_code": 0}, False),
        ("on-failure", {"exit_code": 1}, True),
        ("on-failure:2", {"exit_code": 1, "restart_count": 1}, True),
        ("on-failure:2", {"exit_code": 1, "restart_count": 2}, False),
    ],
)
def test_who_wants_a_restart(policy: str, record: dict[str, Any], expected: bool) -> None:
    assert wants_restart(parse(policy), ExitRecord(started_ns=1, **record)) is expected


@pytest.mark.parametrize(
    ("policy", "record", "expected"),
    [
        ("always", {"started_ns": 0}, False),
        ("always", {"stopped_by_user": True}, True),
        ("unless-stopped", {"stopped_by_user": True}, False),
        ("unless-stopped", {"wanted_running": True}, True),
        ("on-failure:1", {"wanted_running": True, "restart_count": 1, "exit_code": 1}, True),
        ("on-failure", {"exit_code": 1}, False),
        ("no", {"wanted_running": True}, False),
    ],
)
def test_who_starts_with_the_daemon(policy: str, record: dict[str, Any], expected: bool) -> None:
    assert starts_at_boot(parse(policy), ExitRecord(**{"started_ns": 1, **record})) is expected


def parse(text: str) -> RestartPolicy:
    name, _, count = text.partition(":")
    return RestartPolicy(name=name, maximum_retry_count=int(count or 0))


def test_events_of_an_oom_kill_come_in_order() -> None:
    life = Life(phase="running", pid=5, exit=ExitRecord(started_ns=1))
    event = Exited(exit_code=137, finished_ns=2_000_000_001, oom_killed=True)
    after, effects = step(life, event, Rules(id="i", name="n"))
    published = [e for e in effects if isinstance(e, Publish)]
    assert [e.action for e in published] == ["oom", "die"]
    assert published[1].attributes == {"exitCode": "137", "execDuration": "2"}
    assert after.exit.oom_killed
