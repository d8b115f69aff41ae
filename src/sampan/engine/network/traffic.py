"""Who talks to whom: the connections of containers at this moment, with whom they really are.

A container's own sockets show what stays within a bridge, which the host's connection tracking never sees.
That shows whom a translated address stands for, and datagrams.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from ipaddress import ip_address

import msgspec

from sampan.engine.container.registry import Registry
from sampan.kernel.conntrack import Direction, Flow, list_flows
from sampan.kernel.links import list_addresses
from sampan.kernel.netlink import NetlinkSocket
from sampan.kernel.sockettable import CONNECTED, LISTENING, Socket, list_sockets

from .seen import Seen, addresses_of, see

_PROTOCOLS = {
    socket.IPPROTO_TCP: "tcp",
    socket.IPPROTO_UDP: "udp",
    socket.IPPROTO_SCTP: "sctp",
}


class Peer(msgspec.Struct, frozen=True, kw_only=True, rename="pascal", order=True):
    name: str
    """Of a container; ``host``; else an address."""
    kind: str
    """container, host or outside."""


class Edge(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """Connections of one to one port of another."""

    source: Peer = msgspec.field(name="From")
    target: Peer = msgspec.field(name="To")
    network: str
    """The container's that is called, else the caller's."""
    protocol: str
    port: int
    """Of the one who really answers, behind all translation."""
    connections: int


class Graph(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    edges: list[Edge]
    containers: list[str]
    """All that run, also those that talk to nobody."""
    warnings: list[str]


class Connection(msgspec.Struct, frozen=True, kw_only=True):
    """One, with the real ends."""

    protocol: str
    caller: str
    caller_port: int
    called: str
    called_port: int


class Traffic:
    """Keeps nothing."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def graph(self) -> Graph:
        """Raises nothing: what cannot be seen is told in the answer."""
        running = [one for one in see(self._registry) if one.state in ("running", "paused")]
        return await asyncio.to_thread(_look, running)


def _look(running: list[Seen]) -> Graph:
    warnings: list[str] = []
    try:
        flows = list_flows()
    except OSError as error:
        flows = []
        warnings.append(f"connections that are translated are not told apart: {error.strerror}")
    with NetlinkSocket() as route:
        own = {text.partition("/")[0] for text in list_addresses(route)}
    sockets: dict[str, list[Socket]] = {}
    for one in running:
        if not one.shares and one.mode != "host":
            with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
                sockets[one.id] = list_sockets(one.pid)
    return draw(running, sockets, flows, own, warnings)


def draw(
    running: list[Seen],
    sockets: Mapping[str, list[Socket]],
    flows: Iterable[Flow],
    host_addresses: set[str],
    warnings: list[str],
) -> Graph:
    """Pure. ``sockets`` by container id."""
    where = {
        address: (one.name, network)
        for one in running
        if not one.shares
        for network, endpoint in one.endpoints.items()
        for address in addresses_of(endpoint)
    }
    found = connections(sockets.values(), flows, set(where))
    counted = Counter(
        (
            _peer(one.caller, where, host_addresses),
            _peer(one.called, where, host_addresses),
            *_place(one, where),
        )
        for one in found
    )
    edges = [
        Edge(source=caller, target=called, network=network, protocol=protocol, port=port, connections=count)
        for (caller, called, network, protocol, port), count in sorted(counted.items())
    ]
    return Graph(edges=edges, containers=sorted(one.name for one in running), warnings=warnings)


def _peer(address: str, where: Mapping[str, tuple[str, str]], host_addresses: set[str]) -> Peer:
    if address in where:
        return Peer(name=where[address][0], kind="container")
    if address in host_addresses:
        return Peer(name="host", kind="host")
    return Peer(name=address, kind="outside")


def _place(one: Connection, where: Mapping[str, tuple[str, str]]) -> tuple[str, str, int]:
    _, network = where.get(one.called) or where.get(one.caller) or ("", "")
    return network, one.protocol, one.called_port


def connections(
    namespaces: Iterable[list[Socket]], flows: Iterable[Flow], addresses: set[str]
) -> set[Connection]:
    """Each once, though both its ends and connection tracking may show it. ``addresses`` are those of
    containers: flows between others are no concern."""
    known = [(_PROTOCOLS[flow.protocol], flow) for flow in flows if flow.protocol in _PROTOCOLS]
    asked = {(protocol, flow.asked): flow for protocol, flow in known}
    answered = {(protocol, flow.answered): flow for protocol, flow in known}
    found: set[Connection] = set()
    for protocol, flow in known:
        if flow.is_open and addresses & {flow.asked.source, flow.answered.source}:
            found.add(_real(protocol, flow))
    for rows in namespaces:
        served = {(row.protocol, row.port) for row in rows if row.state == LISTENING}
        for row in rows:
            if row.state != CONNECTED or ip_address(row.peer).is_loopback or row.address == row.peer:
                continue
            out = Direction(row.address, row.port, row.peer, row.peer_port)
            if (row.protocol, row.port) in served:
                flow_ = answered.get((row.protocol, out))
                plain = Direction(row.peer, row.peer_port, row.address, row.port)
            else:
                flow_ = asked.get((row.protocol, out))
                plain = out
            found.add(_real(row.protocol, flow_) if flow_ else _plain(row.protocol, plain))
    return found


def _real(protocol: str, flow: Flow) -> Connection:
    return Connection(
        protocol=protocol,
        caller=flow.asked.source,
        caller_port=flow.asked.source_port,
        called=flow.answered.source,
        called_port=flow.answered.source_port,
    )


def _plain(protocol: str, way: Direction) -> Connection:
    return Connection(
        protocol=protocol,
        caller=way.source,
        caller_port=way.source_port,
        called=way.destination,
        called_port=way.destination_port,
    )
