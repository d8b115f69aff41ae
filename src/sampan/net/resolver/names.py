"""Who is called what: the members of networks, and which networks a container sees. No I/O.

Standard library only.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Mapping

from .allowance import Allowance
from .wire import AAAA, PTR, A, Malformed, Record, encode_name

TTL_S = 5
"""Short, because an address is free for others as soon as its container has ended."""

_REVERSE4 = ".in-addr.arpa"
_REVERSE6 = ".ip6.arpa"


class Member:
    """A container's place in one network."""

    __slots__ = ("address4", "address6", "healthy", "names")

    def __init__(self, names: tuple[str, ...], address4: bytes, address6: bytes, healthy: bool) -> None:
        self.names = names
        self.address4 = address4
        self.address6 = address6
        self.healthy = healthy

    def data(self, kind: int) -> bytes:
        return self.address4 if kind == A else self.address6 if kind == AAAA else b""


def member(names: Iterable[str], address4: str, address6: str, healthy: bool = True) -> Member:
    """From texts; "" for no address of that family. Raises OSError for what is none."""
    return Member(
        tuple(name.lower() for name in names),
        socket.inet_pton(socket.AF_INET, address4) if address4 else b"",
        socket.inet_pton(socket.AF_INET6, address6) if address6 else b"",
        healthy,
    )


class NetworkNames:
    """The names of one network."""

    def __init__(self, name: str) -> None:
        self.name = name.lower()
        self.members: dict[str, Member] = {}
        """By endpoint id."""
        self._by_name: dict[str, list[Member]] = {}
        self._by_address: dict[bytes, Member] = {}

    def join(self, endpoint_id: str, joining: Member) -> None:
        """Idempotent; the newest word about an endpoint counts."""
        self.leave(endpoint_id)
        self.members[endpoint_id] = joining
        for name in joining.names:
            self._by_name.setdefault(name, []).append(joining)
        for address in (joining.address4, joining.address6):
            if address:
                self._by_address[address] = joining

    def leave(self, endpoint_id: str) -> None:
        """Idempotent."""
        leaving = self.members.pop(endpoint_id, None)
        if leaving is None:
            return
        for name in leaving.names:
            others = self._by_name[name]
            others.remove(leaving)
            if not others:
                del self._by_name[name]
        for address in (leaving.address4, leaving.address6):
            if self._by_address.get(address) is leaving:
                del self._by_address[address]

    def find(self, name: str) -> list[Member] | None:
        return self._by_name.get(name)

    def at(self, address: bytes) -> Member | None:
        return self._by_address.get(address)


class View:
    """What one container can ask for."""

    __slots__ = ("aliases", "egress", "forwards", "networks", "own_servers", "servers")

    def __init__(self) -> None:
        self.networks: tuple[str, ...] = ()
        """Ids, the one that is asked first first."""
        self.aliases: dict[str, str] = {}
        """Names that only this container uses (--link) -> the name they stand for."""
        self.servers: tuple[str, ...] = ()
        """Who is asked for all other names."""
        self.own_servers = False
        """They are the container's (--dns), and asked from its own namespace."""
        self.forwards = True
        """False in networks without a way out."""
        self.egress: tuple[Allowance, ...] = ()
        """Names whose addresses it may reach."""


class Directory:
    """All networks and what every container sees of them."""

    def __init__(self) -> None:
        self.networks: dict[str, NetworkNames] = {}
        self.views: dict[str, View] = {}
        self._turn = 0

    def network(self, network_id: str, name: str = "") -> NetworkNames:
        """Made when missing."""
        known = self.networks.get(network_id)
        if known is None:
            known = self.networks[network_id] = NetworkNames(name)
        elif name:
            known.name = name.lower()
        return known

    def view(self, container_id: str) -> View:
        """Made when missing: a container may ask before the daemon has said what it sees."""
        return self.views.setdefault(container_id, View())

    def allowances(self) -> set[Allowance]:
        """Of all containers."""
        return {one for view in self.views.values() for one in view.egress}

    def answer(self, view: View, name: str, kind: int) -> list[Record] | None:
        """The records of a name of ours, none when it has none of that kind; None: not ours."""
        if kind == PTR:
            return self._reverse(view, name)
        found = self._find(view, view.aliases.get(name, name))
        if found is None:
            return None
        self._turn += 1
        return [(kind, TTL_S, data) for one in in_turn(found, self._turn) if (data := one.data(kind))]

    def _find(self, view: View, name: str) -> list[Member] | None:
        networks = [known for id_ in view.networks if (known := self.networks.get(id_)) is not None]
        for network in networks:
            if found := network.find(name):
                return found
        bare, dot, suffix = name.rpartition(".")
        if dot:
            for network in networks:
                if network.name == suffix and (found := network.find(bare)):
                    return found
        return None

    def _reverse(self, view: View, name: str) -> list[Record] | None:
        address = reversed_address(name)
        if address is None:
            return None
        for id_ in view.networks:
            network = self.networks.get(id_)
            one = network.at(address) if network is not None else None
            if network is not None and one is not None and one.names:
                try:
                    return [(PTR, TTL_S, encode_name(f"{one.names[0]}.{network.name}"))]
                except Malformed:
                    return []
        return None


def in_turn(members: list[Member], turn: int) -> list[Member]:
    """Everybody comes first at his turn, but those who are healthy before those who are not."""
    if len(members) == 1:
        return members
    start = turn % len(members)
    rotated = members[start:] + members[:start]
    return sorted(rotated, key=lambda one: not one.healthy)


def reversed_address(name: str) -> bytes | None:
    """The address that a name below in-addr.arpa or ip6.arpa stands for (RFC 1035, 3.5; RFC 3596, 2.5)."""
    try:
        if name.endswith(_REVERSE4):
            parts = name[: -len(_REVERSE4)].split(".")
            return ipaddress.IPv4Address(".".join(reversed(parts))).packed
        if name.endswith(_REVERSE6):
            digits = "".join(reversed(name[: -len(_REVERSE6)].split(".")))
            return bytes.fromhex(digits) if len(digits) == 32 else None
    except ValueError:
        pass
    return None


def view_of(
    networks: Iterable[str],
    aliases: Mapping[str, str],
    servers: Iterable[str],
    *,
    own_servers: bool,
    forwards: bool,
    egress: Iterable[Allowance] = (),
) -> View:
    made = View()
    made.networks = tuple(networks)
    made.aliases = {name.lower(): target.lower() for name, target in aliases.items()}
    made.servers = tuple(servers)
    made.own_servers = own_servers
    made.forwards = forwards
    made.egress = tuple(egress)
    return made
