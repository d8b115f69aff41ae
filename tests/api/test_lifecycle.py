"""From create to remove: start, stop, kill, restart, pause, rename, update, wait, prune, policies, health."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from bench.http import Connection, Refused
from tests.support.docker import Client
from tests.support.eventually import eventually

BUSYBOX = "busybox:latest"
TRAPPED = "trap 'exit 5' TERM; echo ready; while true; do sleep 0.1; done"


def state(docker: Client, container: str) -> dict[str, Any]:
    return dict(json.loads(docker.line("inspect", "--format", "{{json .State}}", container)))


def wait_output(docker: Client, container: str, text: str) -> None:
    eventually(lambda: text in docker.line("logs", container), f"{text!r} in the log of {container}")


def test_create_start_wait_remove(docker: Client, name: str) -> None:
    created = docker.line("create", "--name", name, BUSYBOX, "sh", "-c", "exit 6")
    assert len(created) == 64
    assert state(docker, name)["Status"] == "created"
    assert docker.line("start", name) == name
    assert docker.line("wait", name) == "6"
    ended = state(docker, name)
    assert (ended["Status"], ended["ExitCode"], ended["Pid"]) == ("exited", 6, 0)
    assert ended["StartedAt"] < ended["FinishedAt"]
    docker("rm", name)
    assert "No such" in docker("inspect", name, code=1).err


def test_start_twice_is_no_error(docker: Client, started: Callable[..., str]) -> None:
    container = started()
    pid = state(docker, container)["Pid"]
    docker("start", container)
    assert state(docker, container)["Pid"] == pid


def test_stopped_container_starts_again_with_its_files(docker: Client, name: str) -> None:
    docker("run", "--name", name, BUSYBOX, "sh", "-c", "echo again >> /file; cat /file")
    assert docker("start", "-a", name).out == "again\nagain\n"


def test_stop_lets_the_process_end_by_itself(docker: Client, started: Callable[..., str]) -> None:
    container = started(command=("sh", "-c", TRAPPED))
    wait_output(docker, container, "ready")
    docker("stop", container)
    assert state(docker, container)["ExitCode"] == 5


def test_stop_kills_after_the_timeout(docker: Client, started: Callable[..., str]) -> None:
    container = started(command=("sh", "-c", "trap '' TERM; echo ready; while true; do sleep 0.1; done"))
    wait_output(docker, container, "ready")
    began = time.monotonic()
    docker("stop", "-t", "1", container)
    assert 0.9 < time.monotonic() - began < 8
    assert state(docker, container)["ExitCode"] == 137


def test_stop_with_the_containers_own_signal(docker: Client, started: Callable[..., str]) -> None:
    script = "trap 'exit 8' USR1; echo ready; while true; do sleep 0.1; done"
    container = started("--stop-signal", "USR1", command=("sh", "-c", script))
    wait_output(docker, container, "ready")
    docker("stop", container)
    assert state(docker, container)["ExitCode"] == 8


def test_kill_sends_a_signal(docker: Client, started: Callable[..., str]) -> None:
    container = started(command=("sh", "-c", TRAPPED))
    wait_output(docker, container, "ready")
    docker("kill", "-s", "TERM", container)
    assert docker.line("wait", container) == "5"


def test_kill_of_a_stopped_container_is_a_conflict(docker: Client, name: str) -> None:
    docker("run", "--name", name, BUSYBOX, "true")
    result = docker("kill", name, code=1)
    assert "is not running" in result.err


def test_unknown_signal_is_refused(docker: Client, started: Callable[..., str]) -> None:
    result = docker("kill", "-s", "NOPE", started(), code=1)
    assert "NOPE" in result.err


def test_restart_makes_a_new_process(docker: Client, started: Callable[..., str]) -> None:
    container = started()
    before = state(docker, container)
    docker("restart", "-t", "0", container)
    after = state(docker, container)
    assert after["Running"]
    assert after["Pid"] != before["Pid"]
    assert after["StartedAt"] > before["StartedAt"]


def test_pause_stops_the_processes_and_unpause_lets_them_go(
    docker: Client, started: Callable[..., str]
) -> None:
    container = started(command=("sh", "-c", "while true; do date +%s%N > /tick; done"))
    docker("pause", container)
    assert state(docker, container)["Status"] == "paused"
    assert "(Paused)" in docker.line("ps", "--filter", f"name={container}", "--format", "{{.Status}}")
    docker("unpause", container)
    before = docker.line("exec", container, "cat", "/tick")
    eventually(lambda: docker.line("exec", container, "cat", "/tick") != before, "the process goes on")


def test_exec_in_a_paused_container_is_a_conflict(docker: Client, started: Callable[..., str]) -> None:
    container = started()
    docker("pause", container)
    result = docker("exec", container, "true", code=1)
    assert "is paused, unpause the container before exec" in result.err
    docker("unpause", container)


def test_rename(docker: Client, started: Callable[..., str], name: str) -> None:
    container = started()
    docker("rename", container, f"{name}-new")
    assert docker.line("inspect", "--format", "{{.Name}}", f"{name}-new") == f"/{name}-new"
    docker("inspect", container, code=1)


def test_update_changes_limits_of_a_running_container(docker: Client, started: Callable[..., str]) -> None:
    container = started("--memory", "64m")
    docker("update", "--memory", "128m", "--memory-swap", "128m", "--restart", "on-failure:3", container)
    host = json.loads(docker.line("inspect", "--format", "{{json .HostConfig}}", container))
    assert host["Memory"] == 128 << 20
    assert host["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 3}


def test_running_container_is_not_removed_without_force(docker: Client, started: Callable[..., str]) -> None:
    container = started()
    result = docker("rm", container, code=1)
    assert "container is running" in result.err
    docker("rm", "-f", container)
    assert docker.line("ps", "-aq", "--filter", f"name={container}") == ""


def test_unknown_container(docker: Client) -> None:
    assert "No such container: no-such-one" in docker("start", "no-such-one", code=1).err
    assert "No such container: no-such-one" in docker("stop", "no-such-one", code=1).err
    assert "No such container: no-such-one" in docker("rm", "no-such-one", code=1).err


def test_short_id_and_ambiguity(docker: Client, started: Callable[..., str]) -> None:
    full = docker.line("inspect", "--format", "{{.Id}}", started())
    assert docker.line("inspect", "--format", "{{.Id}}", full[:10]) == full


def test_prune_removes_stopped_ones_only(docker: Client, started: Callable[..., str], name: str) -> None:
    running = started()
    docker("run", "--name", name, "--label", f"prune={name}", BUSYBOX, "true")
    result = docker("container", "prune", "-f", "--filter", f"label=prune={name}")
    assert "Total reclaimed space" in result.out
    assert docker.line("ps", "-a", "--filter", f"name=^{name}$", "-q") == ""
    assert state(docker, running)["Running"]


def test_auto_remove_of_a_detached_container(docker: Client, name: str) -> None:
    docker("run", "-d", "--rm", "--name", name, BUSYBOX, "true")
    eventually(lambda: docker.line("ps", "-aq", "--filter", f"name={name}") == "", "the container is gone")


@pytest.mark.parametrize("condition", ["not-running", "next-exit", "removed"])
def test_wait_conditions(docker: Client, name: str, condition: str) -> None:
    options = ["--rm"] if condition == "removed" else []
    docker("run", "-d", *options, "--name", name, BUSYBOX, "sh", "-c", TRAPPED)
    wait_output(docker, name, "ready")
    with Connection(docker.host.removeprefix("unix://")) as connection:
        connection.send("POST", f"/v1.43/containers/{name}/wait?condition={condition}")
        status, headers = connection.head()  # sent once the engine watches, so nothing can be missed
        assert status == 200
        docker("kill", "-s", "TERM", name)
        answer = json.loads(connection.content(status, headers))
    assert answer["StatusCode"] == 5


def test_wait_for_an_unknown_condition_is_refused(docker: Client, started: Callable[..., str]) -> None:
    container = started()
    with Connection(docker.host.removeprefix("unix://")) as connection, pytest.raises(Refused) as refused:
        connection.call("POST", f"/v1.43/containers/{container}/wait?condition=whenever")
    assert refused.value.args[0] == 400


def test_restart_policy_on_failure_counts(docker: Client, name: str) -> None:
    docker("run", "-d", "--name", name, "--restart", "on-failure:2", BUSYBOX, "sh", "-c", "exit 1")

    def ended() -> bool:
        return docker.line("inspect", "--format", "{{.RestartCount}} {{.State.Status}}", name) == "2 exited"

    eventually(ended, "two restarts, then the end")


def test_restart_policy_always_starts_again_until_stopped(docker: Client, name: str) -> None:
    docker("run", "-d", "--name", name, "--restart", "always", BUSYBOX, "sh", "-c", "sleep 0.2")
    eventually(lambda: int(docker.line("inspect", "--format", "{{.RestartCount}}", name)) >= 2, "restarts")
    docker("stop", name)
    assert state(docker, name)["Status"] == "exited"
    count = docker.line("inspect", "--format", "{{.RestartCount}}", name)
    assert (
        docker.line("inspect", "--format", "{{.State.Restarting}} {{.RestartCount}}", name)
        == f"false {count}"
    )


def test_rm_and_restart_policy_exclude_each_other(docker: Client) -> None:
    result = docker("run", "--rm", "--restart", "always", BUSYBOX, "true", code=125)
    assert "onflicting options" in result.err


def test_health_becomes_healthy_then_unhealthy(docker: Client, started: Callable[..., str]) -> None:
    container = started(
        *("--health-cmd", "test ! -e /sick", "--health-interval", "100ms"),
        *("--health-retries", "2", "--health-timeout", "5s"),
    )
    eventually(lambda: state(docker, container)["Health"]["Status"] == "healthy", "healthy")
    docker("exec", container, "touch", "/sick")
    eventually(lambda: state(docker, container)["Health"]["Status"] == "unhealthy", "unhealthy")
    health = state(docker, container)["Health"]
    assert health["FailingStreak"] >= 2
    assert health["Log"][-1]["ExitCode"] == 1
    assert "(unhealthy)" in docker.line("ps", "--filter", f"name={container}", "--format", "{{.Status}}")


def test_out_of_memory_is_told(docker: Client, name: str) -> None:
    docker(
        "run",
        "--name",
        name,
        "--memory",
        "8m",
        "--memory-swap",
        "8m",
        BUSYBOX,
        "sh",
        "-c",
        "head -c 64m /dev/zero | tail | wc -c; exit $?",
        code=None,
    )
    # tail keeps what it reads: the kernel ends it, and with --memory-swap the container has nowhere to go
    assert state(docker, name)["OOMKilled"] is True


def test_top_lists_the_processes(docker: Client, started: Callable[..., str]) -> None:
    rows = docker.line("top", started(command=("sleep", "97531"))).splitlines()
    assert rows[0].split()[:2] == ["UID", "PID"]
    assert "sleep 97531" in rows[1]
