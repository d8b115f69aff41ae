"""Networks that users make: bridges of their own, joined at create and later."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.support.docker import Client
from tests.support.eventually import eventually
from tests.support.images import BUSYBOX

SERVE = ("sh", "-c", "mkdir -p /www; hostname > /www/index.html; exec httpd -f -p 80 -h /www")


def networks_of(docker: Client, container: str) -> dict[str, Any]:
    return dict(
        json.loads(docker.line("inspect", "--format", "{{json .NetworkSettings.Networks}}", container))
    )


def members_of(docker: Client, network: str) -> dict[str, Any]:
    shown = docker.line("network", "inspect", "--format", "{{json .Containers}}", network)
    return {member["Name"]: member for member in json.loads(shown).values()}


@pytest.fixture
def network(docker: Client, name: str) -> Iterator[str]:
    """A network's name; containers on it are removed with it."""
    docker("network", "create", "--subnet", "10.213.7.0/24", name)
    yield name
    for container in docker("ps", "-aq", "--filter", f"network={name}").out.split():
        docker("rm", "-f", container)
    docker("network", "rm", name)


def fetch(docker: Client, container: str, address: str) -> str:
    """What the container's wget gets; empty when nothing comes within two seconds."""
    words = ("busybox", "timeout", "2", "busybox", "wget", "-qO-", f"http://{address}/")
    done = docker("exec", container, *words, code=None)
    return done.out.strip() if done.code == 0 else ""


def test_members_see_each_other_and_nobody_else(
    docker: Client, network: str, started: Callable[..., str]
) -> None:
    server = started("--network", network, "--hostname", "server", command=SERVE)
    friend = started("--network", network, "--ip", "10.213.7.77")
    stranger = started()
    address = networks_of(docker, server)[network]["IPAddress"]
    assert networks_of(docker, friend)[network]["IPAddress"] == "10.213.7.77"
    assert eventually(lambda: fetch(docker, friend, address), "an answer") == "server"
    assert fetch(docker, stranger, address) == ""
    assert set(members_of(docker, network)) == {server, friend}
    assert members_of(docker, network)[friend]["IPv4Address"] == "10.213.7.77/24"


def test_a_running_container_joins_and_leaves(
    docker: Client, network: str, started: Callable[..., str]
) -> None:
    server = started("--network", network, "--hostname", "server", command=SERVE)
    address = networks_of(docker, server)[network]["IPAddress"]
    container = started("--hostname", "guest")
    docker("network", "connect", "--ip", "10.213.7.99", network, container)
    assert "inet 10.213.7.99/24" in docker.line("exec", container, "ip", "addr", "show", "dev", "eth1")
    assert "10.213.7.99\tguest" in docker.line("exec", container, "cat", "/etc/hosts")
    assert eventually(lambda: fetch(docker, container, address), "an answer") == "server"
    again = docker("network", "connect", network, container, code=None)
    assert f"endpoint with name {container} already exists in network {network}" in again.err

    docker("network", "disconnect", network, container)
    assert "10.213.7" not in docker.line("exec", container, "sh", "-c", "ip addr; cat /etc/hosts")
    assert set(networks_of(docker, container)) == {"bridge"}
    assert "default via" in docker.line("exec", container, "ip", "route")
    again = docker("network", "disconnect", network, container, code=None)
    assert f"is not connected to network {network}" in again.err


def test_the_default_route_moves_to_the_network_that_stays(
    docker: Client, network: str, started: Callable[..., str]
) -> None:
    container = started()
    docker("network", "connect", network, container)
    docker("network", "disconnect", "bridge", container)
    assert "default via 10.213.7.1 " in docker.line("exec", container, "ip", "route")
    docker("restart", "-t", "0", container)
    assert "default via 10.213.7.1 " in docker.line("exec", container, "ip", "route")


def test_a_stopped_container_joins_at_its_next_start(docker: Client, network: str, name: str) -> None:
    container = f"{name}-stopped"
    docker("create", "--name", container, BUSYBOX, "sleep", "1000")
    docker("network", "connect", network, container)
    assert networks_of(docker, container)[network]["IPAddress"] == ""
    docker("start", container)
    assert set(networks_of(docker, container)) == {"bridge", network}
    assert "inet 10.213.7." in docker.line("exec", container, "ip", "addr", "show", "dev", "eth1")


def test_a_network_in_use_stays(docker: Client, network: str, started: Callable[..., str]) -> None:
    container = started("--network", network)
    refused = docker("network", "rm", network, code=None)
    assert refused.code != 0
    assert f'network {network} has active endpoints (name:"{container}" id:"' in refused.err
    assert network not in docker.line("network", "prune", "-f")


def test_unused_networks_are_pruned(docker: Client, name: str) -> None:
    docker("network", "create", "--label", f"own={name}", name)
    assert docker.line("network", "ls", "-q", "--filter", f"label=own={name}")
    assert name in docker.line("network", "prune", "-f", "--filter", f"label=own={name}")
    assert docker.line("network", "ls", "-q", "--filter", f"label=own={name}") == ""


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("network", "create", "bridge"), "operation is not permitted on predefined bridge network"),
        (("network", "rm", "host"), "host is a pre-defined network and cannot be removed"),
        (("network", "inspect", "nowhere"), "network nowhere not found"),
        (("network", "connect", "nowhere", "nobody"), "network nowhere not found"),
        (("network", "connect", "bridge", "nobody"), "No such container: nobody"),
        (("network", "create", "-d", "weave", "w"), 'could not find plugin "weave"'),
        (("network", "create", "--subnet", "10.0.0.5/24", "w"), "it should be 10.0.0.0/24"),
        (
            ("run", "--rm", "--ip", "172.17.0.9", BUSYBOX),
            "user specified IP address is supported on user defined",
        ),
    ],
)
def test_what_is_refused(docker: Client, words: tuple[str, ...], text: str) -> None:
    done = docker(*words, code=None)
    assert done.code != 0
    assert text in done.err
