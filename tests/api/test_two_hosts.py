"""Two daemons with the same names for everything, each in a network namespace of its own."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.api.conftest import load_busybox, remove_everything
from tests.support import leftovers
from tests.support.daemon import Daemon
from tests.support.docker import Client
from tests.support.eventually import eventually
from tests.support.images import BUSYBOX

pytestmark = pytest.mark.own_daemon
PORT = 34600
WORDS = ("sh", "-c", "mkdir /w; hostname > /w/index.html; exec httpd -f -h /w")


class FarDaemon(Daemon):
    """In its own network namespace, where it begins with nothing but loopback."""

    def __init__(self, folder: Path, number: int) -> None:
        super().__init__(folder, number)
        self.bridge, self.subnet_prefix = "same0", "10.219.0"

    def command(self) -> list[str]:
        return ["unshare", "--net", "sh", "-c", 'ip link set lo up; exec "$@"', "sh", *super().command()]

    def inside(self, *words: str) -> str:
        """What a program prints in its namespace."""
        command = ["nsenter", "-t", str(self.pid), "--net", "--", *words]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout

    def rules(self) -> str:
        return self.inside("nft", "-s", "list", "ruleset")

    def page(self) -> str:
        return self.inside("busybox", "wget", "-q", "-O", "-", f"http://127.0.0.1:{PORT}/").strip()


@pytest.fixture
def twins(_isolated: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[FarDaemon]]:
    """Each with a network, a container on it with a published port, and another one."""
    daemons = [FarDaemon(tmp_path_factory.mktemp("twin"), 900 + number) for number in range(2)]
    yield daemons
    for daemon in daemons:
        if daemon.running:
            remove_everything(Client(daemon.host))
            daemon.stop()
        leftovers.end_groups(daemon)


def settle(daemon: FarDaemon) -> None:
    client = Client(daemon.host)
    load_busybox(client)
    client("network", "create", "town", code=None)  # it may be there from before
    client("run", "-d", "--name", "web", "--hostname", daemon.folder.name, "--network", "town",
           "-p", f"{PORT}:80", BUSYBOX, *WORDS)  # fmt: skip
    client("run", "-d", "--name", "other", "--network", "town", BUSYBOX, "sleep", "100000")


def called(daemon: FarDaemon) -> str:
    """What the one container gets from the other, by its name."""
    words = ("exec", "other", "wget", "-q", "-O", "-", "http://web/")
    return Client(daemon.host)(*words, code=None).out.strip()


def test_two_daemons_in_two_network_namespaces(twins: list[FarDaemon]) -> None:
    before = leftovers.host_network()
    first, second = twins
    for daemon in twins:
        daemon.start()
        settle(daemon)
    for daemon in twins:
        eventually(lambda daemon=daemon: called(daemon) == daemon.folder.name, "it is found by name")  # type: ignore[misc]
        assert daemon.page() == daemon.folder.name
    links = [daemon.inside("ip", "-o", "link", "show", "type", "bridge").splitlines() for daemon in twins]
    assert [len(bridges) for bridges in links] == [2, 2]
    rules = second.rules()
    assert "sampan-same0" in rules
    assert str(PORT) in rules
    remove_everything(Client(first.host))
    first.stop()
    assert second.rules() == rules
    assert second.page() == second.folder.name
    assert called(second) == second.folder.name
    first.start()  # where there is nothing of its network yet
    settle(first)
    assert eventually(lambda: called(first), "the first one serves again") == first.folder.name
    assert second.rules() == rules
    assert second.page() == second.folder.name
    assert leftovers.host_network() == before
