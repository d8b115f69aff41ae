"""What containers may reach, with packets that really do and do not arrive."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from tests.support.eventually import eventually
from tests.support.nameserver import NameServer, shown
from tests.support.nameserver import ask as ask_name
from tests.support.net_boxes import Box, ask, own_namespace, refused, wire_outside
from tests.support.net_host import BRIDGE, HOST4, HOST6, OUTSIDE4, OUTSIDE6, Container, Host

from sampan.base.ids import new_id
from sampan.kernel.netlink import set_loopback_up
from sampan.kernel.nflog import Packet
from sampan.kernel.nftables import Element, NftSocket
from sampan.model.container import EndpointConfig
from sampan.model.network import IPAMPool, NameWish, Network
from sampan.net.egress.guard import Restricted
from sampan.net.errors import InvalidNetworkSetting
from sampan.net.settings import NetworkSettings

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces"),
]
UPSTREAM = "127.0.1.1"
TABLE = f"sampan-{BRIDGE}-egress"


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    with own_namespace():
        made = Host()
        settings = NetworkSettings(
            run_dir=str(tmp_path), bridge=BRIDGE, bip="172.30.0.1/24", ipv6=True, bip6="fd30::1/64"
        )
        made.start_with(settings)
        try:
            yield made
        finally:
            for box in made.boxes:
                box.close()
            for container in ("web", "other", "free"):
                made.stack.containers.disconnect(container)
            made.stack.close()


@pytest.fixture
def outside(host: Host) -> Box:
    box = host.box()
    wire_outside(box, "uplink", [f"{HOST4}/24", f"{HOST6}/64"], [f"{OUTSIDE4}/24", f"{OUTSIDE6}/64"])
    for port in (80, 81):
        box.serve("::", port)
    # addresses of IPv6 are of no use until it is known that nobody else has them
    eventually(lambda: not refused(lambda: ask(OUTSIDE6, 80, timeout_s=0.5)), "IPv6 works")
    return box


def restricted(text: str) -> dict[str, dict[str, str]]:
    return {"driver_opts": {"sampan.egress": text}}


def outcome(container: Container, address: str, port: int) -> str:
    """ "" when it answers, else the error's name."""

    def work() -> str:
        try:
            ask(address, port)
        except OSError as error:
            return errno.errorcode.get(error.errno or 0, "TIMEOUT")
        return ""

    return container.box.run(work)


def ruleset() -> str:
    return subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - the kernel changes it
            await asyncio.sleep(0.01)


async def test_subnets_and_ports(host: Host, outside: Box) -> None:
    web = host.run("web", **restricted(f"{OUTSIDE4}:80/tcp [{OUTSIDE6}]:81"))
    free = host.run("free", {"70/tcp": "7070"})
    free.box.serve("::", 70)

    assert outcome(web, OUTSIDE4, 80) == outcome(web, OUTSIDE6, 81) == ""
    # refused at once, by ICMP: administratively prohibited
    assert outcome(web, OUTSIDE4, 81) == "EHOSTUNREACH"
    assert outcome(web, OUTSIDE6, 80) == "EACCES"
    # what stays on the network is none of it; the host is elsewhere, and who has no list goes anywhere
    assert outcome(web, free.ip, 70) == outcome(web, free.ip6, 70) == ""
    assert outcome(web, HOST4, 22) == outcome(web, "172.30.0.1", 22) == "EHOSTUNREACH"
    assert outcome(free, OUTSIDE4, 81) == ""
    assert outcome(free, HOST4, 22) == "ECONNREFUSED"


async def test_published_ports_are_answered(host: Host, outside: Box) -> None:
    web = host.run("web", {"70/tcp": "7070"}, **restricted("none"))
    web.box.serve(web.ip, 70)
    assert outside.run(lambda: ask(HOST4, 7070)) == OUTSIDE4
    assert outcome(web, OUTSIDE4, 80) == "EHOSTUNREACH"


async def test_nothing_is_left_of_the_last_one(host: Host, outside: Box) -> None:
    before = ruleset()
    web = host.run("web", **restricted("10.0.0.0/8 10.9.0.0/16:80"))
    other = host.run("other", **restricted("none"))
    assert outcome(web, OUTSIDE4, 81) == ""
    host.stack.containers.disconnect("web")
    assert web.ip not in ruleset()
    assert outcome(other, OUTSIDE4, 81) == "EHOSTUNREACH"
    host.stack.containers.disconnect("other")
    assert ruleset() == before


async def test_refusals_are_told(host: Host, outside: Box) -> None:
    web = host.run("web", **restricted("none"))
    told: list[tuple[Restricted, Packet]] = []
    host.stack.refused = lambda who, packet: told.append((who, packet))
    host.stack.watch()
    assert await asyncio.to_thread(outcome, web, OUTSIDE4, 81) == "EHOSTUNREACH"
    assert await asyncio.to_thread(outcome, web, OUTSIDE6, 80) == "EACCES"
    expected = {Packet(web.ip, OUTSIDE4, 6, 81), Packet(web.ip6, OUTSIDE6, 6, 80)}
    await until(lambda: len({packet for _, packet in told}) >= len(expected))
    assert {packet for _, packet in told} == expected
    assert {who.container_id for who, _ in told} == {"web"}


async def test_a_flushed_rule_set_is_put_back(host: Host, outside: Box) -> None:
    web = host.run("web", **restricted(f"{OUTSIDE4}:80"))
    host.stack.watch()
    await asyncio.to_thread(flush_by_another_process)
    await until(lambda: f"table inet {TABLE} " in ruleset() and f"table inet sampan-{BRIDGE} " in ruleset())
    assert await asyncio.to_thread(outcome, web, OUTSIDE4, 81) == "EHOSTUNREACH"
    assert await asyncio.to_thread(outcome, web, OUTSIDE4, 80) == ""


