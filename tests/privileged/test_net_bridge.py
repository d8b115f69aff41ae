"""The default bridge between real network namespaces."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Iterator

import pytest
from tests.support.net_boxes import Box, ask, link_names, own_namespace, refused, wire_outside
from tests.support.net_host import BRIDGE, HOST4, HOST6, OUTSIDE4, OUTSIDE6, Host, elements

from sampan.base.errors import SampanError
from sampan.base.ids import new_id
from sampan.kernel import links
from sampan.kernel.netlink import NetlinkSocket
from sampan.kernel.nftables import NftSocket, run_ruleset
from sampan.model.container import EndpointConfig, EndpointIPAMConfig, PortBinding
from sampan.model.network import Network
from sampan.net.errors import AddressInUse, DeviceFailed, InvalidPort, PortInUse, PublishFailed
from sampan.net.live import plug as plug_live
from sampan.net.live import unplug as unplug_live
from sampan.net.settings import NetworkSettings
from sampan.net.stack import remove_everything

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces"),
]

BRIDGE_NETFILTER = "/proc/sys/net/bridge/bridge-nf-call-ip{}tables"


@pytest.fixture(params=["routed", "br_netfilter"])
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    """Once as most hosts are, and once with br_netfilter in force where its module is loaded."""
    wants = request.param == "br_netfilter"
    loaded = os.path.exists(BRIDGE_NETFILTER.format(""))
    if wants and not loaded:
        pytest.skip("br_netfilter is not loaded")
    with own_namespace():
        if loaded:
            for family in ("", "6"):
                links.write_sysctl(
                    BRIDGE_NETFILTER.format(family).removeprefix("/proc/sys/"), str(int(wants))
                )
        with Host() as made:
            yield made


@pytest.fixture
def outside(host: Host) -> Box:
    box = host.box()
    wire_outside(box, "uplink", [f"{HOST4}/24", f"{HOST6}/64"], [f"{OUTSIDE4}/24", f"{OUTSIDE6}/64"])
    return box


def test_containers_reach_each_other_and_the_outside(host: Host, outside: Box) -> None:
    host.start()
    first, second = host.run("first"), host.run("second")
    second.box.serve(second.ip, 80)
    outside.serve(OUTSIDE4, 80)

    assert first.box.run(lambda: ask(second.ip, 80)) == first.ip
    assert first.box.run(lambda: ask(OUTSIDE4, 80)) == HOST4  # masqueraded
    assert ask(second.ip, 80) == "172.30.0.1"


def test_published_port_from_everywhere(host: Host, outside: Box) -> None:
    host.start()
    web, other = host.run("web", {"80/tcp": "8080"}), host.run("other")
    web.box.serve("0.0.0.0", 80)

    assert web.bound == {"80/tcp": [PortBinding(host_ip="0.0.0.0", host_port="8080")]}
    assert outside.run(lambda: ask(HOST4, 8080)) == OUTSIDE4  # the source is kept
    assert ask(HOST4, 8080) == HOST4
    assert ask("127.0.0.1", 8080) == "172.30.0.1"
    assert ask("172.30.0.1", 8080) == "172.30.0.1"
    assert web.box.run(lambda: ask(HOST4, 8080)) == "172.30.0.1"  # its own port, by the host's address
    assert other.box.run(lambda: ask(HOST4, 8080)) == "172.30.0.1"
    assert other.box.run(lambda: ask("172.30.0.1", 8080)) == "172.30.0.1"


def test_udp_and_ranges(host: Host, outside: Box) -> None:
    host.start()
    ports = {f"{port}/udp": f"{port}" for port in range(5000, 5003)}
    dns = host.run("dns", ports)
    for port in range(5000, 5003):
        dns.box.serve(dns.ip, port, socket.SOCK_DGRAM)

    for port in range(5000, 5003):
        assert outside.run(lambda port=port: ask(HOST4, port, socket.SOCK_DGRAM)) == OUTSIDE4
    assert ask("127.0.0.1", 5001, socket.SOCK_DGRAM) == "172.30.0.1"


def test_a_persistent_sender_finds_the_new_container(host: Host, outside: Box) -> None:
    host.start()

    def converse(client: socket.socket) -> str:
        client.sendto(b"?", (HOST4, 5000))
        return client.recv(100).decode()

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(3)
        for name in ("old", "new"):
            dns = host.run(name, {"53/udp": "5000"})
            dns.box.serve(dns.ip, 53, socket.SOCK_DGRAM)
            assert ask(dns.ip, 53, socket.SOCK_DGRAM)  # its port in the bridge is up
            assert converse(client) == HOST4
            host.stack.containers.disconnect(name)
            dns.box.close()
            host.boxes.remove(dns.box)
            client.sendto(b"?", (HOST4, 5000))  # keeps the flow alive while nobody has the port


def test_published_port_over_ipv6(host: Host, outside: Box) -> None:
    host.start(ipv6=True, bip6="fd30::1/64")
    web, other = host.run("web", {"80/tcp": "8080"}), host.run("other")
    web.box.serve("::", 80)

    assert web.ip6 == "fd30::2"
    assert [binding.host_ip for binding in web.bound["80/tcp"]] == ["0.0.0.0", "::"]
    assert outside.run(lambda: ask(HOST6, 8080)) == OUTSIDE6
    assert ask(HOST6, 8080) == HOST6
    assert web.box.run(lambda: ask(HOST6, 8080)) == "fd30::1"
    assert other.box.run(lambda: ask("fd30::2", 80)) == "fd30::3"
    if links.has_bridge_netfilter6():
        with pytest.raises(ConnectionRefusedError):
            ask("::1", 8080)
    else:
        assert ask("::1", 8080) == "fd30::1"


def test_port_at_one_address_only(host: Host, outside: Box) -> None:
    host.start()
    web = host.run("web", {"80/tcp": f"127.0.0.1@8080 {HOST4}@8081"})
    web.box.serve(web.ip, 80)

    assert ask("127.0.0.1", 8080) == "172.30.0.1"
    assert refused(lambda: ask(HOST4, 8080, timeout_s=0.5))
    assert outside.run(lambda: ask(HOST4, 8081)) == OUTSIDE4
    assert refused(lambda: ask("127.0.0.1", 8081, timeout_s=0.5))
    # one of two daemons' worth of bindings: the same port at the other address is still free
    again = host.run("again", {"80/tcp": f"{HOST4}@8080"})
    again.box.serve(again.ip, 80)
    assert outside.run(lambda: ask(HOST4, 8080)) == OUTSIDE4


def test_containers_are_not_reached_directly(host: Host, outside: Box) -> None:
    host.start()
    web = host.run("web", {"80/tcp": "8080"})
    web.box.serve(web.ip, 80)
    web.box.serve(web.ip, 22)

    assert outside.run(lambda: ask(HOST4, 8080)) == OUTSIDE4
    for port in (80, 22):
        assert outside.run(lambda port=port: refused(lambda: ask(web.ip, port, timeout_s=0.5)))
    assert _counter("only published ports") >= 2


def test_loopback_ports_are_not_reached_from_the_network(host: Host, outside: Box) -> None:
    host.start()
    web = host.run("web", {"53/udp": "127.0.0.1@5353"})
    web.box.serve(web.ip, 53, socket.SOCK_DGRAM)
    mac = bytes.fromhex(_mac_of("uplink").replace(":", ""))

    def send() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind(("eth0", 0))
            raw.send(_udp_frame(mac, OUTSIDE4, "127.0.0.1", 5353))

    before = _counter("loopback is never reached from outside")
    outside.run(send)
    assert _counter("loopback is never reached from outside") == before + 1


def test_without_icc_containers_only_see_the_host(host: Host, outside: Box) -> None:
    host.start(icc=False)
    first, second = host.run("first"), host.run("second", {"80/tcp": "8080"})
    second.box.serve("0.0.0.0", 80)
    outside.serve(OUTSIDE4, 80)

    assert first.box.run(lambda: refused(lambda: ask(second.ip, 80, timeout_s=0.5)))
    assert first.box.run(lambda: ask(OUTSIDE4, 80)) == HOST4
    assert outside.run(lambda: ask(HOST4, 8080)) == OUTSIDE4


def test_networks_are_isolated_from_each_other(host: Host, outside: Box) -> None:
    host.start()
    first = host.run("first")
    host.network = host.stack.ensure(
        Network(id=new_id(), name="inner", driver="bridge", created_ns=1, internal=True)
    )
    inner, neighbour = host.run("inner"), host.run("neighbour")
    outside.serve(OUTSIDE4, 80)
    for container in (first, inner, neighbour):
        container.box.serve("0.0.0.0", 80)

    assert inner.endpoint.gateway == ""
    assert inner.box.run(lambda: ask(neighbour.ip, 80)) == inner.ip
    assert inner.box.run(lambda: refused(lambda: ask(OUTSIDE4, 80, timeout_s=0.5)))
    assert first.box.run(lambda: refused(lambda: ask(inner.ip, 80, timeout_s=0.5)))


def test_conflicts_have_dockers_texts(host: Host, outside: Box) -> None:
    host.start()
    host.run("web", {"80/tcp": "8080"})
    with socket.socket() as taken, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken_udp:
        taken.bind(("0.0.0.0", 9090))
        taken.listen()
        taken_udp.bind(("127.0.0.1", 9091))
        cases: list[tuple[dict[str, str], str]] = [
            ({"80/tcp": "8080"}, "Bind for 0.0.0.0:8080 failed: port is already allocated"),
            ({"80/tcp": "127.0.0.1@8080"}, "Bind for 127.0.0.1:8080 failed: port is already allocated"),
            (
                {"80/tcp": "9090"},
                "failed to bind host port for 0.0.0.0:9090:172.30.0.5:80/tcp: address already in use",
            ),
            (
                {"80/udp": "127.0.0.1@9091"},
                "failed to bind host port for 127.0.0.1:9091:172.30.0.6:80/udp: address already in use",
            ),
            (
                {"80/tcp": "10.77.0.1@80"},
                "for 10.77.0.1:80:172.30.0.7:80/tcp: cannot assign requested address",
            ),
        ]
        for ports, text in cases:
            with pytest.raises(PortInUse) as raised:
                host.run("late", ports)
            assert raised.value.message.startswith(
                "failed to set up container networking: "
                "driver failed programming external connectivity on endpoint late ("
            )
            assert raised.value.message.endswith(text)
    assert set(host.stack.containers.connections(host.network.id)) == {"web"}
    assert elements("publish4") == {"tcp . 8080 : 172.30.0.2 . 80"}


def test_nothing_is_kept_of_a_request_that_fails_half_way(host: Host) -> None:
    host.start()
    host.run("web", {"80/tcp": "8080"})
    with pytest.raises(PortInUse):
        host.run("late", {"81/tcp": "8081", "80/tcp": "8080"})
    second = host.run("second", {"81/tcp": "8081"})  # 8081 was given back
    assert second.bound["81/tcp"][0].host_port == "8081"


def test_a_published_port_is_kept_from_programs(host: Host) -> None:
    host.start()
    web = host.run("web", {"80/tcp": "8080", "53/udp": "any"})
    udp_port = int(web.bound["53/udp"][0].host_port)
    assert 32768 <= udp_port <= 60999
    with socket.socket() as tcp:
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="in use"):
            tcp.bind(("127.0.0.1", 8080))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, pytest.raises(OSError, match="in use"):
        udp.bind(("0.0.0.0", udp_port))
    assert refused(lambda: ask("::1", 8080, timeout_s=0.5))  # at once, as nothing listens

    host.stack.containers.disconnect("web")
    with socket.socket() as tcp:
        tcp.bind(("0.0.0.0", 8080))
    assert elements("publish4") == set()
    host.stack.containers.disconnect("web")


def test_a_port_in_time_wait_can_be_published(host: Host) -> None:
    host.start()
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", 8080))
        server.listen()
        with socket.create_connection(("127.0.0.1", 8080)):
            connection, _ = server.accept()
            connection.close()  # first, so that its side stays in TIME_WAIT
    with socket.socket() as plain, pytest.raises(OSError, match="in use"):
        plain.bind(("127.0.0.1", 8080))
    web = host.run("web", {"80/tcp": "127.0.0.1@8080"})
    web.box.serve(web.ip, 80)
    assert ask("127.0.0.1", 8080) == "172.30.0.1"


def test_addresses_can_be_chosen(host: Host) -> None:
    host.start()
    chosen = host.run("chosen", ipam_config=EndpointIPAMConfig(ipv4_address="172.30.0.77"))
    assert chosen.ip == "172.30.0.77"
    with pytest.raises(AddressInUse, match="Address already in use"):
        host.run("again", ipam_config=EndpointIPAMConfig(ipv4_address="172.30.0.77"))
    own = host.run("own", mac_address="02:00:00:00:00:99")
    assert own.endpoint.mac_address == "02:00:00:00:00:99"
    assert own.box.run(lambda: _mac_of("eth0")) == "02:00:00:00:00:99"
    with pytest.raises(SampanError, match="invalid MAC address"):
        host.run("bad", mac_address="zz")


def test_ipv6_binding_needs_an_ipv6_network(host: Host) -> None:
    host.start()
    with pytest.raises(InvalidPort, match="no address of that family"):
        host.run("web", {"80/tcp": "::1@8080"})
    assert host.run("both", {"80/tcp": "0.0.0.0@8080 ::@8080"}).bound == {
        "80/tcp": [PortBinding(host_ip="0.0.0.0", host_port="8080")]
    }


def test_a_restarted_daemon_finds_its_containers(host: Host, outside: Box) -> None:
    host.start()
    web = host.run("web", {"80/tcp": "8080"})
    web.box.serve(web.ip, 80)
    host.run("gone", {"80/tcp": "8081"})
    host.stack.let_go()  # what the kernel does when the daemon is killed

    host.start(network_id=host.network.id)
    assert outside.run(lambda: ask(HOST4, 8080)) == OUTSIDE4  # even before it is recovered
    host.stack.containers.recover("web", host.network, web.endpoint, web.bound)
    host.stack.settle()
    assert outside.run(lambda: ask(HOST4, 8080)) == OUTSIDE4
    assert elements("publish4") == {"tcp . 8080 : 172.30.0.2 . 80"}
    with pytest.raises(PortInUse, match="port is already allocated"):
        host.run("late", {"80/tcp": "8080"})
    fresh = host.run("fresh", {"80/tcp": "8081"})
    assert fresh.ip not in (web.ip, "172.30.0.1")
    assert host.warnings == []


def test_a_flushed_firewall_is_put_back(host: Host, outside: Box) -> None:
    host.start()
    web = host.run("web", {"80/tcp": "8080"})
    web.box.serve(web.ip, 80)
    run_ruleset("flush ruleset")
    host.run("next", {"80/tcp": "8081"})
    assert outside.run(lambda: ask(HOST4, 8080)) == OUTSIDE4
    run_ruleset("flush ruleset")
    host.stack.containers.disconnect("next")
    assert elements("publish4") == {"tcp . 8080 : 172.30.0.2 . 80"}


def test_other_tables_that_drop_are_named(host: Host) -> None:
    run_ruleset("table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; }; }")
    host.start()
    host.run("web", {"80/tcp": "8080"})
    assert any("'filter FORWARD' drops" in warning for warning in host.stack.warnings())


def test_without_firewall_publishing_says_so(host: Host) -> None:
    host.start(firewall="off")
    host.run("plain")
    with pytest.raises(PublishFailed, match="cannot publish ports"):
        host.run("web", {"80/tcp": "8080"})
    assert any("published ports" in warning for warning in host.stack.warnings())


def test_shutdown_leaves_nothing_unless_containers_run(host: Host) -> None:
    before = link_names()
    host.start()
    web = host.run("web", {"80/tcp": "8080"})
    host.stack.close()
    assert BRIDGE in link_names()
    assert elements("publish4") == {"tcp . 8080 : 172.30.0.2 . 80"}

    host.start(network_id=host.network.id)
    host.stack.containers.recover("web", host.network, web.endpoint, web.bound)
    host.stack.containers.disconnect("web")
    for box in host.boxes:
        box.close()
    host.boxes.clear()
    host.stack.close()
    _wait_for(lambda: link_names() == before)
    assert subprocess.run(["nft", "list", "ruleset"], capture_output=True, check=True).stdout == b""


def test_uninstalling_removes_what_a_killed_daemon_left(host: Host) -> None:
    before = link_names()
    host.start()
    host.stack.settle()
    remove_everything(BRIDGE)
    assert link_names() == before
    nft = NftSocket()
    assert not nft.has_table(f"sampan-{BRIDGE}")
    nft.close()
    remove_everything(BRIDGE)


def test_a_foreign_bridge_is_used_and_kept(host: Host) -> None:
    subprocess.run(["ip", "link", "add", BRIDGE, "type", "bridge"], check=True)
    subprocess.run(["ip", "addr", "add", "10.50.0.9/24", "dev", BRIDGE], check=True)
    host.start_with(NetworkSettings(run_dir="/nonexistent", bridge=BRIDGE))
    assert host.network.pools[0].subnet == "10.50.0.0/24"
    assert host.run("web").endpoint.gateway == "10.50.0.9"
    host.stack.containers.disconnect("web")
    host.stack.close()
    assert BRIDGE in link_names()


def test_an_own_bridge_takes_on_new_settings(host: Host) -> None:
    host.start(ipv6=True)
    first = host.network.pools[1].subnet
    host.stack.let_go()
    host.start_with(NetworkSettings(run_dir="/nonexistent", bridge=BRIDGE, bip="10.51.0.1/24", ipv6=True))
    assert host.network.pools[0].gateway == "10.51.0.1"
    assert host.network.pools[1].subnet == first
    with NetlinkSocket() as route:
        addresses = links.list_addresses(route, socket.if_nametoindex(BRIDGE))
    assert [text for text in addresses if ":" not in text] == ["10.51.0.1/24"]


def test_a_bridge_that_fails_half_way_is_not_left(host: Host) -> None:
    before = link_names()
    with pytest.raises(DeviceFailed, match=f"failed to set up bridge {BRIDGE}"):
        host.start_with(
            NetworkSettings(
                run_dir="/nonexistent", bridge=BRIDGE, bip="10.52.0.1/24", bip6="::1/64", ipv6=True
            )
        )
    assert link_names() == before


def test_subnet_avoids_the_hosts_routes(host: Host) -> None:
    box = host.box()
    wire_outside(box, "lan", ["172.17.5.1/24"], ["172.17.5.2/24"])
    host.start_with(NetworkSettings(run_dir="/nonexistent", bridge=BRIDGE))
    assert host.network.pools[0].subnet == "172.18.0.0/16"
    assert host.network.pools[0].gateway == "172.18.0.1"


def _mac_of(name: str) -> str:
    with NetlinkSocket() as route:
        link = links.find_link(route, name)
    assert link is not None
    return link.mac


def _counter(comment: str) -> int:
    rules = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout
    line = next(line for line in rules.splitlines() if comment in line)
    return int(line.partition("packets ")[2].split()[0])


def _wait_for(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """A dying namespace takes its interfaces along in the background."""
    import time

    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def _udp_frame(mac: bytes, source: str, destination: str, port: int) -> bytes:
    payload = b"?"
    udp = port.to_bytes(2, "big") * 2 + (8 + len(payload)).to_bytes(2, "big") + b"\0\0" + payload
    head = bytearray(b"\x45\0" + (20 + len(udp)).to_bytes(2, "big") + b"\0\0\0\0\x40\x11\0\0")
    head += socket.inet_aton(source) + socket.inet_aton(destination)
    total = sum(int.from_bytes(head[i : i + 2], "big") for i in range(0, 20, 2))
    total = (total & 0xFFFF) + (total >> 16)
    head[10:12] = (~(total + (total >> 16)) & 0xFFFF).to_bytes(2, "big")
    return mac + b"\x02\0\0\0\0\1" + b"\x08\0" + bytes(head) + udp


def test_an_interface_comes_to_and_goes_from_a_running_container(host: Host) -> None:
    host.start()
    web = host.run("web")
    first = host.network
    second = host.stack.ensure(Network(id=new_id(), name="second", driver="bridge", created_ns=1))
    host.network = second
    friend = host.run("friend")
    friend.box.serve(friend.ip, 80)
    assert friend.endpoint.dns_names == ["friend"]

    endpoint, link, _ = host.stack.containers.connect(second, "web", EndpointConfig(), {}, name="web")
    assert link is not None
    assert plug_live(web.box.pid, link) == "eth1"
    assert web.box.run(lambda: ask(friend.ip, 80)) == endpoint.ip_address
    assert web.box.run(_default_gateways) == [web.endpoint.gateway]

    unplug_live(web.box.pid, web.endpoint, [endpoint.gateway])
    dropped = host.stack.containers.disconnect_network("web", first.id)
    assert dropped is not None
    assert host.stack.containers.disconnect_network("web", first.id) is None
    assert web.box.run(link_names) == {"lo", "eth1"}
    assert web.box.run(_default_gateways) == [endpoint.gateway]
    unplug_live(web.box.pid, web.endpoint, [])
    assert os.readlink("/proc/thread-self/ns/net") == os.readlink("/proc/self/ns/net")


def test_a_process_that_has_ended_cannot_be_connected(host: Host) -> None:
    host.start()
    web = host.run("web")
    web.box.close()
    host.boxes.remove(web.box)
    before = link_names()
    _, link, _ = host.stack.containers.connect(host.network, "late", EndpointConfig(), {})
    assert link is not None
    with pytest.raises(DeviceFailed, match="failed to connect the container"):
        plug_live(web.box.pid, link)
    unplug_live(web.box.pid, web.endpoint, [])
    assert link_names() <= before


def _default_gateways() -> list[str]:
    shown = subprocess.run(["ip", "route"], capture_output=True, text=True, check=True).stdout
    return [line.split()[2] for line in shown.splitlines() if line.startswith("default")]


def test_more_endpoints_than_one_bridge_takes(host: Host) -> None:
    host.start(ports_per_bridge=2)
    made = [host.run("c0", {"80/tcp": "8080"}), *(host.run(f"c{n}") for n in range(1, 4))]
    made.append(host.run("c4", {"80/tcp": "8084"}))
    segments = {f"{kind}{n}-{host.network.id[:10]}" for kind in ("bs", "bu", "bd") for n in (1, 2)}
    assert link_names() >= segments
    for one in made:
        one.box.serve("0.0.0.0", 80)

    def all_reach() -> None:
        for asking in made:
            for asked in made:
                assert asking.box.run(lambda asked=asked: ask(asked.ip, 80)) == asking.ip  # type: ignore[misc]
            for port in (8080, 8084):
                assert asking.box.run(lambda port=port: ask("172.30.0.1", port)) == "172.30.0.1"  # type: ignore[misc]
        assert ask("127.0.0.1", 8084) == "172.30.0.1"

    all_reach()
    with NetlinkSocket() as route:
        links.delete_link(route, f"bs1-{host.network.id[:10]}")
        links.delete_link(route, f"bu2-{host.network.id[:10]}")
    assert host.stack.repair_links()
    assert not host.stack.repair_links()
    all_reach()
    with NetlinkSocket() as route:
        links.delete_link(route, BRIDGE)
    assert host.stack.repair_links()
    all_reach()
    host.stack.remove(host.network)
    assert not link_names() & {BRIDGE, *segments}


def test_a_network_of_silent_containers_has_one_bridge(host: Host) -> None:
    host.start(ports_per_bridge=1, icc=False)
    host.run("first")
    with pytest.raises(DeviceFailed, match="at most 1 containers"):
        host.run("second")
    host.stack.containers.disconnect("first")
    host.run("second")


def test_segments_are_found_again_by_the_next_daemon(host: Host) -> None:
    host.start(ports_per_bridge=1)
    made = {name: host.run(name) for name in ("first", "second")}
    host.stack.let_go()
    host.start(host.network.id, ports_per_bridge=1)
    for name, one in made.items():
        host.stack.containers.recover(name, host.network, one.endpoint, {})
    host.stack.settle()
    assert not host.stack.repair_links()
    segment = f"bs1-{host.network.id[:10]}"
    with NetlinkSocket() as route:
        links.delete_link(route, segment)
    assert host.stack.repair_links()
    made["second"].box.serve(made["second"].ip, 80)
    assert made["first"].box.run(lambda: ask(made["second"].ip, 80)) == made["first"].ip
    host.run("third")  # both bridges are full
    assert f"bs2-{host.network.id[:10]}" in link_names()
    host.stack.containers.disconnect("second")
    host.run("fourth")
    assert f"bs3-{host.network.id[:10]}" not in link_names()
