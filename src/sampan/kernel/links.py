"""Bridges, addresses and routes of the host: what a network needs once, not for each container.

Sources: rtnetlink(7), linux/if_link.h, linux/if_bridge.h, ip-sysctl.rst. Standard library only.
"""

from __future__ import annotations

import errno
import os
import socket
from struct import Struct
from typing import NamedTuple

from .netlink import (
    IFA_ADDRESS,
    IFA_LOCAL,
    IFF_UP,
    IFLA_ADDRESS,
    IFLA_IFNAME,
    IFLA_INFO_DATA,
    IFLA_INFO_KIND,
    IFLA_LINK,
    IFLA_LINKINFO,
    IFLA_MASTER,
    IFLA_MTU,
    IFLA_NUM_RX_QUEUES,
    IFLA_NUM_TX_QUEUES,
    NLM_F_CREATE,
    NLM_F_EXCL,
    RT_TABLE_MAIN,
    RTA_OIF,
    RTM_NEWLINK,
    RTM_NEWROUTE,
    RTPROT_BOOT,
    VETH_INFO_PEER,
    NetlinkSocket,
    Request,
    address_request,
    attribute,
    attribute_text,
    attribute_u32,
    hairpin_request,
    has_bridge_netfilter,
    link_body,
    nested,
    no_link_local_request,
    parse_attributes,
)

RTM_DELLINK = 17
RTM_GETLINK = 18
RTM_DELADDR = 21
RTM_GETADDR = 22
RTM_GETROUTE = 26
IFLA_IFALIAS = 20
IFLA_VLAN_ID = 1
RTA_DST = 1
RTA_PRIORITY = 6
RT_TABLE_LOCAL = 255
RTN_LOCAL = 2

_IFINFO = Struct("=BxHiII")
_IFADDR = Struct("=BBBBI")
_ROUTE = Struct("=BBBBBBBBI")
_U32 = Struct("=I")


class Link(NamedTuple):
    ifindex: int
    name: str
    kind: str
    """``bridge``, ``veth``, ...; empty for hardware."""
    mtu: int
    mac: str
    alias: str
    master: int
    """Index of the bridge it belongs to, or 0."""
    is_up: bool


def list_links(route: NetlinkSocket) -> list[Link]:
    """Every interface of the namespace. Raises OSError."""
    return [_link(body) for body in route.dump("list links", RTM_GETLINK, link_body())]


def find_link(route: NetlinkSocket, name: str) -> Link | None:
    """Asks for that one alone: there may be thousands. Raises OSError."""
    try:
        return _link(route.get(f"find {name}", RTM_GETLINK, link_body(attribute_text(IFLA_IFNAME, name))))
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise
        return None


def _link(body: bytes) -> Link:
    _, _, index, flags, _ = _IFINFO.unpack_from(body)
    found = parse_attributes(body[_IFINFO.size :])
    info = parse_attributes(found.get(IFLA_LINKINFO, b""))
    return Link(
        ifindex=index,
        name=_text(found.get(IFLA_IFNAME)),
        kind=_text(info.get(IFLA_INFO_KIND)),
        mtu=_number(found.get(IFLA_MTU)),
        mac=found.get(IFLA_ADDRESS, b"").hex(":"),
        alias=_text(found.get(IFLA_IFALIAS)),
        master=_number(found.get(IFLA_MASTER)),
        is_up=bool(flags & IFF_UP),
    )


def list_addresses(route: NetlinkSocket, index: int = 0) -> list[str]:
    """``172.17.0.1/16`` of one interface, or of all. Raises OSError."""
    found: list[str] = []
    for body in route.dump("list addresses", RTM_GETADDR, _IFADDR.pack(0, 0, 0, 0, 0)):
        family, prefix, _, _, owner = _IFADDR.unpack_from(body)
        if index and owner != index:
            continue
        values = parse_attributes(body[_IFADDR.size :])
        packed = values.get(IFA_LOCAL) or values.get(IFA_ADDRESS)
        if packed and family in (socket.AF_INET, socket.AF_INET6):
            found.append(f"{socket.inet_ntop(family, packed)}/{prefix}")
    return found


