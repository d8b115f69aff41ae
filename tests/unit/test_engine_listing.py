"""Filters of lists and events, references and detach keys."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.engine import Engine

from sampan.base.errors import InvalidArgument, NotFound
from sampan.engine.container.signals import parse_signal
from sampan.engine.container.top import parse_ps, process_row
from sampan.engine.events import KEPT, Events
from sampan.engine.filters import InvalidFilter, parse_duration_ns, parse_moment_ns
from sampan.engine.locks import KeyedLocks, LockOrderViolation
from sampan.engine.streams.detach import DEFAULT_KEYS, DetachFilter, parse_detach_keys
from sampan.model.container import ContainerConfig, MountPoint, PortBinding
from sampan.model.event import Event


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    made = await Engine.open(str(tmp_path))
    yield made
    await made.close()


async def names(engine: Engine, filters: dict[str, list[str]] | None = None, **options: Any) -> list[str]:
    views = engine.containers.list(all=options.pop("all", True), filters=filters or {}, **options)
    return [view.record.name for view in views]


async def populate(engine: Engine) -> None:
    """Oldest first: one created, one exited with 3, one running, one paused."""
    config = ContainerConfig(image="busybox", labels={"a": "b"}, exposed_ports={"53/udp": {}})
    await engine.create("made", config=config)
    (await engine.run("ended")).exit(3)
    await engine.settle()
    await engine.run("runs", port_bindings={"80/tcp": [PortBinding(host_port="8080")]})
    await engine.run("paused", network_mode="host")
    await engine.containers.pause("paused")


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, ["paused", "runs", "ended", "made"]),
        ({"status": ["exited", "created"]}, ["ended", "made"]),
        ({"status": ["paused"]}, ["paused"]),
        ({"exited": ["3"]}, ["ended"]),
        ({"exited": ["0"]}, []),
        ({"name": ["run"]}, ["runs"]),
        ({"name": ["^/made$", "^ended$"]}, ["ended", "made"]),
        ({"label": ["a"]}, ["made"]),
        ({"label": ["a=b"]}, ["made"]),
        ({"label": ["a=c"]}, []),
        ({"label": ["from=image", "a"]}, ["made"]),
        ({"before": ["runs"]}, ["ended", "made"]),
        ({"since": ["ended"]}, ["paused", "runs"]),
        ({"ancestor": ["busybox"]}, ["paused", "runs", "ended", "made"]),
        ({"ancestor": ["nothing"]}, []),
        ({"publish": ["8080"]}, ["runs"]),
        ({"publish": ["8000-8090/tcp"]}, ["runs"]),
        ({"expose": ["53/udp"]}, ["made"]),
        ({"expose": ["80"]}, ["runs"]),
        ({"network": ["host"]}, ["paused"]),
        ({"health": ["none"]}, ["paused", "runs", "ended", "made"]),
        ({"health": ["healthy"]}, []),
        ({"is-task": ["true"]}, []),
        ({"is-task": ["false"]}, ["paused", "runs", "ended", "made"]),
        ({"isolation": ["default"]}, []),
    ],
)
async def test_filters(engine: Engine, filters: dict[str, list[str]], expected: list[str]) -> None:
    await populate(engine)
    assert await names(engine, filters) == expected


async def test_all_limit_and_ids(engine: Engine) -> None:
    await populate(engine)
    assert await names(engine, all=False) == ["paused", "runs"]
    assert await names(engine, all=False, limit=3) == ["paused", "runs", "ended"]
    assert await names(engine, {"status": ["exited"]}, all=False) == ["ended"]
    container_id = (await engine.containers.inspect("ended")).record.id
    assert await names(engine, {"id": [container_id[:20]]}) == ["ended"]
    assert await names(engine, {"id": ["zzz"]}) == []


async def test_volume_filter(engine: Engine) -> None:
    point = MountPoint(type="volume", name="data", destination="/data")

    async def resolve(*_: Any) -> list[MountPoint]:
        return [point]

    engine.mounts.resolve = resolve  # type: ignore[method-assign]
    await engine.create("with")
    assert await names(engine, {"volume": ["data"]}) == ["with"]
    assert await names(engine, {"volume": ["/data"]}) == ["with"]
    assert await names(engine, {"volume": ["dat"]}) == []


@pytest.mark.parametrize(
    ("filters", "text"),
    [
        ({"nope": ["x"]}, "invalid filter 'nope'"),
        ({"status": ["gone"]}, "invalid filter 'status=gone'"),
        ({"health": ["fine"]}, "invalid filter 'health=fine'"),
        ({"exited": ["x"]}, "invalid filter 'exited=x'"),
        ({"is-task": ["maybe"]}, r"invalid filter 'is-task=\[maybe\]'"),
        ({"publish": ["1:2"]}, "filter for 'publish' should not contain ':'"),
        ({"expose": ["x"]}, "error while looking up for expose x"),
    ],
)
async def test_bad_filters(engine: Engine, filters: dict[str, list[str]], text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        engine.containers.list(filters=filters)


async def test_before_an_unknown_container(engine: Engine) -> None:
    with pytest.raises(NotFound, match="No such container: nope"):
        engine.containers.list(filters={"before": ["nope"]})


# --- events -----------------------------------------------------------------------------------------------


async def drain(events: Events, **options: Any) -> list[str]:
    options.setdefault("since_ns", 1)
    return [e.action async for e in events.subscribe(until_ns=events.now(), **options)]


async def test_past_events_and_filters() -> None:
    moments = iter(range(10, 1000, 10))
    events = Events(lambda: next(moments))
    events.publish("container", "start", "c1", {"name": "web", "image": "busybox:latest", "a": "b"})
    events.publish("container", "exec_start: ls", "c1", {"name": "web", "image": "busybox:latest"})
    events.publish("image", "tag", "sha256:1", {"name": "busybox:latest"})
    events.publish("volume", "create", "data", {})
    everything = ["start", "exec_start: ls", "tag", "create"]
    assert await drain(events) == everything
    assert await drain(events, since_ns=20) == everything[1:]
    assert await drain(events, filters={"type": ["volume", "image"]}) == ["tag", "create"]
    assert await drain(events, filters={"event": ["exec_start"]}) == ["exec_start: ls"]
    assert await drain(events, filters={"event": ["start"]}) == ["start"]
    assert await drain(events, filters={"container": ["web"]}) == ["start", "exec_start: ls"]
    assert await drain(events, filters={"image": ["busybox"]}) == everything[:3]
    assert await drain(events, filters={"label": ["a=b"]}) == ["start"]
    assert await drain(events, filters={"scope": ["swarm"]}) == []
    assert events.subscriber_count == 0
    with pytest.raises(InvalidFilter, match="invalid filter 'nope'"):
        events.subscribe(filters={"nope": ["x"]})


async def test_new_events_and_the_end_of_a_subscription() -> None:
    events = Events()
    stream = events.subscribe()
    reading: asyncio.Task[Event] = asyncio.ensure_future(anext(stream))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    events.publish("container", "start", "c1", {})
    assert (await reading).action == "start"
    await stream.aclose()
    assert events.subscriber_count == 0
    until = events.subscribe(until_ns=events.now() + 20_000_000)
    assert [e async for e in until] == []


async def test_only_the_last_events_are_kept() -> None:
    events = Events()
    for number in range(KEPT + 10):
        events.publish("container", str(number), "c", {})
    kept = await drain(events)
    assert len(kept) == KEPT
    assert kept[0] == "10"


# --- time, signals, keys, locks, top ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10", 10 * 10**9),
        ("1.5", 1_500_000_000),
        ("1.000000007", 1_000_000_007),
        ("10s", 90 * 10**9),
        ("1m", 40 * 10**9),
        ("1970-01-02", 86_400 * 10**9),
        ("1970-01-01T00:00:10Z", 10 * 10**9),
        ("1970-01-01T01:00:10+01:00", 10 * 10**9),
        ("1970-01-01T00:01", 60 * 10**9),
    ],
)
def test_moments(text: str, expected: int) -> None:
    assert parse_moment_ns(text, 100 * 10**9) == expected


def test_bad_moments() -> None:
    with pytest.raises(InvalidArgument):
        parse_moment_ns("yesterday", 0)
    with pytest.raises(ValueError, match="invalid duration"):
        parse_duration_ns("5 apples")
    assert parse_duration_ns("-1h2m") == -3720 * 10**9


@pytest.mark.parametrize(
    ("text", "number"),
    [("KILL", 9), ("SIGKILL", 9), ("sigterm", 15), ("9", 9), ("RTMIN", 34), ("SIGRTMIN+3", 37), ("64", 64)],
)
def test_signals(text: str, number: int) -> None:
    assert parse_signal(text) == number


@pytest.mark.parametrize("text", ["", "SIG", "NOPE", "0", "65", "-9"])
def test_bad_signals(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid signal"):
        parse_signal(text)


def test_detach_keys() -> None:
    assert parse_detach_keys("") == DEFAULT_KEYS
    assert parse_detach_keys("ctrl-p,ctrl-q") == DEFAULT_KEYS
    assert parse_detach_keys("a,ctrl-@,ctrl-[,DEL") == b"a\x00\x1b\x7f"
    for bad in ("ctrl-1", "alt-x", "ab", "a,"):
        with pytest.raises(ValueError, match="Unknown character"):
            parse_detach_keys(bad)


@given(st.lists(st.binary(max_size=6)), st.binary(min_size=1, max_size=4))
def test_detach_filter_loses_and_adds_nothing(chunks: list[bytes], keys: bytes) -> None:
    """What is passed on is everything before the sequence, less only what could begin it."""
    detach = DetachFilter(keys)
    sent, passed, done = b"", b"", False
    for chunk in chunks:
        sent += chunk
        out, done = detach.feed(chunk)
        passed += out
        if done:
            break
    assert done == (keys in sent)
    if done:
        assert passed == sent[: sent.index(keys)]
    else:
        assert sent.startswith(passed)
        assert keys.startswith(sent[len(passed) :])


async def test_locks_exclude_and_vanish() -> None:
    locks = KeyedLocks()
    order: list[str] = []

    async def work(name: str) -> None:
        async with locks.hold("container", "a"):
            order.append(f"{name} in")
            await asyncio.sleep(0)
            order.append(f"{name} out")

    await asyncio.gather(work("one"), work("two"))
    assert order == ["one in", "one out", "two in", "two out"]
    assert len(locks) == 0


async def test_lock_order_is_checked() -> None:
    locks = KeyedLocks()
    async with locks.hold("container", "a"):
        async with locks.hold("volume", "v"):
            with pytest.raises(LockOrderViolation):
                async with locks.hold("network", "n"):
                    pass
        with pytest.raises(LockOrderViolation):
            async with locks.hold("container", "b"):
                pass


def test_ps_output() -> None:
    output = "  PID USER COMMAND\n    7 root sleep 10\n    - root -\n    8 root other\n    - root -\n"
    result = parse_ps(output, [7])
    assert result.titles == ["PID", "USER", "COMMAND"]
    assert result.processes == [["7", "root", "sleep 10"], ["-", "root", "-"]]


def test_a_row_of_our_own_process() -> None:
    import os
    import time

    row = process_row(os.getpid(), time.time())
    assert row is not None
    assert row[1:3] == [str(os.getpid()), str(os.getppid())]
    assert "python" in row[7] or "pytest" in row[7]
    assert process_row(2**22 + 1, time.time()) is None


async def test_top(engine: Engine) -> None:
    await engine.create("web")
    with pytest.raises(InvalidArgument, match='specifying "user=PID" is not allowed'):
        await engine.containers.top("web", "-o user=PID")
    await engine.containers.start("web")
    result = await engine.containers.top("web")
    assert result.titles[:3] == ["UID", "PID", "PPID"]
    assert len(result.processes) == 1
    assert engine.actions()[-1] == "top"
