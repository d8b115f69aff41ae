"""Allow-lists as elements of the egress table's sets. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from struct import Struct
from typing import NamedTuple

from sampan.kernel.nftables import Element

from ..ipam import IPNetwork
from .policy import LAST_PORT, Entry, Policy

_PORT = Struct(">HH")
_NUMBERS = {"tcp": 6, "udp": 17}
_LAST_PROTOCOL = 255


class Range(NamedTuple):
    """Both ends belong to it."""

    first: int
    last: int


Box = tuple[Range, Range, Range]
"""Addresses, protocol numbers, ports."""


def boxes_of(policy: Policy, version: int) -> list[Box]:
    """What the subnets of a policy allow, no two of them overlapping: nf_tables refuses those that do
    (nft_set_pipapo.c, ENOTEMPTY). The largest stay whole."""
    wanted = [
        box
        for entry in policy
        if entry.subnet is not None and entry.subnet.version == version
        for box in _boxes_of(entry, entry.subnet)
    ]
    kept: list[Box] = []
    for box in sorted(set(wanted), key=_size, reverse=True):
        left = [box]
        for other in kept:
            left = [piece for one in left for piece in without(one, other)]
        kept += left
    return kept


def _boxes_of(entry: Entry, subnet: IPNetwork) -> list[Box]:
    addresses = Range(int(subnet.network_address), int(subnet.broadcast_address))
    if not entry.protocol and entry.ports is None:
        return [(addresses, Range(0, _LAST_PROTOCOL), Range(0, LAST_PORT))]
    ports = Range(*(entry.ports or (0, LAST_PORT)))
    names = [entry.protocol] if entry.protocol else list(_NUMBERS)
    return [(addresses, Range(_NUMBERS[name], _NUMBERS[name]), ports) for name in names]


def _size(box: Box) -> tuple[int, Box]:
    count = 1
    for side in box:
        count *= side.last - side.first + 1
    return count, box


def without(box: Box, hole: Box) -> list[Box]:
    """The parts of a box that are not in another one; they do not overlap."""
    if any(a.last < b.first or b.last < a.first for a, b in zip(box, hole, strict=True)):
        return [box]
    parts: list[Box] = []
    rest = list(box)
    for place, (side, cut) in enumerate(zip(box, hole, strict=True)):
        beside = Range(side.first, cut.first - 1), Range(cut.last + 1, side.last)
        parts += [
            (*rest[:place], piece, *rest[place + 1 :])  # type: ignore[misc]
            for piece in beside
            if piece.first <= piece.last
        ]
        rest[place] = Range(max(side.first, cut.first), min(side.last, cut.last))
    return parts


def elements_of(address: str, policy: Policy, subnets: Sequence[IPNetwork]) -> list[Element]:
    """Everything about one container's address: that it is restricted, what it may reach, and that its own
    network is not outside."""
    source = ip_address(address)
    version, size = source.version, source.max_prefixlen // 8
    elements = [Element(f"restricted{version}", source.packed)]
    for addresses, protocols, ports in boxes_of(policy, version):
        ends = [
            source.packed
            + addresses[end].to_bytes(size, "big")
            + bytes((protocols[end], 0, 0, 0))
            + _PORT.pack(ports[end], 0)
            for end in (0, 1)
        ]
        elements.append(Element(f"allowed{version}", ends[0], key_end=ends[1]))
    for subnet in subnets:
        if subnet.version == version:
            first, last = subnet.network_address.packed, subnet.broadcast_address.packed
            elements.append(Element(f"inside{version}", source.packed + first, key_end=source.packed + last))
    return elements


def name_rules(policy: Policy) -> list[tuple[str, list[int], list[int]]]:
    """For the name server: name, protocol numbers (none: all), first and last port (none: all)."""
    return [_name_rule(entry) for entry in policy if entry.name]


def _name_rule(entry: Entry) -> tuple[str, list[int], list[int]]:
    numbers = [_NUMBERS[entry.protocol]] if entry.protocol else []
    if entry.ports is None:
        return entry.name, numbers, []
    return entry.name, numbers or list(_NUMBERS.values()), list(entry.ports)


def text_of(element: Element) -> str:
    """As nft(8) has it. A set's name tells what its key is made of."""
    size = 4 if element.name.endswith("4") else 16
    ends = [element.key, element.key_end or element.key]
    parts = [str(ip_address(element.key[:size]))]
    if len(element.key) > size:
        parts.append("-".join(str(ip_address(end[size : 2 * size])) for end in ends))
    if len(element.key) > 2 * size:
        parts.append("-".join(str(end[2 * size]) for end in ends))
        parts.append("-".join(str(_PORT.unpack_from(end, 2 * size + 4)[0]) for end in ends))
    return " . ".join(parts)