def list_routes(route: NetlinkSocket) -> list[str]:
    """Destinations of the main table's routes as networks, without the default routes. Raises OSError."""
    found: list[str] = []
    for body in route.dump("list routes", RTM_GETROUTE, _ROUTE.pack(0, 0, 0, 0, 0, 0, 0, 0, 0)):
        family, length, _, _, table = _ROUTE.unpack_from(body)[:5]
        packed = parse_attributes(body[_ROUTE.size :]).get(RTA_DST)
        if packed and length and table == RT_TABLE_MAIN and family in (socket.AF_INET, socket.AF_INET6):
            found.append(f"{socket.inet_ntop(family, packed)}/{length}")
    return found


def create_bridge(route: NetlinkSocket, name: str, *, mac: str, mtu: int = 0, alias: str = "") -> int:
    """A bridge, still down; answers its index. Raises OSError (EEXIST).

    The address is given so that it stays: a bridge without its own takes the lowest of its members',
    and changes whenever they do.
    """
    attributes = [
        attribute_text(IFLA_IFNAME, name),
        attribute(IFLA_ADDRESS, bytes.fromhex(mac.replace(":", ""))),
        nested(IFLA_LINKINFO, attribute(IFLA_INFO_KIND, b"bridge"), nested(IFLA_INFO_DATA)),
    ]
    if mtu:
        attributes.append(attribute_u32(IFLA_MTU, mtu))
    requests: list[Request] = [
        (f"create bridge {name}", RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, link_body(*attributes))
    ]
    route.execute(requests)
    index = socket.if_nametoindex(name)
    if alias:
        body = link_body(attribute(IFLA_IFALIAS, alias.encode()), index=index)
        route.execute([(f"name bridge {name}", RTM_NEWLINK, 0, body)])
    return index


def create_stand_in(route: NetlinkSocket, name: str, alias: str) -> None:
    """A device that leads nowhere (dummy), up. Raises OSError (EOPNOTSUPP: the kernel has none)."""
    info = nested(IFLA_LINKINFO, attribute(IFLA_INFO_KIND, b"dummy"))
    body = link_body(attribute_text(IFLA_IFNAME, name), info)
    route.execute([(f"create dummy device {name}", RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)])
    _finish(route, name, alias)


def create_cable(route: NetlinkSocket, name: str, other: str, *, mtu: int, alias: str) -> None:
    """A veth pair with both ends here, still down, without link-local addresses. Raises OSError (EEXIST)."""
    common = attribute_u32(IFLA_NUM_TX_QUEUES, 1) + attribute_u32(IFLA_NUM_RX_QUEUES, 1)
    common += attribute_u32(IFLA_MTU, mtu) if mtu else b""
    peer = link_body(attribute_text(IFLA_IFNAME, other), common)
    data = nested(IFLA_INFO_DATA, nested(VETH_INFO_PEER, peer))
    info = nested(IFLA_LINKINFO, attribute(IFLA_INFO_KIND, b"veth"), data)
    body = link_body(attribute_text(IFLA_IFNAME, name), common, info)
    route.execute([(f"create veth pair {name}", RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)])
    requests: list[Request] = []
    for end in (name, other):
        marked = link_body(attribute(IFLA_IFALIAS, alias.encode()), index=socket.if_nametoindex(end))
        requests += [(f"name {end}", RTM_NEWLINK, 0, marked), no_link_local_request(end)]
    route.execute(requests, tolerated=errno.EAFNOSUPPORT)


def create_vlan(route: NetlinkSocket, name: str, parent_index: int, vlan: int, alias: str) -> None:
    """The device of one VLAN (802.1Q) of another device, up. Raises OSError (EOPNOTSUPP, EEXIST)."""
    data = nested(IFLA_INFO_DATA, attribute(IFLA_VLAN_ID, vlan.to_bytes(2, "little")))
    info = nested(IFLA_LINKINFO, attribute(IFLA_INFO_KIND, b"vlan"), data)
    body = link_body(attribute_text(IFLA_IFNAME, name), attribute_u32(IFLA_LINK, parent_index), info)
    route.execute([(f"create VLAN device {name}", RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)])
    _finish(route, name, alias)


