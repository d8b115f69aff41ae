"""A stack of several networks through the unmodified Compose, from up to down."""

from __future__ import annotations

import json
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.compose import Compose
from tests.support.docker import Client

pytestmark = pytest.mark.own_daemon
PORTS = (34710, 34711)

STACK = """\
version: "2.4"
services:
  store:
    image: busybox:latest
    stop_signal: SIGKILL
    command: sh -c "echo stored > /data/index.html; touch /tmp/ready; exec httpd -f -p 8000 -h /data"
    healthcheck:
      test: ["CMD", "test", "-e", "/tmp/ready"]
      interval: 1s
      timeout: 20s
      retries: 30
    networks:
      back:
        aliases: [keeper, store.internal]
        ipv4_address: 10.199.7.20
    volumes:
      - kept:/data
  app:
    image: busybox:latest
    stop_signal: SIGKILL
    depends_on:
      store:
        condition: service_healthy
    command: sh -c "mkdir /w; cd /w; wget http://keeper:8000/ && echo fetched; exec httpd -f -p 80"
    networks:
      back:
      front:
        aliases: [site]
  edge:
    image: busybox:latest
    stop_signal: SIGKILL
    hostname: edge
    depends_on: [app]
    command: sh -c "mkdir /w; hostname > /w/index.html; httpd -p 90 -h /w; exec httpd -f -p 91 -h /w"
    networks: [front, outer]
    ports:
      - "127.0.0.1:{first}-{last}:90-91"
  old:
    image: busybox:latest
    stop_signal: SIGKILL
    command: sleep 100000
    links:
      - "store:legacy"
    networks: [back]
networks:
  front:
    driver_opts:
      com.docker.network.driver.mtu: "1400"
  back:
    internal: true
    ipam:
      config:
        - subnet: 10.199.7.0/24
          gateway: 10.199.7.254
  outer:
    external: true
    name: {outer}
volumes:
  kept:
""".replace("{first}", str(PORTS[0])).replace("{last}", str(PORTS[1]))  # fmt: skip


@pytest.fixture
def outer(docker: Client) -> Iterator[str]:
    """A network that Compose finds."""
    name = f"t-{uuid.uuid4().hex[:8]}"
    docker("network", "create", name)
    yield name
    docker("network", "rm", name)


@pytest.fixture(params=[1, 2])
def compose(request: pytest.FixtureRequest, docker: Client, folder: Path, outer: str) -> Iterator[Compose]:
    (folder / "docker-compose.yml").write_text(STACK.replace("{outer}", outer))
    made = Compose(request.param, docker.host, folder, outer.replace("-", ""))
    yield made
    made("down", "-v", "-t", "0")


def owned(docker: Client, outer: str) -> list[str]:
    """Containers, networks and volumes of the project."""
    wanted = ("--filter", f"label=com.docker.compose.project={outer.replace('-', '')}")
    return [
        *docker("ps", "-aq", *wanted).out.split(),
        *docker("network", "ls", "-q", *wanted).out.split(),
        *docker("volume", "ls", "-q", *wanted).out.split(),
    ]


def addresses_of(compose: Compose, name: str) -> set[str]:
    """What a container on the network front is told."""
    out = compose("exec", "-T", "edge", "nslookup", "-type=a", name, "127.0.0.11").out
    answer = out.partition("answer:")[2]
    return {line.split()[1] for line in answer.splitlines() if line.startswith("Address")}


def test_a_stack_through_compose(compose: Compose, docker: Client, outer: str) -> None:
    compose("up", "-d", "--scale", "app=2")
    # the store was healthy before anybody asked it, by an alias, on an internal network
    assert "fetched" in compose("logs", "--no-color", "app").out
    assert len(compose("ps", "-q").out.split()) == 5
    assert len(addresses_of(compose, "site")) == 2
    assert compose("exec", "-T", "edge", "wget", "-q", "-O", "-", "http://site/").out == "stored\n"
    assert compose("exec", "-T", "old", "wget", "-q", "-O", "-", "http://legacy:8000/").out == "stored\n"
    assert compose(
        "run", "--rm", "-T", "old", "wget", "-q", "-O", "-", "http://store.internal:8000/"
    ).out.endswith("stored\n")
    for port in PORTS:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as page:
            assert page.read() == b"edge\n"
    back = inspect(docker, f"{outer.replace('-', '')}_back")
    assert (back["Internal"], back["IPAM"]["Config"][0]["Gateway"]) == (True, "10.199.7.254")
    front = inspect(docker, f"{outer.replace('-', '')}_front")
    assert front["Options"]["com.docker.network.driver.mtu"] == "1400"
    before = set(compose("ps", "-q").out.split())
    compose("up", "-d", "--force-recreate", "-t", "0", "--scale", "app=1")
    after = set(compose("ps", "-q").out.split())
    assert (len(after), before & after) == (4, set())
    assert compose("exec", "-T", "edge", "wget", "-q", "-O", "-", "http://site/").out == "stored\n"
    compose("down", "-v", "-t", "0")
    assert owned(docker, outer) == []
    assert inspect(docker, outer)["Containers"] == {}


def inspect(docker: Client, network: str) -> dict[str, object]:
    return dict(json.loads(docker.line("network", "inspect", network))[0])
