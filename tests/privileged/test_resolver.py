"""The name server's process, in the namespaces of containers."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from tests.support.eventually import eventually
from tests.support.nameserver import NameServer, ask, shown
from tests.support.net_boxes import Box, own_namespace

from sampan.kernel.netlink import set_loopback_up
from sampan.model.container import Endpoint
from sampan.model.network import Network
from sampan.net.resolver.client import Resolver
from sampan.net.resolver.messages import LARGEST, decode, encode

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces"),
]

WEB = Network(id="w" * 64, name="webnet", driver="bridge", created_ns=1)
UPSTREAM, DEAF = "127.0.1.1", "127.0.1.2"


@pytest.fixture(autouse=True)
def namespace() -> Iterator[None]:
    with own_namespace():
        yield


@pytest.fixture
def boxes() -> Iterator[Callable[[], Box]]:
    made: list[Box] = []

    def make() -> Box:
        box = Box()
        made.append(box)
        box.run(set_loopback_up)
        return box

    yield make
    for box in made:
        box.close()


@pytest.fixture
async def resolver(tmp_path: Path) -> AsyncIterator[Resolver]:
    made = Resolver(str(tmp_path / "resolver.sock"))
    yield made
    made.stop()
    eventually(lambda: not Path(made.path).exists(), "the name server has ended")


def tell(resolver: Resolver, message: dict[str, object]) -> dict[str, object]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.settimeout(10)
        connection.connect(resolver.path)
        connection.send(encode(message))
        return decode(connection.recv(LARGEST))


def sandboxes(resolver: Resolver) -> list[str]:
    return tell(resolver, {"do": "status"})["sandboxes"]  # type: ignore[return-value]


def endpoint(number: int) -> Endpoint:
    return Endpoint(network_id=WEB.id, endpoint_id=f"e{number}", ip_address=f"10.0.0.{number}")


def show(resolver: Resolver, container: str, servers: tuple[str, ...] = (), **options: bool) -> None:
    wanted = {"own_servers": False, "forwards": True} | options
    resolver.show(container, [WEB.id], aliases={}, servers=servers, **wanted)


async def run(resolver: Resolver, container: str, box: Box, servers: tuple[str, ...] = ()) -> None:
    """As the daemon does it for a container that is on."""
    resolver.ensure()
    show(resolver, container, servers)
    resolver.serve(container, box.pid)
    await until(lambda: container in sandboxes(resolver))


async def until(condition: Callable[[], bool]) -> None:
    """Lets the client's loop turn meanwhile."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - another process changes it
            await asyncio.sleep(0.01)


async def asked(box: Box, name: str, kind: str = "A", **options: object) -> list[str]:
    return await asyncio.to_thread(box.run, lambda: shown(ask(name, kind, **options)))  # type: ignore[arg-type]


async def test_names_over_udp_and_tcp(resolver: Resolver, boxes: Callable[[], Box]) -> None:
    box = boxes()
    await run(resolver, "c1", box)
    resolver.join(WEB, endpoint(2), ["db", "database"])
    await until(lambda: tell(resolver, {"do": "status"})["networks"] == 1)
    assert await asked(box, "db") == ["10.0.0.2"]
    assert await asked(box, "DataBase.webnet", tcp=True) == ["10.0.0.2"]
    assert await asked(box, "2.0.0.10.in-addr.arpa", "PTR") == ["db.webnet."]
    assert await asked(box, "db", "AAAA") == []


async def test_a_container_may_be_a_name_server_itself(resolver: Resolver, boxes: Callable[[], Box]) -> None:
    box = boxes()
    await run(resolver, "c1", box)

    def bind() -> None:
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            with socket.socket(socket.AF_INET, kind) as server:
                server.bind(("0.0.0.0", 53))

    await asyncio.to_thread(box.run, bind)


async def test_others_are_asked_and_their_answers_kept(resolver: Resolver, boxes: Callable[[], Box]) -> None:
    upstream = NameServer(UPSTREAM, {"example.org": ["192.0.2.7"], "long.example.org": "truncated"})
    try:
        box = boxes()
        await run(resolver, "c1", box, (DEAF, UPSTREAM))
        assert await asked(box, "example.org") == ["192.0.2.7"]
        assert upstream.count() == 1
        assert await asked(box, "EXAMPLE.org", tcp=True) == ["192.0.2.7"]
        assert upstream.count() == 1
        # too long for a datagram: over TCP on both sides
        cut = await asyncio.to_thread(box.run, lambda: ask("long.example.org").header.tc)
        assert cut == 1
        assert len(await asked(box, "long.example.org", tcp=True)) == 100
        missing = await asyncio.to_thread(box.run, lambda: ask("gone.example.org").header.rcode)
        assert missing == 3
    finally:
        upstream.close()


async def test_a_silent_server_delays_nobody_else(resolver: Resolver, boxes: Callable[[], Box]) -> None:
    silent = NameServer(UPSTREAM, {f"slow{n}.example.org": "silent" for n in range(50)})
    other = NameServer(DEAF, {f"slow{n}.example.org": ["192.0.2.9"] for n in range(50)})
    try:
        patient, hasty = boxes(), boxes()
        await run(resolver, "c1", patient, (UPSTREAM, DEAF))
        await run(resolver, "c2", hasty)
        resolver.join(WEB, endpoint(2), ["db"])
        slow = [asyncio.create_task(asked(patient, f"slow{n}.example.org")) for n in range(3)]
        await until(lambda: silent.count() == 3)
        assert await asked(hasty, "db", timeout_s=1.5) == ["10.0.0.2"]
        assert not any(task.done() for task in slow)
        assert await asyncio.gather(*slow) == [["192.0.2.9"]] * 3
    finally:
        silent.close()
        other.close()


