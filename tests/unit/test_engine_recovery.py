"""The daemon goes away at any moment; the next one finds everything and leaves nothing half done."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.fakes.engine import BUSYBOX, Engine

from sampan.base.errors import SampanError
from sampan.model.container import ContainerConfig, PortBinding, RestartPolicy


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    made = await Engine.open(str(tmp_path))
    yield made
    await made.close()


async def test_a_running_container_is_found_again(engine: Engine) -> None:
    ports = {"80/tcp": [PortBinding(host_port="8080")]}
    process = await engine.run("web", port_bindings=ports)
    before = await engine.containers.inspect("web")
    other = await engine.reopen()
    try:
        after = await other.containers.inspect("web")
        assert after.state == before.state
        assert after.endpoints == before.endpoints
        assert after.ports == ports
        assert after.image_manifest_digest == BUSYBOX.manifest_digest
        assert other.networks.connected == {process.id: ports}
        assert other.mounts.held == {process.id}
        assert other.actions() == []
        process.exit(4)
        await other.settle()
        assert (await other.containers.inspect("web")).state.exit_code == 4
        assert other.networks.connected == {}
    finally:
        await other.close()


async def test_a_paused_container_is_still_paused(engine: Engine) -> None:
    await engine.run("web")
    await engine.containers.pause("web")
    other = await engine.reopen()
    assert await other.status("web") == "paused"
    await other.containers.unpause("web")
    assert await other.status("web") == "running"
    await other.close()


async def test_an_end_that_nobody_watched(engine: Engine) -> None:
    process = await engine.run("web")
    await engine.close()
    process.exit(9)
    other = await engine.reopen_closed()
    state = (await other.containers.inspect("web")).state
    assert (state.status, state.exit_code) == ("exited", 9)
    assert state.finished_ns == process.status.finished_ns  # type: ignore[union-attr]
    assert os.listdir(other.layout.running) == []
    assert other.networks.connected == {}
    assert other.mounts.held == set()
    await other.close()


async def test_a_machine_that_went_down(engine: Engine) -> None:
    await engine.run("web")
    engine.world.processes.clear()
    other = await engine.reopen()
    state = (await other.containers.inspect("web")).state
    assert (state.status, state.exit_code) == ("exited", 137)
    assert other.cgroups.removed == [f"/docker/{next(iter(other.registry)).id}"]
    await other.close()


async def test_policies_at_daemon_start(engine: Engine) -> None:
    for name in ("always", "unless-stopped", "no"):
        await engine.run(name, restart_policy=RestartPolicy(name=name))
    for name in ("always-stopped", "unless-stopped-stopped"):
        policy = RestartPolicy(name=name.removesuffix("-stopped"))
        await engine.run(name, restart_policy=policy)
        await engine.containers.stop(name)
    engine.world.processes.clear()
    other = await engine.reopen()
    await other.settle()
    states = {entry.name: await other.status(entry.name) for entry in other.registry}
    assert states == {
        "always": "running",
        "unless-stopped": "running",
        "no": "exited",
        "always-stopped": "running",
        "unless-stopped-stopped": "exited",
    }
    await other.close()


async def test_a_restart_that_was_due(engine: Engine) -> None:
    policy = RestartPolicy(name="on-failure", maximum_retry_count=1)
    process = await engine.run("web", restart_policy=policy)
    process.exit(1)
    await engine.settle()
    assert await engine.status("web") == "restarting"
    other = await engine.reopen()
    await other.settle()
    assert await other.status("web") == "running"
    await other.close()


async def test_rm_of_a_container_that_ended_meanwhile(engine: Engine) -> None:
    process = await engine.run("web", auto_remove=True)
    await engine.close()
    process.exit(0)
    other = await engine.reopen_closed()
    await other.settle()
    assert len(other.registry) == 0
    assert other.mounts.released == [(process.id, True)]
    assert os.listdir(other.layout.containers) == []
    await other.close()


class Died(BaseException):
    """Instead of SIGKILL."""


CRASHES = [
    ("container.create.directories", "create"),
    ("container.create.mounts", "create"),
    ("container.create.stored", "create"),
    ("container.start.connected", "start"),
    ("container.start.mounted", "start"),
    ("container.start.launched", "start"),
    ("container.start.stored", "start"),
    ("container.exit.stored", "exit"),
    ("container.remove.renamed", "remove"),
    ("container.remove.files", "remove"),
    ("container.remove.row", "remove"),
]


@pytest.mark.parametrize(("point", "verb"), CRASHES)
async def test_killed_at(engine: Engine, point: str, verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the step, the next daemon has the container as it was or gone, and nothing else."""
    snapshot: dict[str, str] = {}

    def die(name: str) -> None:
        if name == point:
            snapshot.update(copy_state(engine))
            raise Died

    for module in ("create", "launcher", "supervision", "remove"):
        monkeypatch.setattr(f"sampan.engine.container.{module}.crash_point", die)
    died = await play(engine, verb)
    assert died, "the crash point was not passed"
    monkeypatch.undo()
    restore_state(engine, snapshot)
    other = await engine.reopen()
    await other.settle()
    entries = list(other.registry)
    phases = [e.life.phase for e in entries]
    assert phases in ([], ["created"], ["exited"], ["running"])
    live = {e.id for e in entries if e.life.phase == "running"}
    assert {id_ for id_, p in other.world.processes.items() if p.status is None} == live
    assert set(os.listdir(other.layout.running)) == live
    assert set(os.listdir(other.layout.containers)) == {e.id for e in entries}
    assert set(other.networks.connected) == live
    assert other.mounts.held == live
    if entries and entries[0].life.phase != "running":
        await other.containers.start("web")  # and it works again
    await other.close()


async def play(engine: Engine, verb: str) -> bool:
    """The verb, up to where the daemon dies in it."""
    try:
        container_id = await engine.create("web", config=ContainerConfig(image="busybox"))
        await engine.containers.start(container_id)
        engine.process(container_id).exit(0)
        await engine.settle()
        if verb == "exit":
            return True  # it died in the watcher's task
        await engine.containers.remove("web")
    except Died:
        return True
    except SampanError:
        return verb == "exit"
    return False


def copy_state(engine: Engine) -> dict[str, str]:
    """Undoing is not dying: what the undo stacks clean up afterwards is put back from this."""
    copy = f"{engine.root}/copy"
    os.system(f"cp -a {engine.root}/data {copy}-data; cp -a {engine.root}/run {copy}-run")
    return {"copy": copy}


def restore_state(engine: Engine, snapshot: dict[str, str]) -> None:
    copy = snapshot["copy"]
    engine.db.close()
    for part in ("data", "run"):
        os.system(f"rm -rf {engine.root}/{part}; mv {copy}-{part} {engine.root}/{part}")
