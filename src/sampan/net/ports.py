"""Host ports: which are taken, by whom, and the sockets that keep other programs off them.

A published port works through the firewall alone, so no socket is needed to serve it. One is bound all the
same, for two reasons: bind(2) tells whether a program of the host has the port, and while ours is bound no
program can take it and wonder why nothing arrives. It is bound but not listening: a connection that the
rules do not cover (``::1`` for a container without IPv6) is refused at once instead of hanging.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

from sampan.formats.ports import join_host_port
from sampan.kernel.portowners import find_owner
from sampan.kernel.sockets import drop_input

from .errors import PortInUse

FALLBACK_RANGE = (49153, 65535)
"""What Docker Engine takes when the kernel does not tell its own (IANA's dynamic ports)."""
_ANY = ("0.0.0.0", "::")
_TRIES = 64

_KINDS = {
    "tcp": (socket.SOCK_STREAM, socket.IPPROTO_TCP),
    "udp": (socket.SOCK_DGRAM, socket.IPPROTO_UDP),
    "sctp": (socket.SOCK_STREAM, socket.IPPROTO_SCTP),
}


@dataclass(frozen=True, slots=True)
class PublishedPort:
    """One host port that leads to one port of a container."""

    protocol: str
    host_address: str
    """``0.0.0.0`` or ``::`` for every address of the host."""
    host_port: int
    address: str
    port: int

    @property
    def is_routed(self) -> bool:
        """No port of the host: others have a route to the container, and may reach this port of it."""
        return not self.host_address

    def __str__(self) -> str:
        host = join_host_port(self.host_address, self.host_port)
        return f"{host}:{join_host_port(self.address, self.port)}/{self.protocol}"


@dataclass(frozen=True, slots=True)
class PortRequest:
    """A port to publish at the same host port on each of ``targets`` (host address, container address)."""

    protocol: str
    port: int
    first: int
    """0: any port of the host's dynamic range."""
    last: int
    targets: tuple[tuple[str, str], ...]


class PortTable:
    """Who has which host port; pure. A port on every address excludes it on single ones, and back."""

    def __init__(self, dynamic: tuple[int, int] = FALLBACK_RANGE, reserved: frozenset[int] = frozenset()):
        self._dynamic = dynamic
        self._reserved = reserved
        self._next = dynamic[0]
        self._taken: dict[tuple[str, int], set[str]] = {}

    def candidates(self, request: PortRequest) -> Iterable[int]:
        """Ports to try in order: the one asked for, the range, or the dynamic range from behind the last
        one given, without those that the administrator keeps back."""
        if request.first:
            return range(request.first, request.last + 1)
        first, last = self._dynamic
        start = self._next if first <= self._next <= last else first
        order = chain(range(start, last + 1), range(first, start))
        return (port for port in order if port not in self._reserved)

    def conflict(self, protocol: str, addresses: Sequence[str], port: int) -> str | None:
        """The first of ``addresses`` at which the port is not free."""
        taken = self._taken.get((protocol, port))
        if not taken:
            return None
        return next((address for address in addresses if _overlaps(address, taken)), None)

    def take(self, protocol: str, addresses: Sequence[str], port: int) -> None:
        self._taken.setdefault((protocol, port), set()).update(addresses)
        first, last = self._dynamic
        if first <= port <= last:
            self._next = port + 1

    def free(self, protocol: str, address: str, port: int) -> None:
        """Idempotent."""
        taken = self._taken.get((protocol, port))
        if taken:
            taken.discard(address)
            if not taken:
                del self._taken[protocol, port]

    def __len__(self) -> int:
        return sum(len(addresses) for addresses in self._taken.values())


def _overlaps(address: str, taken: set[str]) -> bool:
    if address in taken:
        return True
    any_address = _ANY[1] if ":" in address else _ANY[0]
    if any_address in taken:
        return True
    return address == any_address and any((":" in other) == (":" in address) for other in taken)


class PortReservations:
    """The port table together with the sockets. Binds at once, in the network namespace of the daemon."""

    def __init__(self, table: PortTable | None = None) -> None:
        self._table = table or PortTable(*read_dynamic_ports())
        self._sockets: dict[tuple[str, str, int], socket.socket] = {}

    def reserve(self, request: PortRequest) -> list[PublishedPort]:
        """Take one host port for all of the request's addresses. Raises PortInUse; nothing is kept then."""
        addresses = [host for host, _ in request.targets]
        refusal: PortInUse | None = None
        tries = 0
        for port in self._table.candidates(request):
            conflict = self._table.conflict(request.protocol, addresses, port)
            if conflict is not None:
                where = join_host_port(conflict, port)
                refusal = refusal or PortInUse(f"Bind for {where} failed: port is already allocated")
                continue
            published = [
                PublishedPort(request.protocol, host, port, address, request.port)
                for host, address in request.targets
            ]
            try:
                self._bind(published)
            except PortInUse as error:
                refusal = error
                tries += 1
                if tries == _TRIES:
                    break
                continue
            self._table.take(request.protocol, addresses, port)
            return published
        if refusal is not None and request.first == request.last and request.first:
            raise _with_owner(refusal, request)
        raise PortInUse("all ports are allocated") from refusal

    def adopt(self, published: Iterable[PublishedPort]) -> list[str]:
        """Ports of a container that ran before the daemon came back. Answers what could not be bound
        again because a program has taken it meanwhile: the firewall still leads to the container."""
        lost: list[str] = []
        for entry in published:
            if entry.is_routed:
                continue
            try:
                self._bind([entry])
            except PortInUse as error:
                lost.append(error.message)
            self._table.take(entry.protocol, [entry.host_address], entry.host_port)
        return lost

    def release(self, published: Iterable[PublishedPort]) -> None:
        """Idempotent."""
        for entry in published:
            if entry.is_routed:
                continue
            held = self._sockets.pop((entry.protocol, entry.host_address, entry.host_port), None)
            if held is not None:
                held.close()
            self._table.free(entry.protocol, entry.host_address, entry.host_port)

    def close(self) -> None:
        for held in self._sockets.values():
            held.close()
        self._sockets.clear()

    def _bind(self, published: list[PublishedPort]) -> None:
        bound: list[tuple[PublishedPort, socket.socket]] = []
        try:
            for entry in published:
                held = bind_port(entry.protocol, entry.host_address, entry.host_port)
                if held is not None:
                    bound.append((entry, held))
        except OSError as error:
            for _, held in bound:
                held.close()
            reason = _REASONS.get(error.errno or 0) or os.strerror(error.errno or 0).lower()
            raise PortInUse(f"failed to bind host port for {published[len(bound)]}: {reason}") from error
        for entry, held in bound:
            self._sockets[entry.protocol, entry.host_address, entry.host_port] = held


def _with_owner(refusal: PortInUse, request: PortRequest) -> PortInUse:
    """Docker's words, and behind them which process has the port."""
    cause = refusal.__cause__
    if isinstance(cause, OSError) and cause.errno == errno.EADDRINUSE:
        owner = find_owner(request.protocol, request.first)
        if owner is not None:
            return PortInUse(f"{refusal.message} (by {owner})")
    return refusal


_REASONS = {
    errno.EADDRINUSE: "address already in use",
    errno.EADDRNOTAVAIL: "cannot assign requested address",
    errno.EACCES: "permission denied",
}


def bind_port(protocol: str, address: str, port: int) -> socket.socket | None:
    """A socket that keeps the port; None where the kernel does not know the protocol (sctp, IPv6).

    Raises OSError (EADDRINUSE, EADDRNOTAVAIL, EACCES).
    """
    first = _open(protocol, address)
    if first is None:
        return None
    try:
        first.bind((address, port))
        return first
    except OSError as error:
        first.close()
        if error.errno != errno.EADDRINUSE or protocol == "udp":
            raise
    # Connections that a former server left in TIME_WAIT also refuse a plain bind. With SO_REUSEADDR they
    # do not, and listen(2) then tells them from a socket that is in use. Its filter drops what comes.
    second = _open(protocol, address)
    if second is None:
        return None
    try:
        second.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        drop_input(second)
        second.bind((address, port))
        second.listen(1)
    except OSError:
        second.close()
        raise
    return second


def _open(protocol: str, address: str) -> socket.socket | None:
    kind, number = _KINDS[protocol]
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        made = socket.socket(family, kind | socket.SOCK_CLOEXEC, number)
    except OSError as error:
        if error.errno in (errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT, errno.ESOCKTNOSUPPORT):
            return None
        raise
    try:
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if kind == socket.SOCK_DGRAM:
            drop_input(made)  # nobody reads: datagrams that the rules do not cover must not pile up
    except OSError:
        made.close()
        raise
    return made


def read_dynamic_ports(
    read: Callable[[str], str] | None = None,
) -> tuple[tuple[int, int], frozenset[int]]:
    """The kernel's range for automatic ports and those kept back from it (ip-sysctl.rst)."""
    reader = read or _read_sysctl
    try:
        low, high = (int(part) for part in reader("ip_local_port_range").split())
    except (OSError, ValueError):
        return FALLBACK_RANGE, frozenset()
    reserved: set[int] = set()
    try:
        for part in reader("ip_local_reserved_ports").strip().split(","):
            first, dash, last = part.partition("-")
            if first:
                reserved.update(range(int(first), int(last if dash else first) + 1))
    except (OSError, ValueError):
        reserved.clear()
    return (low, high), frozenset(reserved)


def _read_sysctl(name: str) -> str:
    with open(f"/proc/sys/net/ipv4/{name}", encoding="ascii") as file:
        return file.read()
