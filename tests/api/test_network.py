"""The default bridge, host, none, another container's network; published ports; hosts and resolv.conf."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.docker import Client
from tests.support.eventually import eventually
from tests.support.isolation import UPLINK_ADDRESS

BUSYBOX = "busybox:latest"
SERVE = ("sh", "-c", "mkdir -p /www; hostname > /www/index.html; exec httpd -f -p 80 -h /www")


def run(docker: Client, *words: str) -> str:
    return docker.line("run", "--rm", *words)


def settings(docker: Client, container: str) -> dict[str, Any]:
    return dict(json.loads(docker.line("inspect", "--format", "{{json .NetworkSettings}}", container)))


def address(docker: Client, container: str) -> str:
    return str(settings(docker, container)["Networks"]["bridge"]["IPAddress"])


def fetch(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=3) as answer:
            return str(answer.read().decode().strip())
    except (urllib.error.URLError, OSError):
        return ""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_bridge_gives_an_address_and_a_route(docker: Client, started: Callable[..., str]) -> None:
    container = started()
    bridge = settings(docker, container)["Networks"]["bridge"]
    assert f"inet {bridge['IPAddress']}/{bridge['IPPrefixLen']}" in docker.line(
        "exec", container, "ip", "addr"
    )
    assert f"default via {bridge['Gateway']} dev eth0" in docker.line("exec", container, "ip", "route")
    assert bridge["MacAddress"] in docker.line("exec", container, "ip", "link")


def test_containers_reach_each_other_by_address(docker: Client, started: Callable[..., str]) -> None:
    server = started("--hostname", "server", command=SERVE)
    url = f"http://{address(docker, server)}/"
    seen = eventually(lambda: docker("run", "--rm", BUSYBOX, "wget", "-qO-", url, code=None).out, "an answer")
    assert seen == "server\n"


def test_the_host_reaches_the_container(docker: Client, started: Callable[..., str]) -> None:
    server = started("--hostname", "server", command=SERVE)
    url = f"http://{address(docker, server)}/"
    assert eventually(lambda: fetch(url), "an answer") == "server"


def test_published_port(docker: Client, started: Callable[..., str]) -> None:
    port = free_port()
    server = started("-p", f"{port}:80", "--hostname", "server", command=SERVE)
    assert eventually(lambda: fetch(f"http://127.0.0.1:{port}/"), "an answer") == "server"
    gateway = settings(docker, server)["Networks"]["bridge"]["Gateway"]
    assert fetch(f"http://{gateway}:{port}/") == "server"
    assert docker.line("port", server, "80/tcp").splitlines()[0] == f"0.0.0.0:{port}"


def test_published_port_of_the_engines_choice(docker: Client, started: Callable[..., str]) -> None:
    server = started("-p", "80", "--hostname", "server", command=SERVE)
    port = docker.line("port", server, "80").splitlines()[0].rpartition(":")[2]
    assert int(port) > 1024
    assert eventually(lambda: fetch(f"http://127.0.0.1:{port}/"), "an answer") == "server"


def test_published_on_one_address_only(docker: Client, started: Callable[..., str]) -> None:
    port = free_port()
    server = started("-p", f"127.0.0.1:{port}:80", "--hostname", "server", command=SERVE)
    assert eventually(lambda: fetch(f"http://127.0.0.1:{port}/"), "an answer") == "server"
    gateway = settings(docker, server)["Networks"]["bridge"]["Gateway"]
    assert fetch(f"http://{gateway}:{port}/") == ""


def test_published_range(docker: Client, started: Callable[..., str]) -> None:
    container = started("-p", "34100-34102:8000-8002")
    assert set(docker.line("port", container).splitlines()) >= {
        f"{8000 + number}/tcp -> 0.0.0.0:{34100 + number}" for number in range(3)
    }


ECHO = """
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("", 7000))
print("bound", flush=True)
while True:
    data, sender = server.recvfrom(1500)
    server.sendto(data.upper(), sender)
