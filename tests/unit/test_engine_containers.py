"""The container verbs over fakes: states, texts, events, and that nothing is left."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.engine import BUSYBOX, Engine

from sampan.base.errors import (
    Conflict,
    InvalidArgument,
    NotFound,
    NotModified,
    ResourceExhausted,
    SystemFailure,
)
from sampan.engine.container.launcher import StartRejected
from sampan.engine.container.views import HostConfigUpdate
from sampan.model.container import (
    ContainerConfig,
    HostConfig,
    PortBinding,
    RestartPolicy,
)
from sampan.net.errors import PortInUse
from sampan.runtime.errors import StartFailed


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    made = await Engine.open(str(tmp_path))
    yield made
    await made.close()


async def test_create_merges_the_image_and_fills_in_defaults(engine: Engine) -> None:
    config = ContainerConfig(image="busybox", env=["A=1"], labels={"own": "1"})
    container_id, warnings = await engine.containers.create("/web", config, HostConfig(memory=100), {})
    view = await engine.containers.inspect("web")
    record = view.record
    assert warnings == []
    assert (record.id, record.name, record.path, record.args) == (container_id, "web", "sh", [])
    assert record.config.env == ["A=1", "PATH=/bin"]
    assert record.config.labels == {"from": "image", "own": "1"}
    assert record.config.hostname == container_id[:12]
    assert record.host.memory_swap == 200
    assert record.host.network_mode == "bridge"
    assert list(view.endpoints) == ["bridge"]
    assert record.layer_ids == BUSYBOX.chain_ids
    assert view.state.status == "created"
    assert view.image_manifest_digest == BUSYBOX.manifest_digest
    assert sorted(os.listdir(engine.layout.container(container_id))) == ["upper", "work"]
    assert engine.actions() == ["create"]


async def test_names_are_made_up_checked_and_unique(engine: Engine) -> None:
    made_up = (await engine.containers.inspect(await engine.create())).record.name
    assert "_" in made_up
    first = await engine.create("web")
    with pytest.raises(Conflict) as taken:
        await engine.create("/web")
    assert taken.value.message == (
        f'Conflict. The container name "/web" is already in use by container "{first}". '
        "You have to remove (or rename) that container to be able to reuse that name."
    )
    with pytest.raises(InvalidArgument, match=r"Invalid container name \(a b\), only \[a-zA-Z0-9\]"):
        await engine.create("a b")


async def test_a_failed_create_leaves_nothing(engine: Engine) -> None:
    engine.mounts.failure = SystemFailure("no disk")
    with pytest.raises(SystemFailure):
        await engine.create("web")
    engine.mounts.failure = None
    with pytest.raises(InvalidArgument, match="no command specified"):
        await engine.create("web", config=ContainerConfig())
    with pytest.raises(NotFound):
        await engine.create("web", config=ContainerConfig(image="nosuch", cmd=["x"]))
    assert os.listdir(engine.layout.containers) == []
    assert engine.actions() == []
    await engine.create("web")


async def test_two_creates_of_one_name_at_once(engine: Engine) -> None:
    results = await asyncio.gather(engine.create("web"), engine.create("web"), return_exceptions=True)
    assert sorted(type(r).__name__ for r in results) == ["NameTaken", "str"]


async def test_a_run_from_start_to_end(engine: Engine) -> None:
    process = await engine.run("web", port_bindings={"80/tcp": [PortBinding(host_port="8080")]})
    view = await engine.containers.inspect("web")
    assert (view.state.status, view.state.pid) == ("running", process.pid)
    assert view.endpoints["bridge"].live.ip_address == "172.17.0.2"
    assert view.ports == {"80/tcp": [PortBinding(host_port="8080")]}
    hosts = Path(view.hosts_path).read_text()
    assert f"172.17.0.2\t{view.record.config.hostname}" in hosts
    waiter = await engine.containers.wait("web")
    process.exit(3)
    assert (await waiter).exit_code == 3
    await engine.settle()
    view = await engine.containers.inspect("web")
    assert (view.state.status, view.state.exit_code, view.state.pid) == ("exited", 3, 0)
    assert view.ports == {}
    assert view.endpoints["bridge"].live.ip_address == ""
    assert engine.networks.connected == {}
    assert engine.mounts.held == set()
    assert os.listdir(engine.layout.running) == []
    assert engine.actions() == ["create", "start", "die"]
    assert engine.actions("network") == ["connect", "disconnect"]


async def test_die_tells_exit_code_and_attributes(engine: Engine) -> None:
    process = await engine.run("web")
    process.exit(7)
    await engine.settle()
    die = engine.events._recent[-1]
    assert die.attributes["exitCode"] == "7"
    assert die.attributes["name"] == "web"
    assert die.attributes["image"] == "busybox"
    assert die.attributes["from"] == "image"


async def test_starting_twice_is_not_modified(engine: Engine) -> None:
    await engine.run("web")
    with pytest.raises(NotModified):
        await engine.containers.start("web")


@pytest.mark.parametrize(
    ("message", "code"),
    [('exec: "foo": executable file not found in $PATH', 127), ('exec: "/etc": permission denied', 126)],
)
async def test_a_command_that_cannot_be_started(engine: Engine, message: str, code: int) -> None:
    engine.runtime.failure = StartFailed(message, code)
    container_id = await engine.create("web")
    with pytest.raises(StartRejected) as rejected:
        await engine.containers.start("web")
    assert message in rejected.value.message
    assert rejected.value.message.startswith("failed to create task for container: ")
    view = await engine.containers.inspect("web")
    assert (view.state.status, view.state.exit_code) == ("created", code)
    assert message in view.state.error
    assert engine.networks.connected == {}
    assert engine.mounts.held == set()
    assert os.listdir(engine.layout.running) == []
    assert engine.actions() == ["create"]
    engine.runtime.failure = None
    await engine.containers.start(container_id)
    assert (await engine.containers.inspect("web")).state.error == ""


async def test_a_port_in_use_fails_the_start_and_frees_everything(engine: Engine) -> None:
    ports = {"80/tcp": [PortBinding(host_port="8080")]}
    await engine.run("first", port_bindings=ports)
    await engine.create("second", port_bindings=ports)
    with pytest.raises(PortInUse, match="port is already allocated"):
        await engine.containers.start("second")
    view = await engine.containers.inspect("second")
    assert (view.state.status, view.state.exit_code) == ("created", 128)
    assert "port is already allocated" in view.state.error
    assert list(engine.networks.connected) == [(await engine.containers.inspect("first")).record.id]


async def test_rm_after_the_end(engine: Engine) -> None:
    process = await engine.run("web", auto_remove=True)
    waiter = await engine.containers.wait("web", "removed")
    process.exit(5)
    assert (await waiter).exit_code == 5
    with pytest.raises(NotFound, match="No such container: web"):
        await engine.containers.inspect("web")
    await engine.settle()
    assert os.listdir(engine.layout.containers) == []
    assert engine.table.load() == []
    assert engine.mounts.released == [(process.id, True)]
    assert engine.actions() == ["create", "start", "die", "destroy"]


async def test_rm_of_a_failed_start(engine: Engine) -> None:
    engine.runtime.failure = StartFailed("exec: no", 127)
    await engine.create("web", auto_remove=True)
    with pytest.raises(StartRejected):
        await engine.containers.start("web")
    assert engine.table.load() == []


async def test_force_also_ends_what_is_just_being_started(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    container_id = await engine.create("web")
    launch, may_go_on = engine.runtime.launch, asyncio.Event()

    async def slowly(*args: Any) -> Any:
        await may_go_on.wait()
        return await launch(*args)

    monkeypatch.setattr(engine.runtime, "launch", slowly)
    starting = asyncio.ensure_future(engine.containers.start("web"))
    await engine.settle()
    removing = asyncio.ensure_future(engine.containers.remove("web", force=True))
    await engine.settle()
    may_go_on.set()
    await starting
    await removing
    assert engine.process(container_id).signals == [9]
    assert engine.table.load() == []


async def test_an_exit_counts_even_if_something_cannot_be_given_back(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    process = await engine.run("web", auto_remove=True)

    async def refuse(_: object) -> None:
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(engine.mounts, "finish", refuse)
    process.exit(0)
    await engine.settle()
    assert len(engine.registry) == 0
    assert engine.networks.connected == {}
    assert "not everything it held could be given back" in caplog.text


async def test_a_start_that_cannot_be_recorded_has_failed(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    container_id = await engine.create("web")

    def full(*_: object) -> None:
        raise ResourceExhausted("write sampan.db: no space left on device")

    monkeypatch.setattr(engine.table, "set_run", full)
    with pytest.raises(ResourceExhausted):
        await engine.containers.start("web")
    assert engine.process(container_id).signals == [9]
    assert engine.networks.connected == {}
    assert engine.mounts.held == set()
    assert os.listdir(engine.layout.running) == []
    assert await engine.status("web") == "created"


async def test_stopping_needs_no_disk(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    await engine.run("web", restart_policy=RestartPolicy(name="always"))

    def full(*_: object) -> None:
        raise ResourceExhausted("write sampan.db: no space left on device")

    monkeypatch.setattr(engine.table, "set_run", full)
    await engine.containers.stop("web")
    assert await engine.status("web") == "exited"


async def test_a_removal_that_cannot_be_recorded_can_be_tried_again(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await engine.create("web")

    def full(*_: object) -> None:
        raise ResourceExhausted("write sampan.db: no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(engine.table, "delete", full)
        with pytest.raises(ResourceExhausted):
            await engine.containers.remove("web", force=False, volumes=False, link=False)
    assert await engine.status("web") == "dead"
    await engine.containers.remove("web", force=False, volumes=False, link=False)
    assert len(engine.registry) == 0


async def test_a_pause_that_cannot_be_recorded_does_not_last(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await engine.run("web")
    await engine.run("frozen")
    await engine.containers.pause("frozen")
    assert len(engine.cgroups.frozen) == 1

    def full(*_: object) -> None:
        raise ResourceExhausted("write sampan.db: no space left on device")

    monkeypatch.setattr(engine.table, "set_run", full)
    with pytest.raises(ResourceExhausted):
        await engine.containers.pause("web")
    assert len(engine.cgroups.frozen) == 1
    assert await engine.status("web") == "running"
    await engine.containers.unpause("frozen")
    assert engine.cgroups.frozen == set()
    assert await engine.status("frozen") == "running"


async def test_attaching_while_it_is_being_started(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    container_id = await engine.create("web")
    launch, may_go_on = engine.runtime.launch, asyncio.Event()

    async def slowly(*args: Any) -> Any:
        await may_go_on.wait()
        return await launch(*args)

    monkeypatch.setattr(engine.runtime, "launch", slowly)
    starting = asyncio.ensure_future(engine.containers.start("web"))
    await engine.settle()
    session = await engine.containers.attach("web")
    may_go_on.set()
    await starting
    engine.process(container_id).streams[0].emit(b"output")
    assert await session.read() == b"output"


async def test_update(engine: Engine) -> None:
    process = await engine.run("web", memory=100, memory_swap=200)
    await engine.containers.update("web", HostConfigUpdate(cpu_shares=7))
    host = (await engine.containers.inspect("web")).record.host
    assert (host.cpu_shares, host.memory) == (7, 100)
    assert engine.cgroups.updates[0][0] == f"/docker/{process.id}"
    with pytest.raises(InvalidArgument, match="update the memoryswap at the same time"):
        await engine.containers.update("web", HostConfigUpdate(memory=300))
    with pytest.raises(InvalidArgument, match="unknown policy 'sometimes'"):
        await engine.containers.update(
            "web", HostConfigUpdate(restart_policy=RestartPolicy(name="sometimes"))
        )
    await engine.containers.update("web", HostConfigUpdate(memory=300, memory_swap=600))
    await engine.containers.update("web", HostConfigUpdate(restart_policy=RestartPolicy(name="always")))
    process.exit(0)
    await engine.settle()
    assert await engine.status("web") == "restarting"
    (stored,) = engine.table.load()
    assert stored.container.host.memory == 300


@pytest.mark.parametrize("error", [FileNotFoundError(2, "gone"), OSError(19, "no such device")])
async def test_an_update_that_meets_the_end_is_a_conflict(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    await engine.run("web")

    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(engine.cgroups, "update", refuse)
    with pytest.raises(Conflict, match="not running any more"):
        await engine.containers.update("web", HostConfigUpdate(cpu_shares=7))
    assert (await engine.containers.inspect("web")).record.host.cpu_shares == 0


async def test_each_change_of_a_container_begins_a_generation(engine: Engine) -> None:
    seen = [engine.containers.generation]
    process = await engine.run("web")
    seen.append(engine.containers.generation)
    await engine.containers.rename("web", "shop")
    seen.append(engine.containers.generation)
    await engine.containers.update("shop", HostConfigUpdate(cpu_shares=7))
    seen.append(engine.containers.generation)
    process.exit(0)
    await engine.settle()
    seen.append(engine.containers.generation)
    await engine.containers.remove("shop")
    seen.append(engine.containers.generation)
    assert len(set(seen)) == 6
    engine.containers.list(all=True)
    assert engine.containers.generation == seen[-1]


async def test_rm_link(engine: Engine) -> None:
    await engine.create("database")
    await engine.create("app", links=["database:db"])
    names = {view.record.name: view.aliases for view in engine.containers.list(all=True)}
    assert names == {"database": ["/app/db"], "app": []}
    (view,) = engine.containers.list(all=True, filters={"name": ["^/app/db$"]})
    assert view.record.name == "database"
    with pytest.raises(Conflict, match="cannot remove the default link name"):
        await engine.containers.remove("app", link=True)
    await engine.containers.remove("/app/db", link=True)
    assert (await engine.containers.inspect("app")).record.host.links is None
    assert [view.aliases for view in engine.containers.list(all=True)] == [[], []]
    assert len(engine.registry) == 2


async def test_a_full_disk_fails_the_start_clearly(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    await engine.create("web")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sampan.engine.container.netfiles._write", full)
    with pytest.raises(SystemFailure, match="No space left on device"):
        await engine.containers.start("web")
    assert engine.networks.connected == {}
    assert await engine.status("web") == "created"


async def test_removing_a_running_container_needs_force(engine: Engine) -> None:
    process = await engine.run("web")
    with pytest.raises(Conflict) as refused:
        await engine.containers.remove("web")
    assert refused.value.message == (
        'cannot remove container "web": container is running: '
        "stop the container before removing or force remove"
    )
    await engine.containers.remove("web", force=True, volumes=True)
    assert process.signals == [9]
    assert engine.actions() == ["create", "start", "kill", "die", "destroy"]
    assert engine.mounts.released == [(process.id, True)]
    await engine.settle()
    assert os.listdir(engine.layout.running) == []


async def test_a_removal_that_fails_leaves_a_dead_container(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    container_id = await engine.create("web")

    def refuse(source: str, target: str) -> None:
        raise OSError(16, "Device or resource busy")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", refuse)
        with pytest.raises(SystemFailure, match="unable to remove filesystem"):
            await engine.containers.remove("web")
    assert await engine.status("web") == "dead"
    with pytest.raises(Conflict, match="marked for removal"):
        await engine.containers.start("web")
    await engine.containers.remove(container_id)
    assert engine.table.load() == []


async def test_stop_signals_waits_and_says_so(engine: Engine) -> None:
    process = await engine.run("web")
    await engine.containers.stop("web")
    assert process.signals == [15]
    assert await engine.status("web") == "exited"
    assert (await engine.containers.inspect("web")).state.exit_code == 143
    assert engine.actions() == ["create", "start", "kill", "die", "stop"]
    with pytest.raises(NotModified):
        await engine.containers.stop("web")


async def test_stop_kills_what_does_not_listen(engine: Engine) -> None:
    engine.world.fatal = set()
    process = await engine.run("web", config=ContainerConfig(image="busybox", stop_signal="SIGUSR1"))
    await engine.containers.stop("web", 0)
    assert process.signals == [10, 9]
    assert (await engine.containers.inspect("web")).state.exit_code == 137


async def test_an_image_with_a_stop_signal_that_does_not_exist(engine: Engine) -> None:
    process = await engine.run("web", config=ContainerConfig(image="busybox", stop_signal="SIGNOPE"))
    await engine.containers.stop("web")
    assert process.signals == [15]


async def test_kill(engine: Engine) -> None:
    engine.world.fatal = set()
    process = await engine.run("web")
    await engine.containers.kill("web", "SIGHUP")
    await engine.containers.kill("web", "hup")
    assert process.signals == [1, 1]
    with pytest.raises(InvalidArgument, match="invalid signal: NOPE"):
        await engine.containers.kill("web", "NOPE")
    await engine.containers.kill("web", "")
    assert await engine.status("web") == "exited"
    with pytest.raises(Conflict, match=r"container [0-9a-f]{64} is not running"):
        await engine.containers.kill("web", "KILL")


async def test_restart_keeps_the_container_even_with_rm(engine: Engine) -> None:
    process = await engine.run("web", auto_remove=True)
    await engine.containers.restart("web", 1)
    assert engine.process(process.id) is not process
    assert engine.actions() == ["create", "start", "kill", "die", "stop", "start", "restart"]


async def test_two_restarts_at_once_both_succeed(engine: Engine) -> None:
    await engine.run("web")
    await asyncio.gather(engine.containers.restart("web", 0), engine.containers.restart("web", 0))
    assert await engine.status("web") == "running"


async def test_a_restart_that_fails_says_what_it_was(engine: Engine) -> None:
    await engine.run("web")
    engine.runtime.failure = StartFailed("exec: no", 127)
    with pytest.raises(StartRejected, match="Cannot restart container web: failed to create task"):
        await engine.containers.restart("web", 0)
    assert await engine.status("web") == "exited"


async def test_pause_and_unpause(engine: Engine) -> None:
    process = await engine.run("web")
    group = f"/docker/{process.id}"
    await engine.containers.pause("web")
    view = await engine.containers.inspect("web")
    assert (view.state.status, view.state.running, view.state.paused) == ("paused", True, True)
    assert engine.cgroups.frozen == {group}
    with pytest.raises(Conflict, match="is already paused"):
        await engine.containers.pause("web")
    with pytest.raises(Conflict, match="cannot start a paused container"):
        await engine.containers.start("web")
    with pytest.raises(Conflict, match="paused and must be unpaused first"):
        await engine.containers.remove("web")
    await engine.containers.unpause("web")
    assert engine.cgroups.frozen == set()
    with pytest.raises(SystemFailure, match="is not paused"):
        await engine.containers.unpause("web")
    assert engine.actions() == ["create", "start", "pause", "unpause"]


async def test_killing_a_paused_container_thaws_it(engine: Engine) -> None:
    await engine.run("web")
    await engine.containers.pause("web")
    await engine.containers.kill("web")
    assert engine.cgroups.frozen == set()
    assert await engine.status("web") == "exited"


async def test_rename(engine: Engine) -> None:
    first = await engine.create("old")
    await engine.create("other")
    with pytest.raises(Conflict, match="Error when allocating new name: Conflict"):
        await engine.containers.rename("old", "other")
    with pytest.raises(InvalidArgument, match="Renaming a container with the same name"):
        await engine.containers.rename("old", "/old")
    with pytest.raises(InvalidArgument, match="Neither old nor new names may be empty"):
        await engine.containers.rename("old", "/")
    await engine.containers.rename("old", "new")
    assert (await engine.containers.inspect("new")).record.id == first
    with pytest.raises(NotFound):
        await engine.containers.inspect("old")
    assert engine.events._recent[-1].attributes["oldName"] == "/old"


async def test_references_by_prefix(engine: Engine) -> None:
    container_id = await engine.create("web")
    assert (await engine.containers.inspect(container_id[:8])).record.id == container_id
    assert (await engine.containers.inspect("/web")).record.id == container_id
    for _ in range(17):
        await engine.create()
    seen: set[str] = set()
    shared = next(e.id[0] for e in engine.registry if e.id[0] in seen or seen.add(e.id[0]))  # type: ignore[func-returns-value]
    with pytest.raises(InvalidArgument, match="Multiple IDs found with provided prefix"):
        await engine.containers.inspect(shared)


async def test_restart_policy_backs_off_and_stops_when_told(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    delays: list[float] = []
    loop = asyncio.get_running_loop()

    def call_soon(delay: float, callback, *args):  # type: ignore[no-untyped-def]
        delays.append(delay)
        return loop.call_soon(callback, *args)

    process = await engine.run("web", restart_policy=RestartPolicy(name="always"))
    monkeypatch.setattr(loop, "call_later", call_soon)
    for _ in range(4):
        engine.process(process.id).exit(1)
        await engine.settle()
    engine.clock.advance(11)
    engine.process(process.id).exit(1)
    await engine.settle()
    assert delays == [0.1, 0.2, 0.4, 0.8, 0.1]
    view = await engine.containers.inspect("web")
    assert (view.state.status, view.restart_count) == ("running", 5)
    monkeypatch.undo()
    await engine.containers.stop("web")
    await engine.settle()
    assert await engine.status("web") == "exited"
    assert engine.supervision._timers == {}


async def test_on_failure_gives_up(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "call_later", lambda delay, callback, *args: loop.call_soon(callback, *args))
    policy = RestartPolicy(name="on-failure", maximum_retry_count=2)
    process = await engine.run("web", restart_policy=policy)
    for _ in range(3):
        engine.process(process.id).exit(1)
        await engine.settle()
    view = await engine.containers.inspect("web")
    assert (view.state.status, view.restart_count, view.state.exit_code) == ("exited", 2, 1)


async def test_stopping_a_container_that_waits_for_its_restart(engine: Engine) -> None:
    process = await engine.run("web", restart_policy=RestartPolicy(name="always"))
    process.exit(1)
    await engine.settle()
    view = await engine.containers.inspect("web")
    assert (view.state.status, view.state.restarting, view.state.running) == ("restarting", True, True)
    await engine.containers.stop("web")
    assert await engine.status("web") == "exited"
    assert engine.supervision._timers == {}


async def test_wait_conditions(engine: Engine) -> None:
    await engine.create("web")
    assert (await (await engine.containers.wait("web", "not-running"))).exit_code == 0
    next_exit = await engine.containers.wait("web", "next-exit")
    assert not next_exit.done()  # type: ignore[attr-defined]
    with pytest.raises(InvalidArgument, match="invalid condition"):
        await engine.containers.wait("web", "bored")
    await engine.containers.start("web")
    engine.process((await engine.containers.inspect("web")).record.id).exit(9)
    assert (await next_exit).exit_code == 9
    cancelled = await engine.containers.wait("web", "next-exit")
    cancelled.cancel()  # type: ignore[attr-defined]
    await engine.settle()
    assert engine.ledger._waiters == {}


async def test_network_of_another_container(engine: Engine) -> None:
    process = await engine.run("one")
    await engine.create("two", network_mode="container:one")
    await engine.containers.start("two")
    facts = engine.specs.facts[-1]
    assert facts.joined_pids == {"network": process.pid}
    assert facts.hosts_path == engine.layout.hosts(process.id)
    assert (await engine.containers.inspect("two")).record.host.network_mode == f"container:{process.id}"
    await engine.containers.kill("one")
    await engine.containers.kill("two")
    with pytest.raises(Conflict, match="non running container"):
        await engine.containers.start("two")


async def test_sharing_ipc_and_pid(engine: Engine) -> None:
    donor = await engine.run("donor", ipc_mode="shareable")
    private = await engine.run("private")
    await engine.run("joined", ipc_mode="container:donor", pid_mode="container:private")
    assert engine.specs.facts[-1].joined_pids == {"pid": private.pid, "ipc": donor.pid}
    await engine.create("refused", ipc_mode="container:private")
    with pytest.raises(InvalidArgument, match="non-shareable IPC"):
        await engine.containers.start("refused")
    await engine.create("lost", pid_mode="container:nobody")
    with pytest.raises(NotFound, match="No such container: nobody"):
        await engine.containers.start("lost")


async def test_links(engine: Engine) -> None:
    config = ContainerConfig(
        image="busybox", cmd=["x"], env=["FOO=1", "HOME=/"], exposed_ports={"5432/tcp": {}}
    )
    await engine.run("db", config=config)
    await engine.run("app", links=["db:database"])
    facts = engine.specs.facts[-1]
    assert "DATABASE_PORT=tcp://172.17.0.2:5432" in facts.link_env
    assert "DATABASE_ENV_FOO=1" in facts.link_env
    assert "DATABASE_NAME=/app/database" in facts.link_env
    assert not [e for e in facts.link_env if "HOME" in e]
    with pytest.raises(InvalidArgument, match="could not get container for nope: No such container: nope"):
        await engine.create("other", links=["nope"])
    await engine.create("hosted", network_mode="host")
    with pytest.raises(InvalidArgument, match="host type networking can't be used with links"):
        await engine.create("other", links=["hosted"])
    hosts = Path((await engine.containers.inspect("app")).hosts_path).read_text()
    assert "172.17.0.2\tdatabase" in hosts


async def test_a_killed_monitor_leaves_a_group_to_sweep(engine: Engine) -> None:
    process = await engine.run("web")
    engine.world.now = lambda: 0  # a monitor that is gone tells no time
    process.exit(137)
    await engine.settle()
    state = (await engine.containers.inspect("web")).state
    assert state.exit_code == 137
    assert state.finished_ns > state.started_ns
    assert engine.cgroups.removed == [f"/docker/{process.id}"]


async def test_prune(engine: Engine) -> None:
    kept = await engine.run("running")
    await engine.create("plain")
    labelled = await engine.create("labelled", config=ContainerConfig(image="busybox", labels={"a": "b"}))
    result = await engine.containers.prune({"label": ["a=b"]})
    assert result.deleted == [labelled]
    result = await engine.containers.prune({})
    assert len(result.deleted) == 1
    assert [e.id for e in engine.registry] == [kept.id]
    with pytest.raises(InvalidArgument, match="invalid filter 'name'"):
        await engine.containers.prune({"name": ["x"]})


async def test_views_are_the_same_until_something_changes(engine: Engine) -> None:
    process = await engine.run("web")
    before = await engine.containers.inspect("web")
    assert (await engine.containers.inspect("web")) is before
    process.exit(0)
    await engine.settle()
    after = await engine.containers.inspect("web")
    assert after.revision != before.revision


async def test_one_transaction_for_each_verb(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    commits: list[str] = []
    engine.db._connection.set_trace_callback(
        lambda sql: (
            commits.append(sql) if not sql.startswith(("SELECT", "BEGIN", "COMMIT", "PRAGMA", "--")) else None
        )
    )
    process = await engine.run("web")
    assert len(commits) == 3  # two inserts in one transaction, one update
    process.exit(0)
    await engine.settle()
    assert len(commits) == 4
