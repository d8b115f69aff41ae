"""Processes started for real: spawner, monitor, sandbox and client together, as root."""

from __future__ import annotations

import asyncio
import json
import marshal
import os
import re
import shutil
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest
from tests.support.runtime_box import Box, Watcher, frames, groups, make_tree

from sampan.model.launch import (
    ExecRequest,
)
from sampan.model.oci import Process, Root
from sampan.runtime import client, monitors
from sampan.runtime.client import RuntimeClient
from sampan.runtime.errors import MonitorLost, StartFailed
from sampan.runtime.monitors import MOST_SPARE, Spawner
from sampan.runtime.supervised import SupervisedProcess

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture(scope="module")
def spawner() -> Iterator[Spawner]:
    spawner = Spawner()
    spawner.start()
    yield spawner
    spawner.stop()


@pytest.fixture
async def box(tmp_path: Path, spawner: Spawner) -> AsyncIterator[Box]:
    make_tree(tmp_path)
    box = Box(tmp_path, RuntimeClient(spawner))
    yield box
    box.client.close()
    left = [path for path in groups() if box.id in path]
    assert left == [], "the monitor left control groups behind"


def test_the_interpreter_cannot_be_written_through_proc(spawner: Spawner) -> None:
    """An image's command may be /proc/self/exe; what it then runs is on a read-only mount."""
    assert os.statvfs(f"/proc/{spawner.pid}/exe").f_flag & os.ST_RDONLY


@pytest.mark.parametrize("number", range(3, 13))
async def test_no_descriptor_of_ours_is_a_way_out_of_the_root(box: Box, number: int) -> None:
    request = box.request("grep", "-q", "not a program", "etc/plain")
    assert request.spec.process is not None
    process = msgspec.structs.replace(request.spec.process, cwd=f"/proc/self/fd/{number}")
    spec = msgspec.structs.replace(request.spec, process=process)
    try:
        running = await box.client.launch(msgspec.structs.replace(request, spec=spec))
    except StartFailed:
        return
    status = await running.wait()
    await running.released()
    assert status.exit_code == 0, "at most the container's own root is open"


async def test_output_exit_code_and_log(box: Box) -> None:
    heard, status = await box.run("sh", "-c", "echo out; echo err >&2; exit 7")
    assert frames(heard) == {1: b"out\n", 2: b"err\n"}
    assert status.exit_code == 7
    lines = [json.loads(line) for line in (box.root / "log").read_text().splitlines()]
    assert {(line["stream"], line["log"]) for line in lines} == {("stdout", "out\n"), ("stderr", "err\n")}


async def test_the_process_sees_its_own_world(box: Box) -> None:
    heard, _ = await box.run("sh", "-c", "echo $$; hostname; id -u; ls /proc/1/fd; cat /proc/net/dev")
    lines = frames(heard)[1].decode().splitlines()
    assert lines[:3] == ["1", "box", "0"]
    assert [line.split(":")[0].strip() for line in lines if ":" in line] == ["lo"]
    assert lines[3:6] == ["0", "1", "2"], "no descriptor of ours may leak"


async def test_capabilities_are_exactly_those_asked_for(box: Box) -> None:
    heard, _ = await box.run("grep", "Cap", "/proc/self/status")
    sets = dict(line.split(":\t") for line in frames(heard)[1].decode().splitlines())
    wanted = f"{1 << 0 | 1 << 5 | 1 << 6 | 1 << 7:016x}"
    assert (sets["CapBnd"], sets["CapEff"], sets["CapInh"]) == (wanted, wanted, "0" * 16)


async def test_a_missing_working_directory_is_made_below_a_read_only_root(box: Box) -> None:
    request = box.request("sh", "-c", "pwd; mkdir /more || echo refused")
    assert request.spec.process is not None
    process = msgspec.structs.replace(request.spec.process, cwd="/new/place")
    spec = msgspec.structs.replace(request.spec, process=process, root=Root(path="/", readonly=True))
    watcher = Watcher()
    running = await box.client.launch(msgspec.structs.replace(request, spec=spec), [watcher])
    assert frames(await watcher.everything())[1] == b"/new/place\nrefused\n"
    await running.released()


async def test_masked_and_read_only_paths(box: Box) -> None:
    script = "head -c1 /proc/kcore; ls /sys/firmware; echo 1 > /proc/sys/kernel/panic || echo refused"
    heard, _ = await box.run("sh", "-c", script)
    assert frames(heard)[1] == b"refused\n"


