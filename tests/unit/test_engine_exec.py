"""exec, attach and health checks over a fake runtime."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.fakes.engine import Engine
from tests.fakes.runtime import FakeProcess

from sampan.base.errors import Conflict, InvalidArgument, NotFound, SystemFailure
from sampan.engine.container.health import (
    HealthState,
    format_duration,
    next_state,
    probe_command,
    timeout_output,
    wait_ns,
)
from sampan.engine.container.views import ExecConfig
from sampan.engine.streams.execs import ExecRejected, ProbeOutput, Unframer
from sampan.formats.stdcopy import STDERR, STDOUT, frame
from sampan.model.container import ContainerConfig, HealthConfig, HealthResult
from sampan.runtime.errors import StartFailed

SECOND = 1_000_000_000


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    made = await Engine.open(str(tmp_path))
    yield made
    await made.close()


def echo(process: FakeProcess) -> None:
    """A command that writes one line and ends."""
    for stream in process.streams:
        stream.emit(frame(STDOUT, b"hello\n"))
    asyncio.get_running_loop().call_soon(process.exit, 5)


async def read_all(session) -> bytes:  # type: ignore[no-untyped-def]
    data = b""
    while chunk := await session.read():
        data += chunk
    return data


async def test_an_attached_exec(engine: Engine) -> None:
    await engine.run("web")
    engine.runtime.on_exec = echo
    exec_id = await engine.execs.create("web", ExecConfig(cmd=["echo", "hello"], attach_stdout=True))
    view = await engine.execs.inspect(exec_id)
    assert (view.running, view.exit_code, view.entrypoint, view.arguments) == (False, None, "echo", ["hello"])
    session = await engine.execs.start(exec_id, detach=False)
    assert session is not None
    assert await read_all(session) == frame(STDOUT, b"hello\n")
    view = await engine.execs.inspect(exec_id)
    assert (view.running, view.exit_code) == (False, 5)
    await engine.settle()
    assert engine.actions()[2:] == ["exec_create: echo hello", "exec_start: echo hello", "exec_die"]
    assert engine.events._recent[-1].attributes["execID"] == exec_id
    with pytest.raises(Conflict, match="has already run"):
        await engine.execs.start(exec_id, detach=False)


async def test_framing_is_as_the_start_asked(engine: Engine) -> None:
    await engine.run("web")

    def raw(process: FakeProcess) -> None:
        process.streams[0].emit(b"hi\r\n")
        asyncio.get_running_loop().call_soon(process.exit, 0)

    engine.runtime.on_exec = raw
    exec_id = await engine.execs.create("web", ExecConfig(cmd=["sh"], tty=True, attach_stdout=True))
    session = await engine.execs.start(exec_id, detach=False, tty=False)
    assert session is not None
    assert await read_all(session) == frame(STDOUT, b"hi\r\n")
    engine.runtime.on_exec = echo
    exec_id = await engine.execs.create("web", ExecConfig(cmd=["sh"], attach_stdout=True))
    session = await engine.execs.start(exec_id, detach=False, tty=True)
    assert session is not None
    assert await read_all(session) == b"hello\n"


async def test_a_missing_command_is_told_in_the_stream(engine: Engine) -> None:
    await engine.run("web")
    engine.runtime.failure = StartFailed('exec: "no": executable file not found in $PATH', 127)
    exec_id = await engine.execs.create("web", ExecConfig(cmd=["no"], attach_stdout=True))
    session = await engine.execs.start(exec_id, detach=False)
    assert session is not None
    expected = (
        b'OCI runtime exec failed: exec failed: unable to start container process: exec: "no": '
        b"executable file not found in $PATH: unknown\r\n"
    )
    assert await read_all(session) == frame(STDOUT, expected)
    assert (await engine.execs.inspect(exec_id)).exit_code == 127
    exec_id = await engine.execs.create("web", ExecConfig(cmd=["no"]))
    with pytest.raises(ExecRejected):
        await engine.execs.start(exec_id, detach=True)


async def test_exec_needs_a_running_container(engine: Engine) -> None:
    with pytest.raises(NotFound, match="No such container: web"):
        await engine.execs.create("web", ExecConfig(cmd=["x"]))
    container_id = await engine.create("web")
    with pytest.raises(Conflict, match=f"container {container_id} is not running"):
        await engine.execs.create("web", ExecConfig(cmd=["x"]))
    await engine.containers.start("web")
    with pytest.raises(InvalidArgument, match="No exec command specified"):
        await engine.execs.create("web", ExecConfig())
    with pytest.raises(SystemFailure, match="Invalid escape keys"):
        await engine.execs.create("web", ExecConfig(cmd=["x"], detach_keys="ctrl-nothing"))
    await engine.containers.pause("web")
    with pytest.raises(Conflict, match="Container web is paused, unpause the container before exec"):
        await engine.execs.create("web", ExecConfig(cmd=["x"]))
    with pytest.raises(NotFound, match="No such exec instance: nope"):
        await engine.execs.inspect("nope")


async def test_inspect_lists_running_execs(engine: Engine) -> None:
    await engine.run("web")
    exec_id = await engine.execs.create("web", ExecConfig(cmd=["sleep"]))
    await engine.execs.start(exec_id, detach=True)
    assert (await engine.containers.inspect("web")).exec_ids == [exec_id]
    engine.process(exec_id).exit(0)
    await engine.settle()
    assert (await engine.containers.inspect("web")).exec_ids == []


# --- attach -----------------------------------------------------------------------------------------------


async def test_attach_before_the_start_loses_nothing(engine: Engine) -> None:
    container_id = await engine.create("web", config=ContainerConfig(image="busybox", open_stdin=True))
    session = await engine.containers.attach("web", stdin=True)
    session.write_eof()
    await engine.containers.start("web")
    process = engine.process(container_id)
    assert process.streams[0].eof
    process.streams[0].emit(b"out")
    process.exit(0)
    assert await read_all(session) == b"out"
    assert engine.actions()[:3] == ["create", "attach", "start"]


async def test_a_failed_start_ends_the_attached_output(engine: Engine) -> None:
    await engine.create("web")
    session = await engine.containers.attach("web")
    engine.runtime.failure = StartFailed("no", 127)
    with pytest.raises(InvalidArgument):
        await engine.containers.start("web")
    assert await read_all(session) == b""


async def test_removal_ends_the_attached_output(engine: Engine) -> None:
    await engine.create("web")
    session = await engine.containers.attach("web")
    reading = asyncio.ensure_future(session.read())
    await engine.settle()
    await engine.containers.remove("web")
    assert await reading == b""


async def test_detach_keys_end_the_output_and_leave_the_process(engine: Engine) -> None:
    config = ContainerConfig(image="busybox", tty=True, open_stdin=True)
    process = await engine.run("web", config=config)
    session = await engine.containers.attach("web", stdin=True)
    reading = asyncio.ensure_future(session.read())
    await engine.settle()
    await session.write(b"ls\x10")
    await session.write(b"\x11more")
    assert await reading == b""
    assert process.streams[0].received == b"ls"
    assert process.streams[0].closed
    assert process.status is None
    assert engine.actions()[-1] == "detach"


async def test_attach_with_logs_only(engine: Engine) -> None:
    await engine.run("web")
    engine.logs.text = b"earlier"
    session = await engine.containers.attach("web", stream=False, logs=True)
    assert await read_all(session) == b"earlier"
    with pytest.raises(InvalidArgument, match="Invalid detach keys"):
        await engine.containers.attach("web", detach_keys="ctrl-nothing")
    await engine.containers.pause("web")
    with pytest.raises(Conflict, match="is paused, unpause the container before attach"):
        await engine.containers.attach("web")


async def test_resize(engine: Engine) -> None:
    process = await engine.run("web")
    await engine.containers.resize("web", 24, 80)
    assert process.size == (24, 80)
    process.exit(0)
    await engine.settle()
    with pytest.raises(Conflict, match="is not running"):
        await engine.containers.resize("web", 24, 80)


# --- health -----------------------------------------------------------------------------------------------


def result(exit_code: int, start_ns: int = 0) -> HealthResult:
    return HealthResult(start_ns=start_ns, end_ns=start_ns + 1, exit_code=exit_code, output="")


def test_health_goes_bad_after_retries_and_good_at_once() -> None:
    config = HealthConfig(test=["CMD", "x"], retries=2)
    state = HealthState()
    state = next_state(state, result(1), config, 0)
    assert (state.status, state.failing_streak) == ("starting", 1)
    state = next_state(state, result(1), config, 0)
    assert (state.status, state.failing_streak) == ("unhealthy", 2)
    state = next_state(state, result(0), config, 0)
    assert (state.status, state.failing_streak) == ("healthy", 0)
    for number in range(7):
        state = next_state(state, result(0, number), config, 0)
    assert [entry.start_ns for entry in state.log] == [2, 3, 4, 5, 6]


def test_failures_within_the_start_period_are_forgiven() -> None:
    config = HealthConfig(test=["CMD", "x"], retries=1, start_period=10 * SECOND)
    state = next_state(HealthState(), result(1, 5 * SECOND), config, 0)
    assert (state.status, state.failing_streak) == ("starting", 0)
    state = next_state(state, result(1, 11 * SECOND), config, 0)
    assert state.status == "unhealthy"


def test_probes_come_faster_while_starting() -> None:
    config = HealthConfig(test=["CMD", "x"], interval=60 * SECOND, start_period=10 * SECOND)
    assert wait_ns(HealthState(), config, SECOND) == 5 * SECOND
    assert wait_ns(HealthState(), config, 11 * SECOND) == 60 * SECOND
    assert wait_ns(HealthState(status="healthy"), config, SECOND) == 60 * SECOND
    assert wait_ns(HealthState(), HealthConfig(), 0) == 30 * SECOND


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        (None, None),
        (["NONE"], None),
        (["CMD"], None),
        (["CMD", "a", "b"], ["a", "b"]),
        (["CMD-SHELL", "a | b"], ["/bin/sh", "-c", "a | b"]),
    ],
)
def test_probe_commands(test: list[str] | None, expected: list[str] | None) -> None:
    assert probe_command(ContainerConfig(healthcheck=HealthConfig(test=test))) == expected


@pytest.mark.parametrize(
    ("duration_ns", "text"),
    [
        (0, "0s"),
        (5, "5ns"),
        (1500, "1.5µs"),
        (300_000_000, "300ms"),
        (90 * SECOND, "1m30s"),
        (3600 * SECOND, "1h0m0s"),
    ],
)
def test_durations_as_go_prints_them(duration_ns: int, text: str) -> None:
    assert format_duration(duration_ns) == text


def test_timeouts_tell_what_was_written() -> None:
    assert timeout_output(2 * SECOND, "") == "Health check exceeded timeout (2s)"
    assert timeout_output(2 * SECOND, "so far") == "Health check exceeded timeout (2s): so far"


async def test_a_health_check_from_start_to_end(engine: Engine) -> None:
    codes = iter([1, 0, 0, 0, 0, 0, 0, 0, 0])

    def probe(process: FakeProcess) -> None:
        process.streams[0].emit(frame(STDERR, b"why"))
        asyncio.get_running_loop().call_soon(process.exit, next(codes))

    engine.runtime.on_exec = probe
    health = HealthConfig(test=["CMD", "probe"], interval=1_000_000, retries=1)
    process = await engine.run("web", config=ContainerConfig(image="busybox", healthcheck=health))
    assert (await engine.containers.inspect("web")).state.health == HealthState()
    async with asyncio.timeout(5):
        stream = engine.events.subscribe(filters={"event": ["health_status"]})
        assert (await anext(stream)).action == "health_status: unhealthy"
        assert (await anext(stream)).action == "health_status: healthy"
    state = (await engine.containers.inspect("web")).state.health
    assert state is not None
    assert (state.log[0].exit_code, state.log[0].output) == (1, "why")
    process.exit(0)
    await engine.settle()
    assert (await engine.containers.inspect("web")).state.health.status == "unhealthy"  # type: ignore[union-attr]
    assert engine.health._monitors == {}


async def test_a_probe_that_hangs_is_killed(engine: Engine) -> None:
    await engine.run("web")
    probed = await engine.execs.probe(next(iter(engine.registry)), ["sleep"], 0.01, 10)
    assert probed.exit_code is None
    assert [p.signals for p in engine.world.processes.values()][-1] == [9]
    assert engine.execs._execs == {}


def test_frames_cut_anywhere() -> None:
    data = frame(STDOUT, b"one") + frame(STDERR, b"two")
    unframer = Unframer()
    assert b"".join(unframer.feed(data[i : i + 1]) for i in range(len(data))) == b"onetwo"
    output = ProbeOutput(4)
    output.feed(data)
    assert output.text() == "onet..."
