"""What a container finds when it looks for itself: its interfaces and ways, its name server's answers, and
whether somebody takes its call. Everything happens in its network namespace. Blocks, for seconds at most.
"""

from __future__ import annotations

import errno
import os
import secrets
import socket
import time
from collections.abc import Sequence

import msgspec

from sampan.kernel import links
from sampan.kernel.netlink import NetlinkSocket
from sampan.kernel.routes import find_way

from .live import in_namespace
from .resolver import wire

_ICMP = {
    socket.AF_INET: (socket.IPPROTO_ICMP, 8, 0),  # RFC 792: echo, echo reply
    socket.AF_INET6: (socket.IPPROTO_ICMPV6, 128, 129),  # RFC 4443, 4
}
_CODES = {
    wire.FORMAT_ERROR: "does not understand the question",
    wire.SERVER_FAILURE: "could not find out",
    wire.NO_SUCH_NAME: "knows no such name",
    wire.NOT_IMPLEMENTED: "does not take such questions",
    wire.REFUSED: "refuses to answer",
}


class Interface(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    is_up: bool
    addresses: tuple[str, ...]
    """Without prefix lengths."""


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """Where a packet for one address goes first."""

    address: str
    interface: str = ""
    gateway: str = ""
    """"" for what is on the same network."""
    is_own: bool = False
    """It is an address of the namespace itself."""
    problem: str = ""
    """Why it goes nowhere; "" when it goes."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """Of a name server."""

    server: str
    addresses: tuple[str, ...] = ()
    problem: str = ""
    """Behind the server's name: ``does not answer``. "" with addresses."""


def list_interfaces(pid: int) -> tuple[Interface, ...]:
    """Of the process's namespace. Raises OSError (ENOENT: it has ended)."""

    def look() -> tuple[Interface, ...]:
        with NetlinkSocket() as route:
            return tuple(
                Interface(
                    name=link.name,
                    is_up=link.is_up,
                    addresses=tuple(
                        text.partition("/")[0] for text in links.list_addresses(route, link.ifindex)
                    ),
                )
                for link in links.list_links(route)
            )

    return in_namespace(pid, look)


def find_ways(pid: int, addresses: Sequence[str]) -> tuple[Way, ...]:
    """As the namespace's routes have it. Raises OSError (ENOENT)."""
    return in_namespace(pid, lambda: tuple(find_own_way(address) for address in addresses))


def find_own_way(address: str) -> Way:
    """In the namespace of the caller. Raises OSError."""
    with NetlinkSocket() as route:
        try:
            way = find_way(route, address)
        except OSError as error:
            return Way(address=address, problem=os.strerror(error.errno or 0).lower())
        return Way(
            address=address,
            interface=socket.if_indextoname(way.link_index) if way.link_index else "",
            gateway=way.gateway,
            is_own=way.is_local,
        )


def ask(pid: int, server: str, name: str, wait_s: float) -> Answer:
    """The IPv4 and IPv6 addresses of a name, from the namespace's point of view. Raises OSError (ENOENT)."""
    return in_namespace(pid, lambda: _ask(server, name, wait_s))


def _ask(server: str, name: str, wait_s: float) -> Answer:
    found: list[str] = []
    problem = ""
    for kind in (wire.A, wire.AAAA):
        try:
            code, addresses = _ask_for(server, name, kind, wait_s)
        except TimeoutError:
            return Answer(server=server, problem="does not answer")
        except OSError as error:
            return Answer(server=server, problem=os.strerror(error.errno or 0).lower())
        except wire.Malformed as error:
            return Answer(server=server, problem=f"cannot be asked for {name}: {error}")
        found.extend(addresses)
        problem = problem or _CODES.get(code, "")
    if not found and not problem:
        problem = "knows the name, but no address of it"
    return Answer(server=server, addresses=tuple(found), problem="" if found else problem)


def _ask_for(server: str, name: str, kind: int, wait_s: float) -> tuple[int, list[str]]:
    id_ = secrets.randbelow(1 << 16)
    question = wire.make_query(id_, name, kind)
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as asking:
        asking.settimeout(wait_s)
        asking.connect((server, 53))
        asking.send(question)
        while True:
            data = asking.recv(wire.LARGEST_UDP_BYTES)
            if data[:2] == question[:2]:
                found = wire.addresses_of(data, name.lower().rstrip("."))
                return wire.code_of(data), [socket.inet_ntop(one, packed) for one, packed, _ in found]


def call(pid: int, address: str, port: int, wait_s: float) -> str:
    """Try a TCP connection: "connected", "refused", "no answer", else the kernel's words. Raises OSError
    (ENOENT)."""

    def work() -> str:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as calling:
            calling.settimeout(wait_s)
            try:
                calling.connect((address, port))
            except TimeoutError:
                return "no answer"
            except OSError as error:
                if error.errno == errno.ECONNREFUSED:
                    return "refused"
                return os.strerror(error.errno or 0).lower()
            return "connected"

    return in_namespace(pid, work)


def ping(pid: int, address: str, wait_s: float) -> str:
    """One echo request: "answered", "no answer", else the kernel's words. Raises OSError (ENOENT)."""

    def work() -> str:
        try:
            return "answered" if _echo(address, wait_s) else "no answer"
        except OSError as error:
            return os.strerror(error.errno or 0).lower()

    return in_namespace(pid, work)


def _echo(address: str, wait_s: float) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    protocol, request, reply = _ICMP[family]
    token = secrets.token_bytes(8)
    message = bytes([request, 0, 0, 0]) + token
    if family == socket.AF_INET:  # the kernel fills in that of ICMPv6, RFC 3542, 3.1
        message = message[:2] + _checksum(message).to_bytes(2, "big") + message[4:]
    deadline = time.monotonic() + wait_s
    with socket.socket(family, socket.SOCK_RAW, protocol) as asking:
        asking.connect((address, 0))
        asking.send(message)
        while (left_s := deadline - time.monotonic()) > 0:
            asking.settimeout(left_s)
            try:
                data = asking.recv(2048)
            except TimeoutError:
                return False
            start = (data[0] & 15) * 4 if family == socket.AF_INET else 0
            if data[start] == reply and data[start + 4 : start + 12] == token:
                return True
    return False


def _checksum(data: bytes) -> int:
    """RFC 1071; of an even number of bytes."""
    total = sum(int.from_bytes(data[place : place + 2], "big") for place in range(0, len(data), 2))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF
