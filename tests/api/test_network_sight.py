"""sampan network trace and graph, with containers that really do and do not reach each other."""

from __future__ import annotations

import contextlib
import json
import socket
import uuid
from collections.abc import Iterator

import pytest
from tests.support.docker import Client
from tests.support.eventually import eventually
from tests.support.images import BUSYBOX

pytestmark = pytest.mark.own_daemon
EGRESS = "sampan.egress=192.0.2.0/24:80"
ICC = "com.docker.network.bridge.enable_icc=false"
SERVER = "mkdir /w; echo page > /w/index.html; httpd -p 127.0.0.1:99 -h /w; exec httpd -f -p 80 -h /w"


@pytest.fixture(scope="module")
def town(docker: Client) -> Iterator[str]:
    """The prefix of all names: web and db on back, which is internal; web and lone on front; q1 and q2 on a
    network without ICC; kept on one that lets only some things out."""
    own = f"t-{uuid.uuid4().hex[:8]}"
    networks = {"back": ("--internal",), "front": (), "quiet": ("-o", ICC), "walled": ("-o", EGRESS)}
    containers = {
        "db": ("--network", f"{own}-back"),
        "web": ("--network", f"{own}-back", "-p", "127.0.0.1::80"),
        "lone": ("--network", f"{own}-front"),
        "kept": ("--network", f"{own}-walled"),
        "q1": ("--network", f"{own}-quiet"),
        "q2": ("--network", f"{own}-quiet"),
    }
    for name, options in networks.items():
        docker("network", "create", *options, f"{own}-{name}")
    for name, options in containers.items():
        docker("run", "-d", "--name", f"{own}-{name}", *options, BUSYBOX, "sh", "-c", SERVER)
    docker("create", "--name", f"{own}-off", BUSYBOX)
    docker("network", "connect", f"{own}-front", f"{own}-web")
    for name in ("db", "web"):
        eventually(
            lambda name=name: listens(docker, f"{own}-{name}"),  # type: ignore[misc]
            f"{name} listens",
        )
    yield own
    docker("rm", "-f", *(f"{own}-{name}" for name in (*containers, "off")))
    docker("network", "rm", *(f"{own}-{name}" for name in networks))


def listens(docker: Client, name: str) -> bool:
    return docker("exec", name, "wget", "-q", "-O", "-", "http://127.0.0.1/", code=None).out == "page\n"


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ("web", "{own}-db:80", ""),
        ("web", "{own}-db", ""),
        ("web", "127.0.0.1:99", ""),
        ("db", "{own}-db:80/tcp", ""),
        ("web", "{own}-db:99", "{own}-db listens on 127.0.0.1:99/tcp only"),
        ("web", "{own}-db:81", "nothing listens on 81/tcp in {own}-db; it listens on 80/tcp, 99/tcp"),
        ("lone", "{own}-db:80", "({own}-lone: {own}-front; {own}-db: {own}-back): use network connect"),
        ("q1", "{own}-q2:80", "containers on {own}-quiet may not talk to each other"),
        ("db", "192.0.2.9", "(network is unreachable), because all of its networks are internal"),
        ("kept", "192.0.2.9:81", "may not reach 192.0.2.9 port 81/tcp: its egress list on {own}-walled"),
        ("web", "{own}-off", "{own}-off is created: start it"),
        ("lone", "127.0.0.1:98", "nothing listens on 98/tcp in {own}-lone"),
    ],
)  # fmt: skip
def test_trace(sampan: Client, town: str, source: str, target: str, expected: str) -> None:
    ended = sampan("network", "trace", f"{town}-{source}", target.format(own=town), code=None)
    verdict = ended.out.splitlines()[-1]
    if expected:
        assert expected.format(own=town) in verdict
        assert verdict.startswith(f"{town}-{source} does not reach ")
    else:
        assert verdict.startswith(f"{town}-{source} reaches ")
    assert ended.code == (1 if expected else 0), str(ended)


def test_trace_of_addresses(docker: Client, sampan: Client, town: str) -> None:
    """Of the other container's networks only the common one leads there."""
    addresses = json.loads(
        docker.line("inspect", "--format", "{{json .NetworkSettings.Networks}}", f"{town}-web")
    )
    front = addresses[f"{town}-front"]["IPAddress"]
    back = addresses[f"{town}-back"]["IPAddress"]
    assert sampan("network", "trace", f"{town}-lone", f"{front}:80").out.endswith(f"reaches {front}:80/tcp\n")
    ended = sampan("network", "trace", f"{town}-lone", f"{back}:80", code=1)
    assert f"{town}-lone is not on that network of {town}-web: on {town}-front it is {front}" in ended.out


def test_trace_as_json(sampan: Client, town: str) -> None:
    found = json.loads(sampan("network", "trace", "--json", f"{town}-web", f"{town}-db:80").out)
    assert found["Reachable"] is True
    assert {step["Subject"] for step in found["Steps"]} >= {"names", "routes", "sockets", "attempt"}


@pytest.mark.parametrize(
    ("words", "text"),
    [(("{own}-web", "x:99999"), "no such port"), (("{own}-nobody", "x"), "No such container")],
)
def test_trace_of_nonsense(sampan: Client, town: str, words: tuple[str, ...], text: str) -> None:
    ended = sampan("network", "trace", *(word.format(own=town) for word in words), code=1)
    assert text in ended.err
    assert "internal" not in ended.err


def edges(sampan: Client, town: str) -> set[tuple[str, str, str]]:
    lines = sampan("network", "graph", "--json").out.splitlines()
    found = [json.loads(line) for line in lines]
    return {
        (one["From"].removeprefix(f"{town}-"), one["To"].removeprefix(f"{town}-"), one["Port"])
        for one in found
    }


def test_graph(docker: Client, sampan: Client, town: str) -> None:
    """One connection within a bridge, one from the host through a published port."""
    docker("exec", "-d", f"{town}-web", "sh", "-c", f"sleep 1000 | nc {town}-db 80")
    host, _, port = docker.line("port", f"{town}-web", "80/tcp").rpartition(":")
    with contextlib.closing(socket.create_connection((host, int(port)), timeout=10)):
        wanted = {("web", "db", "80/tcp"), ("host", "web", "80/tcp")}
        eventually(lambda: edges(sampan, town) >= wanted, "both connections are shown")
        drawn = sampan("network", "graph", "--format", "dot").out
    assert f'"{town}-web" -> "{town}-db" [label="80/tcp"];' in drawn
    assert f'"{town}-q1" [shape=box];' in drawn
