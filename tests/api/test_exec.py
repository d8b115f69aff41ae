"""`docker exec`: streams, exit codes, users, environment, detached."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import docker as docker_py
import pytest
from tests.support.docker import Client
from tests.support.eventually import eventually

BUSYBOX = "busybox:latest"


@pytest.fixture
def box(started: Callable[..., str]) -> str:
    return started()


def test_output_and_error_arrive_apart(docker: Client, box: str) -> None:
    result = docker("exec", box, "sh", "-c", "echo out; echo err >&2")
    assert (result.out, result.err) == ("out\n", "err\n")


@pytest.mark.parametrize("code", [0, 3, 255])
def test_exit_code(docker: Client, box: str, code: int) -> None:
    docker("exec", box, "sh", "-c", f"exit {code}", code=code)


def test_missing_command_is_127(docker: Client, box: str) -> None:
    result = docker("exec", box, "no-such-command", code=127)
    assert "executable file not found in $PATH" in result.out + result.err


def test_not_executable_command_is_126(docker: Client, box: str) -> None:
    docker("exec", box, "/etc/passwd", code=126)


def test_in_a_stopped_container_is_a_conflict(docker: Client, name: str) -> None:
    docker("run", "--name", name, BUSYBOX, "true")
    assert "is not running" in docker("exec", name, "true", code=1).err


def test_input_and_its_end(docker: Client, box: str) -> None:
    assert docker("exec", "-i", box, "wc", "-c", stdin="x" * 1000).out.strip() == "1000"


def test_output_after_the_inputs_end(docker: Client, box: str) -> None:
    result = docker("exec", "-i", box, "sh", "-c", "cat; echo after", stdin="before\n")
    assert result.out == "before\nafter\n"


def test_large_streams_both_ways(docker: Client, box: str) -> None:
    data = bytes(range(256)) * 40_000
    client = docker.popen("exec", "-i", box, "cat", stdin=subprocess.PIPE)
    assert client.communicate(data, timeout=60)[0] == data


def test_user_directory_and_environment(docker: Client, box: str) -> None:
    words = ("exec", "-u", "nobody", "-w", "/tmp", "-e", "COLOUR=red")
    assert docker.line(*words, box, "sh", "-c", 'id -un; pwd; echo "$COLOUR"') == "nobody\n/tmp\nred"


def test_environment_of_the_container_is_there(docker: Client, started: Callable[..., str]) -> None:
    assert docker.line("exec", started("-e", "INHERITED=yes"), "sh", "-c", "echo $INHERITED") == "yes"


def test_detached(docker: Client, box: str) -> None:
    assert docker.line("exec", "-d", box, "touch", "/done") == ""
    eventually(
        lambda: docker("exec", box, "test", "-e", "/done", code=None).code == 0, "the detached command"
    )


def test_privileged(docker: Client, box: str) -> None:
    plain = docker.line("exec", box, "grep", "CapEff", "/proc/self/status").split()[1]
    full = docker.line("exec", "--privileged", box, "grep", "CapEff", "/proc/self/status").split()[1]
    assert plain == "00000000a80425fb"
    assert int(full, 16) & int(plain, 16) == int(plain, 16)
    assert full != plain


def test_shares_the_containers_namespaces(docker: Client, box: str) -> None:
    kinds = ["mnt", "pid", "net", "uts", "ipc"]
    paths = [f"/proc/{process}/ns/{kind}" for kind in kinds for process in ("1", "self")]
    seen = docker.line("exec", box, "sh", "-c", "; ".join(f"readlink {path}" for path in paths)).splitlines()
    assert seen[0::2] == seen[1::2]


def test_ends_with_its_container(docker: Client, box: str) -> None:
    client = docker.popen("exec", box, "sh", "-c", "echo started; sleep 100000")
    assert client.stdout is not None
    assert client.stdout.readline() == b"started\n"
    docker("kill", box)
    client.communicate(timeout=30)
    assert client.returncode == 137


def test_inspect_through_docker_py(api: docker_py.DockerClient, box: str) -> None:
    made = api.api.exec_create(box, ["sh", "-c", "exit 5"], user="nobody")
    before = api.api.exec_inspect(made["Id"])
    assert (before["Running"], before["ExitCode"]) == (False, None)
    api.api.exec_start(made["Id"])
    after = api.api.exec_inspect(made["Id"])
    assert (after["Running"], after["ExitCode"]) == (False, 5)
    assert after["ProcessConfig"]["entrypoint"] == "sh"
    assert after["ContainerID"] == api.containers.get(box).id


def test_ten_at_once(docker: Client, box: str) -> None:
    clients = [docker.popen("exec", box, "sh", "-c", f"echo {number}; exit {number}") for number in range(10)]
    seen = [(client.communicate(timeout=60)[0], client.returncode) for client in clients]
    assert seen == [(f"{number}\n".encode(), number) for number in range(10)]
