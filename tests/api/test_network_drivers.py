"""Kinds of networks and what can be asked of a container's place in one."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.support.docker import Client
from tests.support.eventually import eventually
from tests.support.images import BUSYBOX

SERVE = ("sh", "-c", "mkdir -p /www; hostname > /www/index.html; exec httpd -f -p 80 -h /www")
Make = Callable[..., str]


@pytest.fixture
def made(docker: Client, name: str) -> Iterator[Make]:
    """Make networks; they are removed with the containers on them."""
    names: list[str] = []

    def make(*options: str) -> str:
        own = f"{name}-n{len(names)}"
        docker("network", "create", *options, own)
        names.append(own)
        return own

    yield make
    for network in names:
        for container in docker("ps", "-aq", "--filter", f"network={network}").out.split():
            docker("rm", "-f", container)
        docker("network", "rm", network)


def endpoints(docker: Client, container: str) -> dict[str, Any]:
    return dict(
        json.loads(docker.line("inspect", "--format", "{{json .NetworkSettings.Networks}}", container))
    )


def inside(docker: Client, container: str, *words: str) -> str:
    return docker("exec", container, *words).out


def fetch(docker: Client, container: str, address: str) -> str:
    words = ("busybox", "timeout", "2", "busybox", "wget", "-qO-", f"http://{address}/")
    done = docker("exec", container, *words, code=None)
    return done.out.strip() if done.code == 0 else ""


def test_macvlan_containers_are_neighbours_on_a_device(
    docker: Client, made: Make, started: Callable[..., str]
) -> None:
    # the test's own namespace has this device
    network = made("-d", "macvlan", "--subnet", "10.214.1.0/24", "-o", "parent=uplink")
    server = started("--network", network, "--hostname", "server", command=SERVE)
    friend = started("--network", network, "--ip", "10.214.1.77", "--mac-address", "02:42:00:00:00:77")
    assert "eth0" in inside(docker, friend, "ip", "addr")
    assert "02:42:00:00:00:77" in inside(docker, friend, "ip", "link", "show", "eth0")
    assert "default via 10.214.1.1 dev eth0" in inside(docker, friend, "ip", "route")
    address = endpoints(docker, server)[network]["IPAddress"]
    assert eventually(lambda: fetch(docker, friend, address), "an answer") == "server"
    late = started()
    docker("network", "connect", network, late)
    assert eventually(lambda: fetch(docker, late, address), "an answer") == "server"
    docker("network", "disconnect", network, late)
    assert "eth1" not in inside(docker, late, "ip", "link")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("-d", "macvlan", "-o", "parent=nosuch"), "invalid parent interface nosuch"),
        (
            ("-d", "macvlan", "-o", "parent=uplink", "-o", "macvlan_mode=open"),
            "macvlan_mode: unknown value 'open'",
        ),
        (("-d", "ipvlan", "-o", "parent=uplink", "-o", "ipvlan_mode=l4"), "ipvlan_mode: unknown value 'l4'"),
        (("-d", "macvlan", "-o", "parnt=uplink"), "unknown option 'parnt'"),
        (("-o", "com.docker.network.bridge.gateway_mode_ipv4=none"), "unknown gateway mode 'none'"),
        (("-o", "com.docker.network.bridge.name=a/b"), "invalid name of a network interface: 'a/b'"),
    ],
)
def test_what_is_refused(docker: Client, name: str, options: tuple[str, ...], text: str) -> None:
    refused = docker("network", "create", *options, name, code=1)
    assert text in refused.err


def test_the_way_out_is_chosen(docker: Client, made: Make, name: str) -> None:
    first, second = made("--subnet", "10.214.2.0/24"), made("--subnet", "10.214.3.0/24")
    docker("create", "--name", name, "--network", first, BUSYBOX, "sleep", "1000")
    docker("network", "connect", "--gw-priority", "5", second, name)
    docker("start", name)
    assert "default via 10.214.3.1 dev eth1" in inside(docker, name, "ip", "route")
    docker("network", "disconnect", second, name)
    assert "default via 10.214.2.1 dev eth0" in inside(docker, name, "ip", "route")
    docker("network", "connect", "--gw-priority", "5", second, name)
    assert "default via 10.214.3.1 dev eth1" in inside(docker, name, "ip", "route")


def test_published_ports_follow_the_way_out(docker: Client, made: Make, name: str) -> None:
    first, second = made("--subnet", "10.214.4.0/24"), made("--subnet", "10.214.5.0/24")
    docker("run", "-d", "--name", name, "--network", first, "-p", "127.0.0.1::80", BUSYBOX, *SERVE)
    port = docker.line("port", name, "80/tcp")

    def answer() -> str:
        asked = subprocess.run(
            ["busybox", "timeout", "3", "busybox", "wget", "-qO-", f"http://{port}/"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        return asked.stdout.strip()

    assert len(eventually(answer, "an answer")) == 12
    docker("network", "connect", "--gw-priority", "1", second, name)
    assert docker.line("port", name, "80/tcp") == port
    assert len(eventually(answer, "an answer through the other network")) == 12
    docker("network", "disconnect", second, name)
    assert docker.line("port", name, "80/tcp") == port
    assert len(eventually(answer, "an answer through the first network")) == 12


def test_interface_names_sysctls_and_link_local_addresses(docker: Client, made: Make, name: str) -> None:
    network = made("--subnet", "10.214.6.0/24")
    options = ",".join((
        f"name={network}",
        "driver-opt=com.docker.network.endpoint.ifname=lan0",
        "\"driver-opt=com.docker.network.endpoint.sysctls=net.ipv4.conf.IFNAME.log_martians=1\"",
        "link-local-ip=169.254.7.7",
    ))  # fmt: skip
    docker("run", "-d", "--name", name, "--network", options, BUSYBOX, "sleep", "1000")
    assert "169.254.7.7/16" in inside(docker, name, "ip", "addr", "show", "lan0")
    assert inside(docker, name, "cat", "/proc/sys/net/ipv4/conf/lan0/log_martians").strip() == "1"


def test_a_routed_network_opens_published_ports_only(
    docker: Client, made: Make, started: Callable[..., str]
) -> None:
    """Another network of the host asks at the container's own address."""
    routed = made("--subnet", "10.214.8.0/24", "-o", "com.docker.network.bridge.gateway_mode_ipv4=routed")
    server = started("--network", routed, "--hostname", "server", "-p", "80", command=SERVE)
    hidden = started("--network", routed, "--hostname", "hidden", command=SERVE)
    asking = started("--network", made("--subnet", "10.214.9.0/24"))
    address = endpoints(docker, server)[routed]["IPAddress"]
    assert eventually(lambda: fetch(docker, asking, address), "an answer") == "server"
    assert fetch(docker, asking, endpoints(docker, hidden)[routed]["IPAddress"]) == ""
    shown = docker.line("inspect", "--format", "{{json .NetworkSettings.Ports}}", server)
    assert json.loads(shown)["80/tcp"] == [{"HostIp": "", "HostPort": ""}]


