"""Connection tracking: listing flows, and forgetting those of a datagram port.

Translation is decided for the first packet of a flow and kept. A client that goes on sending to a port
that was published, withdrawn or moved meanwhile would go on being answered by nobody; TCP ends by itself.

Sources: linux/netfilter/nfnetlink_conntrack.h. The kernel filters what it lists (CTA_FILTER, Linux 5.8).
Standard library only.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable
from struct import Struct
from typing import NamedTuple

from .netlink import NetlinkSocket, Request, attribute, attribute_u32, nested, parse_attributes

NETLINK_NETFILTER = 12
_SUBSYSTEM = 1 << 8  # NFNL_SUBSYS_CTNETLINK
IPCTNL_MSG_CT_GET = _SUBSYSTEM | 1
IPCTNL_MSG_CT_DELETE = _SUBSYSTEM | 2

CTA_TUPLE_ORIG = 1
CTA_TUPLE_REPLY = 2
CTA_PROTOINFO = 4
CTA_ID = 12
CTA_FILTER = 25
CTA_TUPLE_IP = 1
CTA_IP_V4_SRC = 1
CTA_IP_V4_DST = 2
CTA_IP_V6_SRC = 3
CTA_IP_V6_DST = 4
CTA_TUPLE_PROTO = 2
CTA_PROTO_NUM = 1
CTA_PROTO_SRC_PORT = 2
CTA_PROTO_DST_PORT = 3
CTA_PROTOINFO_TCP = 1
CTA_PROTOINFO_TCP_STATE = 1
TCP_ESTABLISHED = 3
"""linux/netfilter/nf_conntrack_tcp.h."""
CTA_FILTER_ORIG_FLAGS = 1
CTA_FILTER_F_PROTO_NUM = 1 << 3
CTA_FILTER_F_PROTO_DST_PORT = 1 << 5

_NFGENMSG = Struct("=BB2s")
_PORT = Struct(">H")


class Direction(NamedTuple):
    source: str
    source_port: int
    """0 where the protocol has none."""
    destination: str
    destination_port: int


class Flow(NamedTuple):
    protocol: int
    asked: Direction
    """As the first packet was sent."""
    answered: Direction
    """As answers are: its source is who really answers, its destination whom he takes for the caller."""
    is_open: bool
    """Not one of TCP that has ended, or has not begun."""


def list_flows() -> list[Flow]:
    """All of this network namespace, of both address families. Raises OSError (a kernel without
    ctnetlink)."""
    with NetlinkSocket(NETLINK_NETFILTER) as netlink:
        any_family = _NFGENMSG.pack(socket.AF_UNSPEC, 0, b"\0\0")
        return [_flow(body) for body in netlink.dump("list flows", IPCTNL_MSG_CT_GET, any_family)]


def _flow(body: bytes) -> Flow:
    found = parse_attributes(body[_NFGENMSG.size :])
    protocol, asked = _direction(found[CTA_TUPLE_ORIG])
    _, answered = _direction(found[CTA_TUPLE_REPLY])
    is_open = True
    if protocol == socket.IPPROTO_TCP:
        tcp = parse_attributes(parse_attributes(found.get(CTA_PROTOINFO, b"")).get(CTA_PROTOINFO_TCP, b""))
        is_open = tcp.get(CTA_PROTOINFO_TCP_STATE, b"\0")[0] == TCP_ESTABLISHED
    return Flow(protocol, asked, answered, is_open)


def _direction(data: bytes) -> tuple[int, Direction]:
    parts = parse_attributes(data)
    ip, proto = parse_attributes(parts[CTA_TUPLE_IP]), parse_attributes(parts[CTA_TUPLE_PROTO])
    if CTA_IP_V4_SRC in ip:
        family, source, destination = socket.AF_INET, ip[CTA_IP_V4_SRC], ip[CTA_IP_V4_DST]
    else:
        family, source, destination = socket.AF_INET6, ip[CTA_IP_V6_SRC], ip[CTA_IP_V6_DST]
    return proto[CTA_PROTO_NUM][0], Direction(
        socket.inet_ntop(family, source),
        _port(proto.get(CTA_PROTO_SRC_PORT)),
        socket.inet_ntop(family, destination),
        _port(proto.get(CTA_PROTO_DST_PORT)),
    )


def _port(packed: bytes | None) -> int:
    return int(_PORT.unpack(packed)[0]) if packed else 0


def forget_flows(protocol: int, ports: Iterable[int]) -> int:
    """Drop the flows of IP ``protocol`` that were first sent to one of ``ports``, of both address families;
    answers how many. Raises OSError."""
    dropped = 0
    with NetlinkSocket(NETLINK_NETFILTER) as netlink:
        for port in ports:
            for family in (socket.AF_INET, socket.AF_INET6):
                flows = netlink.dump("list flows", IPCTNL_MSG_CT_GET, _filter(family, protocol, port))
                dropped += sum(_delete(netlink, family, flow) for flow in flows)
    return dropped


def _filter(family: int, protocol: int, port: int) -> bytes:
    tuple_part = nested(
        CTA_TUPLE_PROTO,
        attribute(CTA_PROTO_NUM, bytes([protocol])),
        attribute(CTA_PROTO_DST_PORT, _PORT.pack(port)),
    )
    flags = CTA_FILTER_F_PROTO_NUM | CTA_FILTER_F_PROTO_DST_PORT
    return (
        _NFGENMSG.pack(family, 0, b"\0\0")
        + nested(CTA_TUPLE_ORIG, tuple_part)
        + nested(CTA_FILTER, attribute_u32(CTA_FILTER_ORIG_FLAGS, flags))
    )


def _delete(netlink: NetlinkSocket, family: int, flow: bytes) -> bool:
    """False when it has ended meanwhile."""
    found = parse_attributes(flow[_NFGENMSG.size :])
    body = _NFGENMSG.pack(family, 0, b"\0\0") + nested(CTA_TUPLE_ORIG, found[CTA_TUPLE_ORIG])
    if CTA_ID in found:
        body += attribute(CTA_ID, found[CTA_ID])
    request: Request = ("drop a flow", IPCTNL_MSG_CT_DELETE, 0, body)
    try:
        netlink.execute([request])
    except OSError as error:
        if error.errno == errno.ENOENT:
            return False
        raise
    return True