async def test_nothing_is_mounted_on_the_host(box: Box) -> None:
    process = await box.client.launch(box.request("sleep", "100"))
    assert str(box.root) not in Path("/proc/self/mountinfo").read_text()
    assert (Path(f"/proc/{process.pid}/root/etc/plain")).read_text() == "not a program\n"
    process.kill(signal.SIGKILL)
    assert (await process.wait()).exit_code == 137
    await process.released()


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        ("nope", 127, 'exec: "nope": executable file not found in $PATH'),
        ("/nope", 127, 'exec: "/nope": stat /nope: no such file or directory'),
        ("/etc/plain", 126, 'exec: "/etc/plain": permission denied'),
        ("/dir", 126, 'exec: "/dir": is a directory'),
    ],
)
async def test_a_command_that_cannot_run(box: Box, command: str, code: int, message: str) -> None:
    with pytest.raises(StartFailed) as failure:
        await box.client.launch(box.request(command))
    assert not os.path.exists(f"{box.run_dir}/monitor.sock")
    assert (failure.value.exit_code, failure.value.message) == (code, message)


@pytest.mark.parametrize("count", [500, 600, 1500, 3000])
async def test_large_environments(box: Box, count: int) -> None:
    """A thousand bytes each; the kernel takes a quarter of the stack limit (execve(2)), as a rule 2 MB."""
    request = box.request("sh", "-c", "echo $LAST")
    assert request.spec.process is not None
    variables = [*(f"V{number}={'x' * 1000}" for number in range(count)), "PATH=/bin", "LAST=here"]
    process = msgspec.structs.replace(request.spec.process, env=variables)
    changed = msgspec.structs.replace(request, spec=msgspec.structs.replace(request.spec, process=process))
    watcher = Watcher()
    if count < 2000:
        running = await box.client.launch(changed, [watcher])
        assert frames(await watcher.everything()) == {1: b"here\n"}
        await running.released()
        return
    with pytest.raises(StartFailed, match="argument list too long"):
        await box.client.launch(changed)


async def test_many_clients_from_the_start(box: Box) -> None:
    watchers = [Watcher() for _ in range(210)]
    request = box.request("sh", "-c", "sleep 0.5; echo heard")
    running = await box.client.launch(request, watchers)
    for watcher in watchers:
        assert frames(await watcher.everything()) == {1: b"heard\n"}
    await running.released()


