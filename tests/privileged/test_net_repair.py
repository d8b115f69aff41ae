"""What other programs do to our rules and bridges is undone at once; and what the host's firewall decides."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Callable

import pytest
from tests.support.net_boxes import Box, ask, own_namespace, refused, wire_outside
from tests.support.net_host import BRIDGE, HOST4, OUTSIDE4, Host, elements

from sampan.base.ids import new_id
from sampan.kernel import links
from sampan.kernel.linkevents import LinkChanges
from sampan.kernel.netlink import NetlinkSocket
from sampan.kernel.nftables import NftChanges, NftSocket, run_ruleset
from sampan.model.network import Network
from sampan.net.firewall import Firewall

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces"),
]


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    with own_namespace(), Host() as made:
        yield made


@pytest.fixture
def outside(host: Host) -> Box:
    box = host.box()
    wire_outside(box, "uplink", [f"{HOST4}/24"], [f"{OUTSIDE4}/24"])
    return box


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - the kernel changes it
            await asyncio.sleep(0.01)


def foreign(ruleset: str) -> None:
    """Loaded by another process, as the kernel sees it."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            run_ruleset(ruleset)
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0


def has_table(host: Host) -> bool:
    nft = NftSocket()
    try:
        return nft.has_table(host.stack.table)
    finally:
        nft.close()


async def test_a_flushed_rule_set_is_put_back(host: Host, outside: Box) -> None:
    host.start()
    server = host.run("web", {"80/tcp": "8080", "90/tcp": "9000-9002"})
    server.box.serve(server.ip, 80)
    host.stack.watch()
    foreign("flush ruleset")
    await until(lambda: has_table(host))
    assert await asyncio.to_thread(outside.run, lambda: ask(HOST4, 8080)) == OUTSIDE4
    table = host.stack.table
    foreign(f"flush map inet {table} publish4")
    # the table was there all the time: wait until the port is
    await until(lambda: not refused(lambda: ask("127.0.0.1", 8080, timeout_s=0.5)))


async def test_a_deleted_bridge_is_made_again(host: Host) -> None:
    host.start()
    first, second = host.run("first"), host.run("second")
    second.box.serve(second.ip, 80)
    host.stack.watch()

    def reaches() -> bool:
        return not refused(lambda: first.box.run(lambda: ask(second.ip, 80, timeout_s=0.5)))

    assert reaches()
    with NetlinkSocket() as route:
        links.delete_link(route, BRIDGE)
    await until(lambda: find(BRIDGE) is not None)
    await until(reaches)
    address = "172.30.0.1/24"
    with NetlinkSocket() as route:
        bridge = links.find_link(route, BRIDGE)
        assert bridge is not None
        assert links.list_addresses(route, bridge.ifindex) == [address]
        links.delete_address(route, BRIDGE, bridge.ifindex, address)
    await until(lambda: addresses(BRIDGE) == [address])


def find(name: str) -> links.Link | None:
    with NetlinkSocket() as route:
        return links.find_link(route, name)


def addresses(name: str) -> list[str]:
    link = find(name)
    if link is None:
        return []
    with NetlinkSocket() as route:
        return links.list_addresses(route, link.ifindex)


def test_a_removed_network_is_not_repaired(host: Host) -> None:
    host.start()
    host.stack.remove(host.network)
    assert not host.stack.repair_links()
    assert find(BRIDGE) is None


def test_nobody_is_woken_by_the_links_of_containers(host: Host) -> None:
    host.start()
    host.run("first")  # the bridge has a carrier from the first link on
    bridge = find(BRIDGE)
    assert bridge is not None
    changes = LinkChanges()
    changes.watch_only([bridge.ifindex])
    host.run("second")
    host.stack.containers.disconnect("second")
    assert not changes.happened()
    with NetlinkSocket() as route:
        links.delete_link(route, BRIDGE)
    assert changes.happened()
    changes.close()


def test_own_changes_are_told_from_those_of_others(host: Host) -> None:
    changes = NftChanges()
    run_ruleset("add table inet sampan-mine")
    assert changes.foreign() == set()
    foreign("add table ip somebodys; add chain inet sampan-mine c")
    assert changes.foreign() == {"somebodys", "sampan-mine"}
    assert changes.foreign() == set()
    changes.close()


def test_a_range_is_one_element(host: Host, outside: Box) -> None:
    host.start()
    server = host.run("web", {f"{port}/tcp": str(port) for port in range(8000, 8100)} | {"80/tcp": "7000"})
    for port in (8000, 8050, 8099):
        server.box.serve(server.ip, port)
    for port in (8000, 8050, 8099):
        assert outside.run(lambda port=port: ask(HOST4, port)) == OUTSIDE4  # type: ignore[misc]
        assert ask("127.0.0.1", port) == "172.30.0.1"
    assert elements("range4") == {f"tcp . 8000-8099 : {server.ip}"}
    assert elements("publish4") == {f"tcp . 7000 : {server.ip} . 80"}
    host.stack.containers.disconnect("web")
    assert elements("range4") == set()


INPUT = """
table inet hosts_own {
    chain input {
        type filter hook input priority 0; policy accept;
        iifname "uplink" tcp dport 8081 drop
    }
}
"""


@pytest.mark.parametrize("mode", ["docker", "respect"])
def test_the_hosts_rules_have_their_say_when_it_is_wanted(host: Host, outside: Box, mode: str) -> None:
    host.start(firewall=mode)
    server = host.run("web", {"80/tcp": "8080", "81/tcp": "8081", "90/tcp": "9000-9001"})
    for port in (80, 81, 90):
        server.box.serve(server.ip, port)
    run_ruleset(INPUT)
    # the repetition of the first packet comes after a second
    assert outside.run(lambda: ask(HOST4, 8080, timeout_s=10)) == OUTSIDE4
    assert outside.run(lambda: ask(HOST4, 8080, timeout_s=10)) == OUTSIDE4
    forbidden = outside.run(lambda: refused(lambda: ask(HOST4, 8081, timeout_s=2.5)))
    assert forbidden == (mode == "respect")
    # the host itself and containers are not asked
    assert ask("127.0.0.1", 8081, timeout_s=0.9) == "172.30.0.1"
    assert host.run("other").box.run(lambda: ask("172.30.0.1", 8081, timeout_s=0.9))


def shown_table(host: Host) -> list[str]:
    shown = subprocess.run(
        ["nft", "list", "table", "inet", host.stack.table], capture_output=True, text=True, check=True
    ).stdout
    return sorted(shown.replace(",", "\n").split())


def test_networks_come_and_go_without_loading_the_rules_anew(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.start()
    before = shown_table(host)
    with monkeypatch.context() as patched:
        patched.setattr(Firewall, "rebuild", lambda self: pytest.fail("all rules were loaded again"))
        made = [
            host.stack.ensure(
                Network(id=new_id(), name=f"n{n}", driver="bridge", created_ns=1, enable_ipv6=True, **kind)
            )
            for n, kind in enumerate([{}, {"internal": True}, {}])
        ]
    added = shown_table(host)
    assert added != before
    host.stack._firewall.rebuild()
    assert shown_table(host) == added
    with monkeypatch.context() as patched:
        patched.setattr(Firewall, "rebuild", lambda self: pytest.fail("all rules were loaded again"))
        for network in made:
            host.stack.remove(network)
    assert shown_table(host) == before
