"""Connections as both ends and the host's tracking see them become edges, each once."""

from __future__ import annotations

import socket

from sampan.cli.commands.traffic import _dot as dot
from sampan.engine.network.seen import Seen
from sampan.engine.network.traffic import Graph, draw
from sampan.kernel.conntrack import Direction, Flow
from sampan.kernel.sockettable import CONNECTED, LISTENING, Socket
from sampan.model.container import Endpoint

TCP, UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP
GATEWAY, HOST = "172.18.0.1", "192.0.2.1"


def seen(name: str, network: str, address: str) -> Seen:
    return Seen(
        id=name, name=name, state="running", pid=1, mode="", endpoints={network: Endpoint(ip_address=address)}
    )


WEB, DB = seen("web", "front", "172.18.0.2"), seen("db", "front", "172.18.0.3")


def listening(address: str, port: int) -> Socket:
    return Socket("tcp", address, port, "0.0.0.0", 0, LISTENING)


def connected(address: str, port: int, peer: str, peer_port: int) -> Socket:
    return Socket("tcp", address, port, peer, peer_port, CONNECTED)


def graph(sockets: dict[str, list[Socket]], flows: list[Flow] | None = None) -> Graph:
    return draw([WEB, DB], sockets, flows or [], {GATEWAY, HOST, "127.0.0.1"}, [])


def lines(found: Graph) -> list[str]:
    return [
        f"{one.source.name} -> {one.target.name} {one.port}/{one.protocol} on {one.network}: "
        f"{one.connections}"
        for one in found.edges
    ]


def test_both_ends_of_a_connection_are_one() -> None:
    found = graph(
        {
            "web": [connected("172.18.0.2", 40000, "172.18.0.3", 5432)],
            "db": [listening("0.0.0.0", 5432), connected("172.18.0.3", 5432, "172.18.0.2", 40000)],
        }
    )
    assert lines(found) == ["web -> db 5432/tcp on front: 1"]
    assert {one.source.kind for one in found.edges} == {"container"}


def test_several_connections_are_counted() -> None:
    found = graph({"web": [connected("172.18.0.2", port, "172.18.0.3", 5432) for port in (1, 2, 3)]})
    assert lines(found) == ["web -> db 5432/tcp on front: 3"]


def test_a_published_port_leads_to_who_answers() -> None:
    flow = Flow(
        TCP,
        Direction("198.51.100.7", 50000, HOST, 8080),
        Direction("172.18.0.2", 80, "198.51.100.7", 50000),
        True,
    )
    sockets = {"web": [listening("::", 80), connected("172.18.0.2", 80, "198.51.100.7", 50000)]}
    assert lines(graph(sockets, [flow])) == ["198.51.100.7 -> web 80/tcp on front: 1"]


def test_a_container_behind_masquerading_is_known() -> None:
    """db calls the published port of web: web sees the gateway, db the host."""
    flow = Flow(
        TCP,
        Direction("172.18.0.3", 50000, HOST, 8080),
        Direction("172.18.0.2", 80, GATEWAY, 61000),
        True,
    )
    sockets = {
        "web": [listening("0.0.0.0", 80), connected("172.18.0.2", 80, GATEWAY, 61000)],
        "db": [connected("172.18.0.3", 50000, HOST, 8080)],
    }
    assert lines(graph(sockets, [flow])) == ["db -> web 80/tcp on front: 1"]


def test_the_host_and_the_world() -> None:
    sockets = {
        "web": [
            listening("0.0.0.0", 80),
            connected("172.18.0.2", 80, GATEWAY, 50000),
            connected("172.18.0.2", 40000, "203.0.113.5", 443),
        ]
    }
    found = graph(sockets)
    assert lines(found) == [
        "host -> web 80/tcp on front: 1",
        "web -> 203.0.113.5 443/tcp on front: 1",
    ]
    assert [(one.source.kind, one.target.kind) for one in found.edges] == [
        ("host", "container"),
        ("container", "outside"),
    ]


def test_what_is_left_out() -> None:
    """Talk within a container, flows of others, and connections that have ended."""
    others = Flow(TCP, Direction(HOST, 1, "203.0.113.5", 443), Direction("203.0.113.5", 443, HOST, 1), True)
    ended = Flow(
        TCP, Direction("172.18.0.2", 1, "203.0.113.5", 80), Direction("203.0.113.5", 80, HOST, 1), False
    )
    sockets = {
        "web": [connected("127.0.0.1", 1, "127.0.0.1", 2), connected("172.18.0.2", 1, "172.18.0.2", 2)]
    }
    assert lines(graph(sockets, [others, ended])) == []


def test_datagrams_are_seen_by_tracking() -> None:
    asked, answered = Direction("172.18.0.2", 9, "9.9.9.9", 53), Direction("9.9.9.9", 53, HOST, 9)
    assert lines(graph({}, [Flow(UDP, asked, answered, True)])) == ["web -> 9.9.9.9 53/udp on front: 1"]


def test_as_a_drawing() -> None:
    shown = dot(
        {
            "Containers": ["db", "web"],
            "Edges": [
                {
                    "From": {"Name": "web", "Kind": "container"},
                    "To": {"Name": "192.0.2.9", "Kind": "outside"},
                    "Port": 80,
                    "Protocol": "tcp",
                    "Connections": 2,
                }
            ],
        }
    )
    assert '    "web" -> "192.0.2.9" [label="80/tcp (2)"];' in shown.splitlines()
    assert '    "db" [shape=box];' in shown.splitlines()
