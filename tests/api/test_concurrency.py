"""Many clients at once, also while the daemon is killed under them: every answer is right, nothing is left.

The check at the end of each module (see conftest) compares mounts, groups, links, rules, files and processes.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import docker as docker_py
import pytest
from bench.http import Connection, Refused
from tests.api.conftest import load_busybox, remove_everything
from tests.support import leftovers
from tests.support.daemon import Daemon
from tests.support.docker import Client
from tests.support.eventually import eventually

BUSYBOX = "busybox:latest"
WORKERS = 8


def test_runs_at_once_keep_their_input_output_and_exit_codes(docker: Client) -> None:
    def run(number: int) -> tuple[str, int]:
        script = f"cat; exit {number % 7}"
        result = docker(
            "run", "-i", "--rm", BUSYBOX, "sh", "-c", script, stdin=f"input {number}\n", code=None
        )
        return result.out, result.code

    with ThreadPoolExecutor(WORKERS) as pool:
        results = list(pool.map(run, range(40)))
    assert results == [(f"input {number}\n", number % 7) for number in range(40)]


def test_execs_at_once(docker: Client, started: Callable[..., str]) -> None:
    name = started()

    def run(number: int) -> tuple[str, int]:
        script = f"echo {number}; exit {number % 5}"
        result = docker("exec", name, "sh", "-c", script, code=None)
        return result.out, result.code

    with ThreadPoolExecutor(WORKERS) as pool:
        results = list(pool.map(run, range(40)))
    assert results == [(f"{number}\n", number % 5) for number in range(40)]


def test_one_container_and_everybody_wants_something_else_of_it(docker: Client, name: str) -> None:
    """Any order is right, but each answer is one of those that Docker gives, and it can be removed."""
    docker("run", "-d", "--name", name, BUSYBOX, "sleep", "1000")
    verbs = [
        ("stop", "-t", "0"),
        ("start",),
        ("pause",),
        ("unpause",),
        ("restart", "-t", "0"),
        ("kill",),
        ("exec",),
        ("inspect",),
    ]

    def act(number: int) -> str:
        verb = verbs[number % len(verbs)]
        words = (*verb, name, "true") if verb[0] == "exec" else (*verb, name)
        return docker(*words, code=None, timeout_s=30).err

    with ThreadPoolExecutor(WORKERS) as pool:
        errors = [error for error in pool.map(act, range(48)) if error]
    known = (
        "is not running",
        "is paused",
        "not paused",
        "already paused",
        "paused container",
        "received 409",  # the same, between the making and the start of an exec
    )
    assert [error for error in errors if not any(text in error for text in known)] == []
    docker("rm", "-f", name)


def test_one_port_for_two(docker: Client, name: str) -> None:
    """Exactly one of those who ask for a port at the same time gets it."""

    def run(number: int) -> int | None:
        own = f"{name}-{number}"
        words = ("run", "-d", "--name", own, "-p", "127.0.0.1:18431:80", BUSYBOX, "sleep", "1000")
        return docker(*words, code=None).code

    with ThreadPoolExecutor(4) as pool:
        codes = sorted(code or 0 for code in pool.map(run, range(4)))
    assert codes == [0, 125, 125, 125]


def test_one_name_for_two(api: docker_py.DockerClient, name: str) -> None:
    def create(_: int) -> int:
        try:
            api.containers.create(BUSYBOX, name=name)
        except docker_py.errors.APIError as error:
            return int(error.status_code)
        return 201

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(create, range(4))) == [201, 409, 409, 409]


@pytest.mark.own_daemon
def test_the_daemon_is_killed_under_many_clients(new_daemon: Callable[..., Daemon]) -> None:
    daemon = new_daemon()
    client = Client(daemon.host)
    load_busybox(client)
    client("run", "-d", "--name", "survivor", BUSYBOX, "sleep", "1000")
    survivor = client("inspect", "-f", "{{.State.Pid}}", "survivor").out
    before = leftovers.snapshot(daemon)

    def cycle(number: int) -> None:
        """As far as it gets."""
        try:
            with Connection(daemon.socket) as connection:
                body = {"Image": BUSYBOX, "Cmd": ["true"], "HostConfig": {"AutoRemove": number % 2 == 0}}
                made = connection.call("POST", "/containers/create", body)["Id"]
                connection.call("POST", f"/containers/{made}/start")
                connection.call("POST", f"/containers/{made}/wait")
        except (OSError, ValueError, IndexError):
            return  # the daemon was killed meanwhile
        except Refused as refused:
            assert refused.args[0] == 404  # noqa: PT017 - gone before we could wait for it

    for _ in range(3):
        with ThreadPoolExecutor(WORKERS) as pool:
            running = [pool.submit(cycle, number) for number in range(24)]
            running[4].result()
            daemon.kill()
            for future in running:
                future.result()
        daemon.start()
    assert client("inspect", "-f", "{{.State.Pid}}", "survivor").out == survivor
    others = client("ps", "-aq", "--filter", "status=exited", "--filter", "status=created").out.split()
    if others:
        client("rm", *others)
    for kind in ("mounts", "links", "nft rules", "cgroups", "files"):  # the processes are other ones now
        eventually(lambda kind=kind: leftovers.snapshot(daemon)[kind] <= before[kind], f"no {kind} left")  # type: ignore[misc]
    remove_everything(client)
    daemon.stop()