async def test_nobody_is_asked_from_a_network_without_a_way_out(
    resolver: Resolver, boxes: Callable[[], Box]
) -> None:
    upstream = NameServer(UPSTREAM, {"example.org": ["192.0.2.7"]})
    try:
        box = boxes()
        await run(resolver, "c1", box)
        show(resolver, "c1", (UPSTREAM,), forwards=False)
        assert await asked(box, "example.org") == []
        assert upstream.count() == 0
    finally:
        upstream.close()


async def test_own_servers_are_asked_from_the_containers_namespace(
    resolver: Resolver, boxes: Callable[[], Box]
) -> None:
    box = boxes()
    await run(resolver, "c1", box)
    show(resolver, "c1", (UPSTREAM,), own_servers=True)

    def within() -> list[str]:
        upstream = NameServer(UPSTREAM, {"example.org": ["192.0.2.7"]})
        try:
            return shown(ask("example.org"))
        finally:
            upstream.close()

    assert await asyncio.to_thread(box.run, within) == ["192.0.2.7"]


async def test_a_flood_of_one_container_leaves_others_their_answers(
    resolver: Resolver, boxes: Callable[[], Box]
) -> None:
    noisy, quiet = boxes(), boxes()
    await run(resolver, "c1", noisy)
    await run(resolver, "c2", quiet)
    resolver.join(WEB, endpoint(2), ["db"])

    def flood() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.connect(("127.0.0.11", 53))
            client.setblocking(False)
            signal.alarm(30)
            while True:
                try:
                    client.send(b"\1\2\1\0\0\1\0\0\0\0\0\0\2db\0\0\1\0\1")
                except (BlockingIOError, ConnectionRefusedError):
                    continue

    pid = os.fork()
    if pid == 0:
        try:
            noisy._enter()
            flood()
        finally:
            os._exit(1)
    try:
        for _ in range(50):
            assert await asked(quiet, "db", timeout_s=5) == ["10.0.0.2"]
    finally:
        os.kill(pid, signal.SIGKILL)
        await asyncio.to_thread(os.waitpid, pid, 0)


async def test_garbage_is_refused(resolver: Resolver, boxes: Callable[[], Box]) -> None:
    box = boxes()
    await run(resolver, "c1", box)

    def exchange() -> bytes:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(8)
            client.connect(("127.0.0.11", 53))
            client.send(b"short")
            client.send(b"\x12\x34" + b"\xff" * 40)  # an answer: nothing comes back
            client.send(b"\x12\x35\0\0\0\7" + b"\xff" * 40)
            return client.recv(512)

    assert (await asyncio.to_thread(box.run, exchange))[:4] == b"\x12\x35\x80\x01"


async def test_the_sockets_go_with_the_container(resolver: Resolver, boxes: Callable[[], Box]) -> None:
    box = boxes()
    await run(resolver, "c1", box)
    os.kill(box.pid, signal.SIGKILL)
    await until(lambda: sandboxes(resolver) == [])


async def test_names_are_answered_while_there_is_no_daemon(
    resolver: Resolver, boxes: Callable[[], Box]
) -> None:
    box = boxes()
    await run(resolver, "c1", box)
    resolver.join(WEB, endpoint(2), ["db"])
    resolver.join(WEB, endpoint(3), ["web"])
    assert await asked(box, "web") == ["10.0.0.3"]
    resolver.close()
    assert await asked(box, "db") == ["10.0.0.2"]
    # the next daemon: the same process, told everything again
    again = Resolver(resolver.path)
    show(again, "c1")
    again.join(WEB, endpoint(2), ["db"])
    again.serving("c1", box.pid)
    again.recover()
    assert await asked(box, "db") == ["10.0.0.2"]
    await until(lambda: sandboxes(again) == ["c1"])
    assert await asked(box, "web") == []
    again.stop()


async def test_a_name_server_that_was_killed_is_started_again(
    resolver: Resolver, boxes: Callable[[], Box]
) -> None:
    box = boxes()
    await run(resolver, "c1", box)
    resolver.join(WEB, endpoint(2), ["db"])
    assert await asked(box, "db") == ["10.0.0.2"]
    os.kill(process_of(resolver), signal.SIGKILL)
    await until(lambda: Path(resolver.path).exists() and is_served(resolver))
    assert await asked(box, "db") == ["10.0.0.2"]


def is_served(resolver: Resolver) -> bool:
    try:
        return sandboxes(resolver) == ["c1"]
    except (ConnectionError, FileNotFoundError):
        return False


def process_of(resolver: Resolver) -> int:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.connect(resolver.path)
        return int.from_bytes(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 4), "little")


async def test_another_version_takes_over(resolver: Resolver, boxes: Callable[[], Box]) -> None:
    box = boxes()
    await run(resolver, "c1", box)
    before = process_of(resolver)
    resolver.close()
    newer = Resolver(resolver.path, version="newer")
    show(newer, "c1")
    newer.join(WEB, endpoint(2), ["db"])
    newer.serving("c1", box.pid)
    newer.recover()
    await until(lambda: is_served(newer))
    assert process_of(newer) != before
    assert await asked(box, "db") == ["10.0.0.2"]
    newer.stop()


async def test_nobody_needs_it_any_more(resolver: Resolver) -> None:
    resolver.ensure()
    resolver.close()
    Resolver(resolver.path).recover()
    eventually(lambda: not Path(resolver.path).exists(), "the name server has ended")