"""


@pytest.mark.own_daemon
@pytest.mark.parametrize("target", ["127.0.0.1", UPLINK_ADDRESS])
def test_published_udp(docker: Client, started: Callable[..., str], target: str) -> None:
    port = free_port()
    pid = docker.line("inspect", "--format", "{{.State.Pid}}", started("-p", f"{port}:7000/udp"))
    inside = ["nsenter", f"--net=/proc/{pid}/ns/net", sys.executable, "-I", "-S", "-c", ECHO]
    with subprocess.Popen(inside, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"bound\n"
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.settimeout(10)
                client.sendto(b"hello", (target, port))
                answer, sender = client.recvfrom(1500)
        finally:
            server.kill()
    assert (answer, sender) == (b"HELLO", (target, port))


def test_port_is_closed_again_after_the_container(docker: Client, started: Callable[..., str]) -> None:
    port = free_port()
    server = started("-p", f"{port}:80", command=SERVE)
    eventually(lambda: fetch(f"http://127.0.0.1:{port}/"), "an answer")
    docker("rm", "-f", server)
    assert fetch(f"http://127.0.0.1:{port}/") == ""
    docker("run", "--rm", "-p", f"{port}:80", BUSYBOX, "true")


def test_port_in_use_by_another_container(docker: Client, started: Callable[..., str], name: str) -> None:
    port = free_port()
    started("-p", f"{port}:80")
    result = docker("run", "--name", name, "-p", f"{port}:80", BUSYBOX, "true", code=125)
    assert f":{port} failed: port is already allocated" in result.err
    assert docker.line("inspect", "--format", "{{.State.Status}}", name) == "created"


def test_port_in_use_on_the_host(docker: Client) -> None:
    with socket.socket() as listener:
        listener.bind(("0.0.0.0", 0))
        listener.listen()
        port = listener.getsockname()[1]
        result = docker("run", "--rm", "-p", f"{port}:80", BUSYBOX, "true", code=125)
    own = Path("/proc/self/comm").read_text().strip()
    assert f"address already in use (by {own} (pid {os.getpid()}))" in result.err


def test_network_none_has_loopback_only(docker: Client) -> None:
    assert run(docker, "--network", "none", BUSYBOX, "ls", "/sys/class/net").split() == ["lo"]


def test_network_of_another_container(docker: Client, started: Callable[..., str]) -> None:
    server = started("--hostname", "shared", command=SERVE)
    words = ("run", "--rm", "--network", f"container:{server}", BUSYBOX)
    seen = eventually(lambda: docker(*words, "wget", "-qO-", "http://127.0.0.1/", code=None).out, "an answer")
    assert seen == "shared\n"
    assert docker.line(*words, "hostname") == "shared"


def test_network_of_a_container_that_is_not_running(docker: Client, name: str) -> None:
    docker("create", "--name", name, BUSYBOX, "true")
    result = docker("run", "--rm", "--network", f"container:{name}", BUSYBOX, "true", code=125)
    assert "non running container" in result.err


def test_unknown_network(docker: Client) -> None:
    result = docker("run", "--rm", "--network", "no-such-network", BUSYBOX, "true", code=125)
    assert "network no-such-network not found" in result.err


def test_hosts_file(docker: Client) -> None:
    seen = run(docker, "--hostname", "me", "--add-host", "db:192.0.2.9", BUSYBOX, "cat", "/etc/hosts")
    rows = [line.split() for line in seen.splitlines()]
    assert ["127.0.0.1", "localhost"] in rows
    assert ["192.0.2.9", "db"] in rows
    assert rows[-1][1:] == ["me"]


def test_host_gateway(docker: Client) -> None:
    words = ("--add-host", "host.docker.internal:host-gateway", BUSYBOX, "sh", "-c")
    seen = run(docker, *words, "grep host.docker.internal /etc/hosts; ip route | grep default").split()
    assert seen[0] == seen[4]


def test_resolv_conf(docker: Client) -> None:
    words = ("--dns", "192.0.2.53", "--dns-search", "example.org", "--dns-option", "ndots:3")
    seen = run(docker, *words, BUSYBOX, "cat", "/etc/resolv.conf")
    rows = [line for line in seen.splitlines() if line and not line.startswith("#")]
    assert rows == ["nameserver 192.0.2.53", "search example.org", "options ndots:3"]


def test_hosts_file_may_be_edited_and_survives_a_restart(docker: Client, started: Callable[..., str]) -> None:
    container = started()
    docker("exec", container, "sh", "-c", "echo 192.0.2.1 mine >> /etc/hosts")
    assert "192.0.2.1 mine" in docker.line("exec", container, "cat", "/etc/hosts")


def test_fixed_mac_address(docker: Client) -> None:
    mac = "02:42:ac:11:22:33"
    assert mac in run(docker, "--mac-address", mac, BUSYBOX, "ip", "link", "show", "eth0")


def test_network_list_and_inspect(docker: Client, started: Callable[..., str]) -> None:
    names = docker.line("network", "ls", "--format", "{{.Name}} {{.Driver}}").splitlines()
    assert {"bridge bridge", "host host", "none null"} <= set(names)
    container = started()
    seen = json.loads(docker.line("network", "inspect", "bridge"))[0]
    identity = docker.line("inspect", "--format", "{{.Id}}", container)
    assert seen["Containers"][identity]["IPv4Address"].startswith(address(docker, container) + "/")


def test_publishing_needs_a_network_of_its_own(docker: Client) -> None:
    docker("run", "--rm", "--network", "none", "-p", "80:80", BUSYBOX, "true")


@pytest.mark.parametrize("flag", ["-p=80:80:80:80", "-p=abc", "-p=70000:80"])
def test_wrong_port_specifications(docker: Client, flag: str) -> None:
    docker("run", "--rm", flag, BUSYBOX, "true", code=125)
