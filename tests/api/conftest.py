"""Fixtures for tests through the Docker API: a private daemon, its clients, and the check for leftovers.

With SAMPAN_TEST_HOST=unix:///path the same tests run against another engine, to learn whether they state what
Docker Engine really does; what only makes sense with a daemon of our own is then skipped.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import docker as docker_py
import pytest
from bench import images as archives
from tests.support import images, isolation, leftovers
from tests.support.daemon import Daemon
from tests.support.docker import Client
from tests.support.eventually import eventually

LAUNCHER = Path(__file__).parents[2] / "packaging" / "sampan"
REFERENCE = os.environ.get("SAMPAN_TEST_HOST", "")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "own_daemon: needs a daemon that the test may stop or kill")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not REFERENCE:
        return
    skip = pytest.mark.skip(reason="runs against an engine that is not ours to stop")
    for item in items:
        if item.get_closest_marker("own_daemon"):
            item.add_marker(skip)


@pytest.fixture(scope="session")
def _isolated() -> None:
    if not REFERENCE:
        assert isolation.is_root(), "API tests start containers: run them as root"
        isolation.enter()


@pytest.fixture(scope="session")
def new_daemon(_isolated: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Daemon]]:
    """Make and start private daemons, stopped at the end of the session if a test has not done it. The
    network of the host is then what it was."""
    started: list[Daemon] = []
    before = leftovers.host_network()
    numbers = itertools.count()

    def make(*arguments: str) -> Daemon:
        daemon = Daemon(tmp_path_factory.mktemp("daemon"), next(numbers), arguments)
        started.append(daemon)
        return daemon.start()

    yield make
    left: dict[str, list[int]] = {}
    for daemon in started:
        if daemon.running:
            daemon.stop()
        left |= leftovers.end_groups(daemon)
    assert not left, f"containers outlived the tests that started them: {left}"
    with contextlib.suppress(AssertionError):  # the kernel takes its time with links of namespaces that ended
        eventually(lambda: leftovers.host_network() == before, "as before")
    assert leftovers.host_network() == before


@pytest.fixture(scope="session")
def daemon(request: pytest.FixtureRequest) -> Daemon | None:
    """The daemon that most tests share; None when a reference engine is tested."""
    return None if REFERENCE else request.getfixturevalue("new_daemon")()


@pytest.fixture(scope="session")
def docker(daemon: Daemon | None) -> Client:
    """The docker client, pointed at the daemon, with busybox:latest loaded."""
    client = Client(daemon.host if daemon else REFERENCE)
    load_busybox(client)
    return client


def load_busybox(client: Client) -> None:
    client("load", "-q", "-i", str(images.busybox_archive()))
    client("tag", archives.BUSYBOX, images.BUSYBOX)


@pytest.fixture(scope="session")
def sampan(docker: Client, tmp_path_factory: pytest.TempPathFactory) -> Client:
    """``sampan`` through its launcher, with the Python that runs the tests."""
    program = tmp_path_factory.mktemp("bin") / "sampan"
    program.write_text(f"#!/bin/sh\nexport SAMPAN_PYTHON='{sys.executable}'\nexec '{LAUNCHER}' \"$@\"\n")
    program.chmod(0o755)
    return Client(docker.host, str(program))


@pytest.fixture(scope="session")
def api(docker: Client) -> Iterator[docker_py.DockerClient]:
    """docker-py's client for the same daemon."""
    client = docker_py.DockerClient(base_url=docker.host, version="auto", timeout=60)
    yield client
    client.close()


@pytest.fixture
def name() -> str:
    """A name nothing else has."""
    return f"t-{uuid.uuid4().hex[:10]}"


@pytest.fixture
def started(docker: Client, name: str) -> Callable[..., str]:
    """``started("-e", "A=b", command=("sleep", "1000"))``: the name of a detached busybox container.

    It is removed with everything else at the end of the module.
    """
    counter = itertools.count()

    def start(*options: str, command: tuple[str, ...] = ("sleep", "100000")) -> str:
        own = f"{name}-{next(counter)}"
        docker("run", "-d", "--name", own, *options, images.BUSYBOX, *command)
        return own

    return start


def remove_everything(docker: Client) -> None:
    """All containers and volumes, through the API, as a user would."""
    containers = docker("ps", "-aq", "--no-trunc").out.split()
    if containers:
        docker("rm", "-f", "-v", *containers)
    volumes = docker("volume", "ls", "-q").out.split()
    if volumes:
        docker("volume", "rm", "-f", *volumes)


@pytest.fixture(scope="module", autouse=True)
def nothing_left(docker: Client, daemon: Daemon | None) -> Iterator[None]:
    """After each module, once containers and volumes are removed, the machine is as it was before."""
    if daemon is None:
        yield
        remove_everything(docker)
        return
    before = leftovers.snapshot(daemon)
    yield
    remove_everything(docker)
    assert_nothing_left(daemon, before)


def assert_nothing_left(daemon: Daemon, before: leftovers.Snapshot, timeout_s: float = 15) -> None:
    """What is torn down in the background gets a moment."""
    left: dict[str, list[str]] = {}

    def clean() -> bool:
        left.clear()
        left.update(leftovers.added(before, leftovers.snapshot(daemon)))
        return not left

    try:
        eventually(clean, "nothing left", timeout_s, interval_s=0.1)
    except AssertionError:
        raise AssertionError(f"left behind: {left}") from None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A host folder that a container with any user may read."""
    tmp_path.chmod(0o755)
    return tmp_path
