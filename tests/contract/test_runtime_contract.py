"""What every implementation of engine.ports.Runtime does: the real one as root, and the double that the
engine's tests use."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.fakes.runtime import FakeProcess, FakeRuntime, FakeWorld
from tests.support.runtime_box import Box, Watcher, frames, make_tree

from sampan.base.clock import now_ns
from sampan.base.errors import Conflict
from sampan.engine.ports import Runtime, Supervised
from sampan.formats.stdcopy import STDERR, STDOUT, frame
from sampan.model.launch import ExecRequest, ExitStatus
from sampan.model.oci import Process
from sampan.runtime.client import RuntimeClient
from sampan.runtime.errors import StartFailed
from sampan.runtime.monitors import Spawner

SAY = "echo out; echo err >&2; exit 7"
SLEEP = "exec sleep 100"
CAT = "exec cat"


class ScriptedRuntime(FakeRuntime):
    """The double, with just enough of a shell to follow the scripts above."""

    async def launch(self, request, attachments=()):  # type: ignore[no-untyped-def]
        return self._play(request.spec.process.args, await self._begin(super().launch, request, attachments))

    async def exec(self, request, attachments=()):  # type: ignore[no-untyped-def]
        return self._play(request.process.args, await self._begin(super().exec, request, attachments))

    async def _begin(self, start, request, attachments):  # type: ignore[no-untyped-def]
        process = getattr(request, "process", None) or request.spec.process
        missing = process.args[0] == "nosuch"
        self.failure = StartFailed("executable file not found in $PATH", 127) if missing else None
        return await start(request, attachments)

    def _play(self, args: list[str], process: FakeProcess) -> FakeProcess:
        if args[-1] == SAY:
            for stream in process.streams:
                stream.emit(frame(STDOUT, b"out\n") + frame(STDERR, b"err\n"))
            process.exit(7)
        elif args[-1] == CAT:
            task = asyncio.ensure_future(self._echo(process))
            process.task = task  # type: ignore[attr-defined]
        return process

    async def _echo(self, process: FakeProcess) -> None:
        (stream,) = process.streams
        done = 0
        while not (stream.eof and done == len(stream.received)):
            if done < len(stream.received):
                stream.emit(frame(STDOUT, stream.received[done:]))
                done = len(stream.received)
            await asyncio.sleep(0)
        process.exit(0)


class Subject:
    def __init__(self, runtime: Runtime, again: Runtime, box: Box) -> None:
        self.runtime = runtime
        self.again = again
        """What a later daemon would use."""
        self.box = box

    async def start(self, script: str, *watchers: Watcher, stdin: bool = False) -> Supervised:
        request = self.box.request("sh", "-c", script, stdin=stdin)
        return await self.runtime.launch(request, watchers)

    def exec_request(self, process: Supervised, *args: str) -> ExecRequest:
        return ExecRequest(
            id=f"{self.box.id}-exec",
            run_dir=str(self.box.root / "exec"),
            container_pid=process.pid,
            process=Process(args=list(args), env=["PATH=/bin"]),
            cgroups_path=self.box.group,
        )


@pytest.fixture(params=["fake", "real"])
async def subject(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Subject]:
    if request.param == "fake":
        world = FakeWorld(now_ns)
        box = Box(tmp_path, None)  # type: ignore[arg-type]
        yield Subject(ScriptedRuntime(world), ScriptedRuntime(world), box)
        return
    if os.geteuid() != 0 or shutil.which("busybox") is None:
        pytest.skip("starts containers")
    make_tree(tmp_path)
    spawner = Spawner()
    spawner.start()
    client, later = RuntimeClient(spawner), RuntimeClient(spawner)
    yield Subject(client, later, Box(tmp_path, client))
    later.close()
    client.stop()


async def end(process: Supervised) -> None:
    process.kill(9)
    await process.wait()
    await process.released()


async def test_the_exit_code_is_told_to_everybody_who_waits(subject: Subject) -> None:
    before = now_ns()
    process = await subject.start(SAY)
    first, second = await asyncio.gather(process.wait(), process.wait())
    assert first == second == await process.wait()
    assert first.exit_code == 7
    assert before <= process.started_ns <= first.finished_ns <= now_ns()
    assert not first.oom_killed
    assert process.pid == 0
    await process.released()


async def test_who_attached_before_the_start_misses_nothing(subject: Subject) -> None:
    watcher = Watcher()
    process = await subject.start(SAY, watcher)
    assert frames(await watcher.everything()) == {STDOUT: b"out\n", STDERR: b"err\n"}
    await process.wait()
    await process.released()


async def test_input_until_its_end(subject: Subject) -> None:
    watcher = Watcher(stdin=True)
    process = await subject.start(CAT, watcher, stdin=True)
    assert watcher.stream is not None
    await watcher.stream.write(b"typed\n")
    watcher.stream.write_eof()
    assert frames(await watcher.everything()) == {STDOUT: b"typed\n"}
    assert (await process.wait()).exit_code == 0
    await process.released()


async def test_signals_and_their_exit_codes(subject: Subject) -> None:
    process = await subject.start(SLEEP)
    assert process.pid > 0
    process.kill(9)
    assert (await process.wait()).exit_code == 137
    await process.released()
    with pytest.raises(Conflict):
        process.kill(9)
    with pytest.raises(Conflict):
        await process.attach(stdin=False, stdout=True, stderr=True)


async def test_a_missing_command_ends_the_attached_output(subject: Subject) -> None:
    watcher = Watcher()
    with pytest.raises(StartFailed, match="executable file not found") as failure:
        await subject.runtime.launch(subject.box.request("nosuch"), [watcher])
    assert failure.value.exit_code == 127
    assert await watcher.everything() == b""


async def test_one_more_process(subject: Subject) -> None:
    process = await subject.start(SLEEP)
    watcher = Watcher()
    other = await subject.runtime.exec(subject.exec_request(process, "sh", "-c", SAY), [watcher])
    assert frames(await watcher.everything()) == {STDOUT: b"out\n", STDERR: b"err\n"}
    assert (await other.wait()).exit_code == 7
    await other.released()
    with pytest.raises(StartFailed) as failure:
        await subject.runtime.exec(subject.exec_request(process, "nosuch"))
    assert failure.value.exit_code == 127
    await end(process)


async def test_a_live_process_is_found_again(subject: Subject) -> None:
    process = await subject.start(SLEEP)
    found = await subject.again.recover(subject.box.id, subject.box.run_dir)
    assert found is not None
    assert not isinstance(found, ExitStatus)
    assert (found.pid, found.started_ns) == (process.pid, process.started_ns)
    found.kill(9)
    assert await found.wait() == await process.wait()
    await found.released()
    await process.released()


async def test_how_it_ended_meanwhile(subject: Subject) -> None:
    process = await subject.start(SAY)
    status = await process.wait()
    await process.released()
    assert await subject.again.recover(subject.box.id, subject.box.run_dir) == status


async def test_nothing_is_known_of_what_never_was(subject: Subject) -> None:
    assert await subject.again.recover(subject.box.id, subject.box.run_dir) is None
