"""Which way the kernel would send a packet (rtnetlink(7), RTM_GETROUTE for one destination).

Standard library only.
"""

from __future__ import annotations

import socket
from struct import Struct
from typing import NamedTuple

from .netlink import RTA_GATEWAY, RTA_OIF, NetlinkSocket, attribute, parse_attributes

RTM_GETROUTE = 26
RTA_DST = 1
RTA_PREFSRC = 7
RTN_LOCAL = 2

_ROUTE = Struct("=BBBBBBBBI")
_U32 = Struct("=I")


class Way(NamedTuple):
    link_index: int
    """Of the interface."""
    gateway: str
    """"" for a destination on the link."""
    source: str
    is_local: bool
    """The destination is an address of this namespace itself."""


def find_way(route: NetlinkSocket, address: str) -> Way:
    """Raises OSError: ENETUNREACH where no route leads there, EHOSTUNREACH, EACCES and EINVAL where one
    refuses it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    packed = socket.inet_pton(family, address)
    body = _ROUTE.pack(family, len(packed) * 8, 0, 0, 0, 0, 0, 0, 0) + attribute(RTA_DST, packed)
    answer = route.get(f"find the route to {address}", RTM_GETROUTE, body)
    kind = _ROUTE.unpack_from(answer)[7]
    found = parse_attributes(answer[_ROUTE.size :])
    return Way(
        link_index=int(_U32.unpack(found[RTA_OIF])[0]) if RTA_OIF in found else 0,
        gateway=_address(family, found.get(RTA_GATEWAY)),
        source=_address(family, found.get(RTA_PREFSRC)),
        is_local=kind == RTN_LOCAL,
    )


def _address(family: int, packed: bytes | None) -> str:
    return socket.inet_ntop(family, packed) if packed else ""