def _finish(route: NetlinkSocket, name: str, alias: str) -> None:
    """Mark a device that was just made, and set it up; it is gone again when that fails."""
    index = socket.if_nametoindex(name)
    marked = link_body(attribute(IFLA_IFALIAS, alias.encode()), index=index)
    try:
        route.execute([(f"name device {name}", RTM_NEWLINK, 0, marked)])
        set_up(route, name, index)
    except OSError:
        delete_link(route, name)
        raise


def set_up(route: NetlinkSocket, name: str, index: int) -> None:
    """Raises OSError."""
    route.execute([(f"set {name} up", RTM_NEWLINK, 0, link_body(index=index, flags=IFF_UP))])


def set_master(route: NetlinkSocket, name: str, bridge_index: int) -> None:
    """Make an interface a port of a bridge. Raises OSError."""
    body = link_body(
        attribute_text(IFLA_IFNAME, name), attribute_u32(IFLA_MASTER, bridge_index), flags=IFF_UP
    )
    route.execute([(f"put {name} into its bridge", RTM_NEWLINK, 0, body)])


def plug_again(route: NetlinkSocket, name: str, bridge_index: int) -> None:
    """Make a container's link a port of its bridge as :func:`.netlink.create_veth` had. Raises OSError."""
    set_master(route, name, bridge_index)
    if has_bridge_netfilter():
        route.execute([hairpin_request(name)])


def ensure_address(route: NetlinkSocket, name: str, index: int, address: str) -> None:
    """Raises OSError."""
    try:
        route.execute([address_request(name, index, address)])
    except OSError as error:
        if error.errno != errno.EEXIST:
            raise


def delete_address(route: NetlinkSocket, name: str, index: int, address: str) -> None:
    """Idempotent. Raises OSError."""
    _, _, _, body = address_request(name, index, address)
    try:
        route.execute([(f"delete address {address} of {name}", RTM_DELADDR, 0, body)])
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL:
            raise


def accept_loopback6(route: NetlinkSocket, name: str, index: int) -> None:
    """Let answers to ``::1`` come in through this interface once address translation has put it back as
    their destination: IPv6 has no route_localnet, and looks for ``::1`` strictly at the interface a packet
    came by. From the wire such packets stay refused, before any table (RFC 4291, 2.5.3). Raises OSError.
    """
    header = _ROUTE.pack(socket.AF_INET6, 128, 0, 0, RT_TABLE_LOCAL, RTPROT_BOOT, 0, RTN_LOCAL, 0)
    body = header + attribute(RTA_DST, socket.inet_pton(socket.AF_INET6, "::1"))
    # Behind the kernel's own route through lo, which has metric 0.
    body += attribute_u32(RTA_OIF, index) + attribute_u32(RTA_PRIORITY, 2048)
    try:
        route.execute([(f"accept ::1 at {name}", RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, body)])
    except OSError as error:
        if error.errno != errno.EEXIST:
            raise


def has_bridge_netfilter6() -> bool:
    """Whether br_netfilter shows bridged IPv6 packets to the firewall, before IP has seen them."""
    try:
        with open("/proc/sys/net/bridge/bridge-nf-call-ip6tables", encoding="ascii") as file:
            return file.read().strip() == "1"
    except FileNotFoundError:
        return False


def delete_link(route: NetlinkSocket, name: str) -> None:
    """Idempotent. Slow: waits for every user of the interface in the kernel. Raises OSError."""
    body = link_body(attribute_text(IFLA_IFNAME, name))
    try:
        route.execute([(f"delete {name}", RTM_DELLINK, 0, body)])
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise


def write_sysctl(name: str, value: str) -> None:
    """``net/ipv4/ip_forward``; written only when it differs. Raises OSError.

    /proc/sys/net shows the network namespace of the process that opens it.
    """
    path = f"/proc/sys/{name}"
    with open(path, encoding="ascii") as file:
        if file.read().strip() == value:
            return
    with open(path, "w", encoding="ascii") as file:
        file.write(value)


def has_ipv6() -> bool:
    """Whether the kernel has IPv6 at all (it can be compiled out or disabled at boot)."""
    return os.path.exists("/proc/sys/net/ipv6")


def _text(value: bytes | None) -> str:
    return (value or b"").rstrip(b"\0").decode(errors="replace")


def _number(value: bytes | None) -> int:
    return int(_U32.unpack(value)[0]) if value else 0