def test_an_isolated_network_has_no_address_on_the_host(docker: Client, made: Make) -> None:
    key = "com.docker.network.bridge.gateway_mode_ipv4"
    network = made("--internal", "--subnet", "10.214.10.0/24", "-o", f"{key}=isolated")
    identity = docker.line("network", "inspect", "--format", "{{.Id}}", network)
    shown = subprocess.run(
        ["ip", "-4", "addr", "show", f"br-{identity[:12]}"], capture_output=True, text=True, check=True
    )
    assert "inet " not in shown.stdout


def test_ipv6_networks_choose_their_own_subnet(
    docker: Client, made: Make, started: Callable[..., str]
) -> None:
    network = made("--ipv6")
    server = started("--network", network, "--hostname", "server", command=SERVE)
    asking = started("--network", network)
    address = endpoints(docker, server)[network]["GlobalIPv6Address"]
    assert address.startswith("fd")
    assert eventually(lambda: fetch(docker, asking, f"[{address}]"), "an answer") == "server"


def rates(docker: Client, container: str) -> dict[str, str]:
    """What the kernel says of the limits of a container's link: receive (the host's end) and send."""
    pid = docker.line("inspect", "--format", "{{.State.Pid}}", container)
    endpoint = next(iter(endpoints(docker, container).values()))["EndpointID"]
    shown = {
        "receive": ["tc", "qdisc", "show", "dev", f"veth{endpoint[:7]}"],
        "send": ["nsenter", f"--net=/proc/{pid}/ns/net", "tc", "qdisc", "show", "dev", "eth0"],
    }
    found = {}
    for what, command in shown.items():
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found[what] = text.partition("rate ")[2].split()[0] if "tbf" in text else ""
    return found


def test_bandwidth_is_limited_and_can_be_changed(
    docker: Client, made: Make, started: Callable[..., str], sampan: Client
) -> None:
    network = made("-o", "sampan.limit.send=8mbit")
    serve = "mkdir /www; busybox dd if=/dev/zero of=/www/file bs=1000 count=1000; exec httpd -f -p 80 -h /www"
    options = f"name={network},driver-opt=sampan.limit.receive=1gbit"
    limited = started("--network", options, command=("sh", "-c", serve))
    assert rates(docker, limited) == {"receive": "1Gbit", "send": "8Mbit"}
    asking = started("--network", network)
    address = endpoints(docker, limited)[network]["IPAddress"]

    def fetched() -> float:
        """Seconds that it took; 0 when nothing came."""
        began = time.monotonic()
        done = docker("exec", asking, "busybox", "wget", "-qO", "/dev/null", f"{address}/file", code=None)
        return time.monotonic() - began if done.code == 0 else 0

    # a megabyte less the first burst takes at least this long, however fast the machine is
    assert eventually(fetched, "the file") > 0.6
    sampan("network", "limit", "--receive", "20mbit", "--send", "none", network, limited)
    assert rates(docker, limited) == {"receive": "20Mbit", "send": ""}
    docker("restart", "-t", "0", limited)
    assert rates(docker, limited) == {"receive": "20Mbit", "send": ""}
    sampan("network", "limit", "--receive", "", "--send", "", network, limited)
    assert rates(docker, limited) == {"receive": "", "send": "8Mbit"}


@pytest.mark.parametrize("rate", ["fast", "10mbps", "1kbit", "-5"])
def test_unusable_rates_are_refused(docker: Client, name: str, rate: str) -> None:
    refused = docker("network", "create", "-o", f"sampan.limit.send={rate}", name, code=1)
    assert "sampan.limit.send: " in refused.err
