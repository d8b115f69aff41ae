"""Published ports and bridges as elements of the maps and sets of our table."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from struct import Struct

from sampan.kernel.nftables import Element

from .ports import PublishedPort
from .ruleset import BridgeRules, memberships

_PORT = Struct(">HH")
PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
_SHORTEST_RANGE = 2
_NAME_BYTES = 16  # IFNAMSIZ


def elements_of(published: Iterable[PublishedPort]) -> list[Element]:
    """One for each port; one for all of a range that leads to the same ports of a container."""
    elements: list[Element] = []
    run: list[PublishedPort] = []
    for entry in sorted(published, key=_place):
        if run and not _continues(run[-1], entry):
            elements += _elements_of_run(run)
            run = []
        run.append(entry)
    return elements + (_elements_of_run(run) if run else [])


def _place(entry: PublishedPort) -> tuple[str, str, str, int, int]:
    return entry.protocol, entry.host_address, entry.address, entry.host_port, entry.port


def _continues(last: PublishedPort, entry: PublishedPort) -> bool:
    """Whether both are of one range, at the same ports of host and container."""
    beside = (last.host_port + 1,) * 2 == (entry.host_port, entry.port) and last.host_port == last.port
    return _place(last)[:3] == _place(entry)[:3] and beside and not entry.is_routed


def _elements_of_run(run: list[PublishedPort]) -> list[Element]:
    if len(run) < _SHORTEST_RANGE:
        return [element_of(entry) for entry in run]
    first, last = element_of(run[0]), element_of(run[-1])
    # the destination's port stays as it is, so the map gives the address alone
    return [Element(first.name.replace("publish", "range"), first.key, first.data[: -_PORT.size], last.key)]


def element_of(published: PublishedPort) -> Element:
    """The map element that rewrites to the container; of a routed port, the set element that lets it in."""
    protocol = bytes((PROTOCOLS[published.protocol], 0, 0, 0))
    if published.is_routed:
        address = ipaddress.ip_address(published.address)
        return Element(f"open{address.version}", address.packed + protocol + _PORT.pack(published.port, 0))
    key = protocol + _PORT.pack(published.host_port, 0)
    host = ipaddress.ip_address(published.host_address)
    if not host.is_unspecified:
        key = host.packed + key
    family = socket.AF_INET6 if ":" in published.address else socket.AF_INET
    data = socket.inet_pton(family, published.address) + _PORT.pack(published.port, 0)
    name = f"publish{host.version}" if host.is_unspecified else f"publish{host.version}_at"
    return Element(name, key, data)


def elements_of_bridge(bridge: BridgeRules) -> list[Element]:
    """The same as :func:`.ruleset.render_rules` writes of it."""
    elements: list[Element] = []
    for name, member in memberships(bridge):
        if name.startswith("subnets"):
            elements += _range_of(name, member)
        else:
            key = member.encode().ljust(_NAME_BYTES, b"\0")
            elements.append(Element(name, key * 2 if name == "talking" else key))
    return elements


def _range_of(name: str, subnet: str) -> list[Element]:
    network = ipaddress.ip_network(subnet)
    found = [Element(name, network.network_address.packed)]
    last = int(network.broadcast_address) + 1
    if last >> network.max_prefixlen == 0:  # else it reaches to the end of all addresses
        found.append(Element(name, last.to_bytes(network.max_prefixlen // 8, "big"), ends=True))
    return found
