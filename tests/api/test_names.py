"""Containers on networks of users find each other by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from tests.support.docker import Client
from tests.support.eventually import eventually
from tests.support.images import BUSYBOX


@pytest.fixture
def network(docker: Client, name: str) -> Iterator[str]:
    """Without a way out, so that nobody is asked for names that are not there."""
    docker("network", "create", "--internal", name)
    yield name
    for container in docker("ps", "-aq", "--filter", f"network={name}").out.split():
        docker("rm", "-f", container)
    docker("network", "rm", name)


def looked_up(docker: Client, container: str, name: str) -> list[str]:
    """The addresses that a container finds for a name, sorted."""
    done = docker("exec", container, "busybox", "nslookup", "-type=a", name, "127.0.0.11", code=None)
    answer = done.out.partition("\n\n")[2]
    return sorted(line.split()[-1] for line in answer.splitlines() if line.startswith("Address"))


def address(docker: Client, container: str, network: str) -> str:
    return docker.line(
        "inspect", "--format", f'{{{{(index .NetworkSettings.Networks "{network}").IPAddress}}}}', container
    )


def test_names_aliases_and_short_ids(docker: Client, network: str, started: Callable[..., str]) -> None:
    server = started("--network", network, "--network-alias", "db", "--network-alias", "store")
    asking = started("--network", network)
    wanted = [address(docker, server, network)]
    short = docker.line("inspect", "--format", "{{.Id}}", server)[:12]
    for name in (server, "db", "store", short, f"{server}.{network}", server.upper()):
        assert looked_up(docker, asking, name) == wanted, name
    assert looked_up(docker, asking, "nobody") == []
    reverse = docker("exec", asking, "busybox", "nslookup", wanted[0], "127.0.0.11").out
    assert f"name = {server}.{network}" in reverse


def test_the_very_first_command_can_ask(docker: Client, network: str, started: Callable[..., str]) -> None:
    server = started("--network", network)
    asked = docker("run", "--rm", "--network", network, BUSYBOX, "nslookup", "-type=a", server).out
    assert address(docker, server, network) in asked


def test_an_alias_is_shared(docker: Client, network: str, started: Callable[..., str]) -> None:
    servers = [started("--network", network, "--network-alias", "web") for _ in range(3)]
    asking = started("--network", network)
    assert looked_up(docker, asking, "web") == sorted(address(docker, one, network) for one in servers)
    docker("rm", "-f", servers.pop())
    assert looked_up(docker, asking, "web") == sorted(address(docker, one, network) for one in servers)


def test_the_healthy_come_first(docker: Client, network: str, started: Callable[..., str]) -> None:
    check = ("--health-cmd", "test -f /tmp/well", "--health-interval", "100ms", "--health-retries", "1")
    sick, well = (started("--network", network, "--network-alias", "web", *check) for _ in range(2))
    asking = started("--network", network)
    docker("exec", well, "touch", "/tmp/well")

    def first() -> set[str]:
        asked = [
            docker("exec", asking, "busybox", "nslookup", "-type=a", "web", "127.0.0.11").out
            for _ in range(3)
        ]
        return {one.partition("\n\n")[2].split("Address: ")[1].split()[0] for one in asked}

    eventually(lambda: first() == {address(docker, well, network)}, "the healthy one is first")
    docker("exec", sick, "touch", "/tmp/well")
    docker("exec", well, "rm", "/tmp/well")
    eventually(lambda: first() == {address(docker, sick, network)}, "the other one is first")


def test_a_running_container_gets_names_with_its_network(
    docker: Client, network: str, started: Callable[..., str]
) -> None:
    server, asking = started("--network", network), started()
    before = docker("exec", asking, "cat", "/etc/resolv.conf").out
    docker("network", "connect", "--alias", "late", network, asking)
    assert "nameserver 127.0.0.11" in docker("exec", asking, "cat", "/etc/resolv.conf").out
    wanted = [address(docker, server, network)]
    eventually(lambda: looked_up(docker, asking, server) == wanted, "the name")
    assert looked_up(docker, server, "late") == [address(docker, asking, network)]
    docker("network", "disconnect", network, asking)
    assert looked_up(docker, server, "late") == []
    assert docker("exec", asking, "cat", "/etc/resolv.conf").out == before


def test_a_renamed_container_is_found_under_its_new_name(
    docker: Client, network: str, started: Callable[..., str]
) -> None:
    server, asking = started("--network", network), started("--network", network)
    wanted = [address(docker, server, network)]
    docker("rename", server, f"{server}-new")
    try:
        assert looked_up(docker, asking, f"{server}-new") == wanted
        assert looked_up(docker, asking, server) == []
    finally:
        docker("rename", f"{server}-new", server)


def test_links_are_names_on_networks_of_users(
    docker: Client, network: str, started: Callable[..., str]
) -> None:
    server = started("--network", network)
    asking = started("--network", network, "--link", f"{server}:database")
    assert looked_up(docker, asking, "database") == [address(docker, server, network)]
    assert looked_up(docker, server, "database") == []
    assert "database" not in docker("exec", asking, "cat", "/etc/hosts").out


def test_resolv_conf_is_dockers(docker: Client, network: str) -> None:
    shown = docker(
        "run", "--rm", "--network", network, "--dns", "192.0.2.53", BUSYBOX, "cat", "/etc/resolv.conf"
    )
    assert "nameserver 127.0.0.11\n" in shown.out
    assert "options ndots:0\n" in shown.out
    assert "# ExtServers: [192.0.2.53]\n" in shown.out
    default = docker("run", "--rm", BUSYBOX, "cat", "/etc/resolv.conf").out
    assert "127.0.0.11" not in default


def test_networks_keep_their_names_apart(
    docker: Client, network: str, name: str, started: Callable[..., str]
) -> None:
    docker("network", "create", "--internal", f"{name}-other")
    try:
        server, asking = started("--network", network), started("--network", f"{name}-other")
        assert looked_up(docker, asking, server) == []
        docker("rm", "-f", asking)
    finally:
        docker("network", "rm", f"{name}-other")