async def test_a_monitor_lost_during_the_start_leaves_nothing(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = client._encode

    def spoilt(program: dict[str, object]) -> bytes:
        """Two clients are told of and one is sent: the monitor ends with an exception."""
        return whole({**program, "clients": [[False, True, True]] * 2})

    monkeypatch.setattr(client, "_encode", spoilt)
    watcher = Watcher()
    with pytest.raises(MonitorLost):
        await box.client.launch(box.request("sleep", "100"), [watcher])
    assert await watcher.everything() == b""
    assert [path for path in groups() if box.id in path] == []


async def test_stdin_with_half_close(box: Box) -> None:
    watcher = Watcher(stdin=True)
    process = await box.client.launch(box.request("cat", stdin=True), [watcher])
    assert watcher.stream is not None
    payload = b"x" * 300_000 + b"\n"
    writing = asyncio.create_task(watcher.stream.write(payload))
    heard = b""
    while sum(map(len, frames_so_far(heard).values())) < len(payload):
        heard += await watcher.stream.read()
    await writing
    watcher.stream.write_eof()
    heard += await watcher.everything()
    assert frames(heard) == {1: payload}
    assert (await process.wait()).exit_code == 0
    await process.released()


def frames_so_far(data: bytes) -> dict[int, bytes]:
    """Whole frames only."""
    end = 0
    while end + 8 <= len(data) and end + 8 + int.from_bytes(data[end + 4 : end + 8], "big") <= len(data):
        end += 8 + int.from_bytes(data[end + 4 : end + 8], "big")
    return frames(data[:end])


async def test_a_terminal_has_a_size_and_raw_output(box: Box) -> None:
    watcher = Watcher(stdin=True)
    process = await box.client.launch(box.request("sh", tty=True, stdin=True), [watcher])
    assert watcher.stream is not None
    await process.resize(33, 77)
    await watcher.stream.write(b"stty size; tty; exit 3\n")
    heard = await watcher.everything()
    assert b"33 77\r\n" in heard
    assert (await process.wait()).exit_code == 3
    await process.released()


async def test_an_exec_joins_the_container(box: Box) -> None:
    process = await box.client.launch(box.request("sleep", "100"))
    watcher = Watcher()
    request = ExecRequest(
        id="e" + box.id,
        run_dir=str(box.root / "exec"),
        container_pid=process.pid,
        process=Process(args=["sh", "-c", "hostname; cat /proc/1/cmdline; id -u"], env=["PATH=/bin"]),
        cgroups_path=box.group,
        user="app",
    )
    execution = await box.client.exec(request, [watcher])
    heard = await watcher.everything()
    assert frames(heard)[1] == b"box\nsleep\x00100\x001000\n"
    assert (await execution.wait()).exit_code == 0
    process.kill(signal.SIGKILL)
    await process.wait()
    await process.released()


async def test_a_killed_monitor_takes_its_process_along(box: Box) -> None:
    process = await box.client.launch(box.request("sleep", "100"))
    pidfd = os.pidfd_open(process.pid)
    monitor = int(_status_field(process.pid, "PPid"))
    os.kill(monitor, signal.SIGKILL)
    assert (await process.wait()).exit_code == 137
    await _ended(pidfd)
    os.close(pidfd)
    for path in groups():
        if box.id in path:
            await _remove_group(path)


async def test_a_new_client_finds_a_running_process(box: Box, spawner: Spawner) -> None:
    process = await box.client.launch(box.request("sh", "-c", "sleep 100"))
    later = RuntimeClient(spawner)
    found = await later.recover(box.id, box.run_dir)
    assert isinstance(found, SupervisedProcess)
    assert (found.pid, found.started_ns) == (process.pid, process.started_ns)
    found.kill(signal.SIGTERM)
    found.kill(signal.SIGKILL)
    status = await found.wait()
    assert status == await process.wait()
    await found.released()
    await process.released()
    assert await later.recover(box.id, box.run_dir) == status, "exit.json says the same"
    later.close()


async def test_nothing_is_found_where_nothing_was(box: Box) -> None:
    assert await box.client.recover("x", str(box.root / "no-such-dir")) is None


async def test_the_death_of_the_spawner_costs_nothing(box: Box, spawner: Spawner) -> None:
    process = await box.client.launch(box.request("sleep", "100"))
    pidfd = os.pidfd_open(spawner.pid)
    os.kill(spawner.pid, signal.SIGKILL)
    await _ended(pidfd)  # until then it may still take a request, which dies with it
    os.close(pidfd)
    other = Box(box.root / "other", box.client)
    shutil.copytree(box.root / "lower", other.root / "lower", symlinks=True)
    for name in ("upper", "work"):
        (other.root / name).mkdir()
    heard, status = await other.run("sh", "-c", "echo again")
    assert frames(heard) == {1: b"again\n"}
    assert status.exit_code == 0
    process.kill(signal.SIGKILL)
    assert (await process.wait()).exit_code == 137
    await process.released()


async def test_a_spawner_that_ends_before_it_is_ready_is_replaced(box: Box, spawner: Spawner) -> None:
    spawner.stop()
    spawner.start()
    os.kill(spawner.pid, signal.SIGKILL)
    heard, _ = await box.run("sh", "-c", "echo here")
    assert frames(heard) == {1: b"here\n"}


async def test_a_request_that_the_dead_spawner_never_read_is_repeated(box: Box, spawner: Spawner) -> None:
    spawner.stop()  # without spare monitors
    spawner._await_ready()
    pidfd = os.pidfd_open(spawner.pid)
    os.kill(spawner.pid, signal.SIGSTOP)
    watcher = Watcher()
    launching = asyncio.create_task(box.client.launch(box.request("sh", "-c", "echo here"), [watcher]))
    await asyncio.sleep(0)
    assert watcher.stream is not None, "the request is sent in the first step"
    os.kill(spawner.pid, signal.SIGKILL)
    await _ended(pidfd)
    os.close(pidfd)
    process = await launching
    assert frames(await watcher.everything()) == {1: b"here\n"}
    assert (await process.wait()).exit_code == 0
    await process.released()


async def test_a_monitor_serves_again_and_keeps_nothing(box: Box, spawner: Spawner) -> None:
    """Of the processes before: no descriptor, no namespace; also after an exec, a terminal, an early end."""
    spawner.stop()
    spawner.start()
    await box.run("true")
    (monitor,) = _spare_monitors(spawner)
    clean = _holdings(monitor)
    for words, tty in (
        (("sh", "-c", "echo x; sleep 0 & exit 3"), False),
        (("true",), True),
        (("true",), False),
    ):
        watcher = Watcher(stdin=True)
        process = await box.client.launch(box.request(*words, tty=tty, stdin=True), [watcher])
        await watcher.everything()
        await process.wait()
        await process.released()
        assert _spare_monitors(spawner) == [monitor]
        assert _holdings(monitor) == clean
    container = await box.client.launch(box.request("sleep", "100"))
    request = ExecRequest(
        id="e" + box.id,
        run_dir=str(box.root / "exec"),
        container_pid=container.pid,
        process=Process(args=["true"], env=["PATH=/bin"]),
        cgroups_path=box.group,
    )
    for _ in range(3):
        execution = await box.client.exec(request)
        assert (await execution.wait()).exit_code == 0
        await execution.released()
        (other,) = _spare_monitors(spawner)
        assert _holdings(other) == clean, "it is back in its own pid namespace"
    container.kill(signal.SIGKILL)
    await container.wait()
    await container.released()
    assert sorted(_spare_monitors(spawner)) == sorted({monitor, other})


async def test_a_monitor_says_so_when_it_has_served_enough(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request to one that is about to end would be lost."""
    monkeypatch.setattr(
        monitors,
        "_BOOT",
        "import sys; sys.path.insert(0, {path!r}); from sampan.runtime import monitor; "
        "monitor.MOST_LIVES = 2; from sampan.runtime.spawner import main; main({fd})",
    )
    spawner = Spawner()
    client = RuntimeClient(spawner)
    for spare in (1, 0, 1, 0):
        process = await client.launch(box.request("true"))
        assert (await process.wait()).exit_code == 0
        await process.released()
        assert len(spawner._spare) == spare
    spawner.stop()


async def test_a_killed_spare_monitor_costs_nothing(box: Box, spawner: Spawner) -> None:
    await box.run("true")
    spare = _spare_monitors(spawner)
    assert 0 < len(spare) <= MOST_SPARE
    for monitor in spare:
        pidfd = os.pidfd_open(monitor)
        os.kill(monitor, signal.SIGKILL)
        await _ended(pidfd)
        os.close(pidfd)
    heard, status = await box.run("sh", "-c", "echo again")
    assert (frames(heard), status.exit_code) == ({1: b"again\n"}, 0)


async def test_words_that_come_too_late_are_not_for_the_next_process(box: Box, spawner: Spawner) -> None:
    """A resize or an attach may be on its way when the process ends."""
    spawner.stop()
    spawner.start()
    process = await box.client.launch(box.request("true"))
    await process.wait()
    await process.released()
    (control,) = spawner._spare
    ours, theirs = socket.socketpair()
    socket.send_fds(control, [marshal.dumps(("attach", True, True, True))], [theirs.fileno()])
    theirs.close()
    heard, _ = await box.run("sh", "-c", "echo next")
    assert frames(heard) == {1: b"next\n"}
    assert ours.recv(10) == b"", "it was closed unused"
    ours.close()


def _spare_monitors(spawner: Spawner) -> list[int]:
    children = Path(f"/proc/{spawner.pid}/task/{spawner.pid}/children").read_text().split()
    return [int(pid) for pid in children if Path(f"/proc/{pid}/comm").read_text() == "sampan-spare\n"]


def _holdings(pid: int) -> tuple[list[str], list[str], str]:
    """Kinds of its descriptors, its namespaces and those of its children, its children."""
    fds = [re.sub(r"\d+", "N", os.readlink(path)) for path in Path(f"/proc/{pid}/fd").iterdir()]
    namespaces = [os.readlink(path) for path in sorted(Path(f"/proc/{pid}/ns").iterdir())]
    return sorted(fds), namespaces, Path(f"/proc/{pid}/task/{pid}/children").read_text()


async def test_a_link_in_the_image_cannot_redirect_a_mount(box: Box) -> None:
    outside = box.root / "outside"
    outside.mkdir()
    (box.root / "lower/proc").symlink_to(outside)
    heard, _ = await box.run("sh", "-c", "ls /proc/1 > /dev/null 2>&1; echo done")
    assert frames(heard)[1] == b"done\n"
    assert list(outside.iterdir()) == []


def _status_field(pid: int, field: str) -> str:
    text = Path(f"/proc/{pid}/status").read_text()
    return next(line.split()[1] for line in text.splitlines() if line.startswith(f"{field}:"))


async def _ended(pidfd: int) -> None:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()
    loop.add_reader(pidfd, lambda: future.done() or future.set_result(None))
    await asyncio.wait_for(future, 10)
    loop.remove_reader(pidfd)


async def _remove_group(path: str) -> None:
    for _ in range(200):
        try:
            os.rmdir(path)
        except OSError:
            await asyncio.sleep(0.01)
        else:
            return
    raise AssertionError(f"{path} is still busy")