async def test_an_earlier_daemons_containers_stay_restricted(host: Host, outside: Box) -> None:
    web = host.run("web", **restricted(f"{OUTSIDE4}:80"))
    host.stack.let_go()
    assert outcome(web, OUTSIDE4, 81) == "EHOSTUNREACH"

    host.start_with(host.stack.settings, host.network.id)
    config = EndpointConfig(driver_opts={"sampan.egress": f"{OUTSIDE4}:81"})
    host.stack.containers.recover("web", host.network, web.endpoint, {}, config=config)
    host.stack.settle()
    assert outcome(web, OUTSIDE4, 80) == "EHOSTUNREACH"
    assert outcome(web, OUTSIDE4, 81) == ""


def test_what_cannot_be_kept_is_refused(host: Host) -> None:
    for driver, text, why in (
        ("bridge", "example.org", "names are for networks of the user's"),
        ("ipvlan", "10.0.0.1", "works on bridge networks only"),
        ("bridge", "fd00::1", "in brackets"),
    ):
        name = "bridge" if driver == "bridge" else "own"
        network = Network(
            id=new_id(), name=name, driver=driver, created_ns=1, options={"sampan.egress": text}
        )
        with pytest.raises(InvalidNetworkSetting, match=why):
            host.stack.ensure(network)


def learnt() -> dict[str, int]:
    """Seconds that each address has, by the destination as nft shows it."""
    found = {}
    for version in (4, 6):
        for what in ("port", "protocol"):
            name = f"learnt_{what}{version}"
            shown = subprocess.run(
                ["nft", "-j", "list", "set", "inet", TABLE, name], capture_output=True, text=True, check=True
            )
            for one in json.loads(shown.stdout)["nftables"][1]["set"].get("elem", ()):
                parts = one["elem"]["val"]["concat"]
                found[" ".join(str(part) for part in parts[1:])] = one["elem"]["expires"]
    return found


async def test_names_are_learnt_from_answers(host: Host, outside: Box) -> None:
    network = host.stack.ensure(
        Network(
            id=new_id(),
            name="own",
            driver="bridge",
            created_ns=1,
            pools=[IPAMPool(subnet="172.31.0.0/24")],
            options={"sampan.egress": "allowed.test:80/tcp, *.deep.test"},
        )
    )
    host.network = network
    web = host.run("web")
    web.box.run(set_loopback_up)
    host.stack.watch()
    containers = host.stack.containers
    names = {"allowed.test": [OUTSIDE4], "a.deep.test": [OUTSIDE4, "192.0.2.1"], "other.test": ["192.0.2.9"]}
    upstream = NameServer(UPSTREAM, dict(names))

    async def asked(name: str) -> list[str]:
        return await asyncio.to_thread(web.box.run, lambda: shown(ask_name(name)))

    async def got(address: str, port: int) -> str:
        return await asyncio.to_thread(outcome, web, address, port)

    try:
        wish = NameWish(aliases={}, servers=[UPSTREAM], own_servers=True)
        containers.show_names("web", wish)
        containers.ensure_names()
        containers.serve_names("web", web.box.pid)
        assert await got(OUTSIDE4, 80) == "EHOSTUNREACH"
        assert await asked("other.test") == ["192.0.2.9"]
        assert learnt() == {}
        assert await asked("Allowed.test") == [OUTSIDE4]
        assert await got(OUTSIDE4, 80) == ""
        assert await got(OUTSIDE4, 81) == "EHOSTUNREACH"
        assert 60 < learnt()[f"{OUTSIDE4} tcp 80"] <= 120
        # another network comes, the rules are replaced: what was learnt stays
        host.stack.ensure(Network(id=new_id(), name="new", driver="bridge", created_ns=1))
        host.run("other")
        assert await got(OUTSIDE4, 80) == ""
        # everything is lost and learnt again, without a question
        questions = upstream.count()
        await asyncio.to_thread(flush_by_another_process)
        await until(lambda: f"table inet {TABLE} " in ruleset() and bool(learnt()))
        assert await got(OUTSIDE4, 80) == ""
        assert upstream.count() == questions
        assert await asked("a.deep.test") == names["a.deep.test"]
        assert await got(OUTSIDE4, 81) == ""
        assert set(learnt()) == {
            f"{OUTSIDE4} tcp 80",
            *(f"{address} {what}" for address in names["a.deep.test"] for what in ("icmp", "tcp", "udp")),
        }
        containers.disconnect("web")
        await until(lambda: learnt() == {})
    finally:
        upstream.close()


def test_an_element_is_renewed_and_discarded(host: Host) -> None:
    host.run("web", **restricted("none"))
    key = socket.inet_aton("172.30.0.2") + socket.inet_aton("192.0.2.1") + b"\x06\0\0\0"
    nft = NftSocket()
    try:
        for seconds in (100, 1000, 50):  # longer and shorter, and where there is none
            nft.renew_elements(TABLE, [Element("learnt_protocol4", key, timeout_ms=seconds * 1000)])
            left = learnt()["192.0.2.1 tcp"]
            assert seconds - 30 < left <= seconds
        gone = [Element("learnt_protocol4", key, timeout_ms=1000)]
        nft.discard_elements(TABLE, gone)
        nft.discard_elements(TABLE, gone)
        assert learnt() == {}
        with pytest.raises(FileNotFoundError):
            nft.renew_elements(f"{TABLE}-other", gone)
    finally:
        nft.close()


def flush_by_another_process() -> None:
    subprocess.run(["nft", "flush", "ruleset"], check=True)
