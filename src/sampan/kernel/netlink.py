"""rtnetlink as containers need it: a veth pair into a network namespace, and its addresses and routes.

Sources: netlink(7), rtnetlink(7), veth(4); linux/rtnetlink.h, linux/if_link.h. Several messages travel
in one send; the kernel handles them in order within sendto(2), so the answers are there when it returns.
Only the last message asks for an acknowledgement: errors of the others are reported without asking.

A veth pair is never deleted here: it dies with its network namespace, in the kernel's own worker. A
synchronous RTM_DELLINK of one waits 20 ms for an RCU grace period under the lock of all interfaces.

Standard library only: runs in the process that becomes a container.
"""

from __future__ import annotations

import _socket as socket  # the Python half of it is 1 MB of heap in every process of the runtime
import errno
import os
from struct import Struct

Request = tuple[str, int, int, bytes]
"""What it does (for the error's text), message type, flags beside NLM_F_REQUEST, body."""

NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_APPEND = 0x800
NLM_F_DUMP = 0x300

NLMSG_ERROR = 2
NLMSG_DONE = 3
NLM_F_CAPPED = 0x100
NLM_F_ACK_TLVS = 0x200
NLMSGERR_ATTR_MSG = 1

MSG_DONTWAIT = 0x40
SOL_NETLINK = 270
NETLINK_ADD_MEMBERSHIP = 1
NETLINK_CAP_ACK = 10
NETLINK_EXT_ACK = 11
NETLINK_GET_STRICT_CHK = 12

NLA_F_NESTED = 0x8000
NLA_TYPE_MASK = 0x3FFF

RTM_NEWLINK = 16
RTM_NEWADDR = 20
RTM_NEWROUTE = 24
RTM_NEWNEIGH = 28

IFLA_ADDRESS = 1
IFLA_IFNAME = 3
IFLA_MTU = 4
IFLA_LINK = 5
IFLA_MASTER = 10
IFLA_LINKINFO = 18
IFLA_NET_NS_PID = 19
IFLA_AF_SPEC = 26
IFLA_NET_NS_FD = 28
IFLA_NUM_TX_QUEUES = 31
IFLA_NUM_RX_QUEUES = 32
IFLA_INFO_KIND = 1
IFLA_INFO_DATA = 2
IFLA_INFO_SLAVE_KIND = 4
IFLA_INFO_SLAVE_DATA = 5
IFLA_BRPORT_MODE = 4
VETH_INFO_PEER = 1
IFLA_MACVLAN_MODE = 1
IFLA_IPVLAN_MODE = 1
IFLA_IPVLAN_FLAGS = 2
IFLA_INET6_ADDR_GEN_MODE = 8
IN6_ADDR_GEN_MODE_NONE = 1

IFF_UP = 0x1

IFA_ADDRESS = 1
IFA_LOCAL = 2
IFA_BROADCAST = 4
IFA_FLAGS = 8
IFA_F_NODAD = 0x02
IFA_F_PERMANENT = 0x80

RTA_OIF = 4
RTA_GATEWAY = 5
RT_TABLE_MAIN = 254
RTPROT_BOOT = 3
RT_SCOPE_UNIVERSE = 0
RT_SCOPE_LINK = 253
RTN_UNICAST = 1

_HEADER = Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_ATTRIBUTE = Struct("=HH")  # nlattr: length, type
_IFINFO = Struct("=BxHiII")  # ifinfomsg: family, type, index, flags, change
_IFADDR = Struct("=BBBBI")  # ifaddrmsg: family, prefix length, flags, scope, index
_ROUTE = Struct("=BBBBBBBBI")  # rtmsg: family, dst, src, tos, table, protocol, scope, type, flags
_U32 = Struct("=I")
_U16 = Struct("=H")
_INT = Struct("=i")

_BRIDGE_NETFILTER = "/proc/sys/net/bridge/bridge-nf-call-iptables"  # there while br_netfilter is loaded

_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")


def attribute(kind: int, data: bytes) -> bytes:
    """One netlink attribute, padded to four bytes."""
    size = 4 + len(data)
    return _ATTRIBUTE.pack(size, kind) + data + _PADDING[size & 3]


def attribute_u32(kind: int, value: int) -> bytes:
    return _ATTRIBUTE.pack(8, kind) + _U32.pack(value)


def attribute_text(kind: int, text: str) -> bytes:
    return attribute(kind, text.encode() + b"\0")


def nested(kind: int, *parts: bytes) -> bytes:
    return attribute(kind | NLA_F_NESTED, b"".join(parts))


def parse_attributes(data: bytes) -> dict[int, bytes]:
    """Attributes by kind, flags removed; the last of several of one kind wins."""
    found: dict[int, bytes] = {}
    offset = 0
    while offset + 4 <= len(data):
        size, kind = _ATTRIBUTE.unpack_from(data, offset)
        if size < 4:
            break
        found[kind & NLA_TYPE_MASK] = data[offset + 4 : offset + size]
        offset += (size + 3) & ~3
    return found


def link_body(
    *attributes: bytes, index: int = 0, flags: int = 0, change: int | None = None, family: int = 0
) -> bytes:
    """The body of RTM_NEWLINK and its kin; ``change`` is the mask of ``flags``, by default the same."""
    header = _IFINFO.pack(family, 0, index, flags, flags if change is None else change)
    return header + b"".join(attributes)


def split_address(address: str) -> tuple[int, bytes, int]:
    """``172.17.0.2/16`` or ``fd00::2/64`` as (family, packed address, prefix length). Raises ValueError."""
    text, slash, prefix = address.partition("/")
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    try:
        packed = socket.inet_pton(family, text)
    except OSError as error:
        raise ValueError(f"not an IP address: {address!r}") from error
    return family, packed, int(prefix) if slash else len(packed) * 8


class NetlinkSocket:
    """A netlink socket of one protocol, in the network namespace of the thread that makes it."""

    __slots__ = ("_sequence", "_socket")

    def __init__(self, protocol: int = socket.NETLINK_ROUTE) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        try:
            # Say why in words (Linux 4.12), and do not send the request back with it (4.3).
            self._socket.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
            self._socket.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
        except OSError:
            self._socket.close()
            raise
        self._sequence = 1

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> NetlinkSocket:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def execute(self, requests: list[Request], acknowledged: int = -1, tolerated: int = 0) -> None:
        """Send all in one go; ``acknowledged`` is the index of the one whose acknowledgement is waited for,
        and errors of number ``tolerated`` are passed over.

        The first error is raised as OSError with what was being done; later requests have still been
        tried by the kernel (in a transaction of nf_tables nothing of it is done then).
        """
        first = self._sequence
        last = first + len(requests) - 1
        awaited = first + acknowledged % len(requests)
        self._sequence = last + 1
        parts: list[bytes] = []
        for number, (_, kind, flags, body) in enumerate(requests, first):
            flags |= NLM_F_REQUEST | (NLM_F_ACK if number == awaited else 0)
            parts.append(_HEADER.pack(16 + len(body), kind, flags, number, 0))
            parts.append(body)
            parts.append(_PADDING[len(body) & 3])
        self._socket.send(b"".join(parts))
        failure: OSError | None = None
        acknowledgement = False
        # Everything was answered within send(2); an empty queue is an answer too: a transaction refused
        # as a whole is reported for its first message alone.
        for kind, sequence, message in MessageReader(self._socket, MSG_DONTWAIT):
            if kind != NLMSG_ERROR or not first <= sequence <= last:
                continue
            refusal = error_of(message, requests[sequence - first][0])
            if refusal is not None and refusal.errno != tolerated:
                failure = failure or refusal
            acknowledgement = acknowledgement or sequence == awaited
        if failure is None and not acknowledgement:
            failure = OSError(errno.EIO, f"{requests[0][0]}: the kernel did not acknowledge it")
        if failure is not None:
            raise failure

    def get(self, what: str, kind: int, body: bytes) -> bytes:
        """The body of the one answer to a request. Raises OSError."""
        sequence = self._sequence
        self._sequence += 1
        self._socket.send(_HEADER.pack(16 + len(body), kind, NLM_F_REQUEST, sequence, 0) + body)
        for answer, number, message in MessageReader(self._socket, MSG_DONTWAIT):
            if number == sequence:
                if answer != NLMSG_ERROR:
                    return message[16:]
                raise error_of(message, what) or OSError(errno.EIO, what)
        raise OSError(errno.EIO, f"{what}: the kernel did not answer")

    def dump(self, what: str, kind: int, body: bytes) -> list[bytes]:
        """The bodies of all answers to a dump request. Raises OSError."""
        sequence = self._sequence
        self._sequence += 1
        flags = NLM_F_REQUEST | NLM_F_DUMP
        self._socket.send(_HEADER.pack(16 + len(body), kind, flags, sequence, 0) + body)
        bodies: list[bytes] = []
        for answer, number, message in MessageReader(self._socket):
            if number != sequence:
                continue
            if answer in (NLMSG_DONE, NLMSG_ERROR):
                failure = error_of(message, what)
                if failure is not None:
                    raise failure
                break
            bodies.append(message[16:])
        return bodies


class MessageReader:
    """Iterates over (type, sequence, whole message) of what the socket receives; with MSG_DONTWAIT in
    ``flags`` it ends when nothing is queued, else never."""

    __slots__ = ("_buffer", "_flags", "_offset", "_socket")

    def __init__(self, source: socket.socket, flags: int = 0) -> None:
        self._socket = source
        self._flags = flags
        self._buffer = b""
        self._offset = 0

    def __iter__(self) -> MessageReader:
        return self

    def __next__(self) -> tuple[int, int, bytes]:
        if self._offset >= len(self._buffer):
            try:
                # netlink_dump() fills at most 32 KiB at a time (Linux 4.4).
                self._buffer = self._socket.recv(65536, self._flags)
            except BlockingIOError:
                raise StopIteration from None
            self._offset = 0
        size, kind, _, sequence, _ = _HEADER.unpack_from(self._buffer, self._offset)
        message = self._buffer[self._offset : self._offset + size]
        self._offset += (size + 3) & ~3
        return kind, sequence, message


def error_of(message: bytes, what: str) -> OSError | None:
    """What an NLMSG_ERROR (or NLMSG_DONE) says; None for success."""
    code = -int(_INT.unpack_from(message, 16)[0]) if len(message) >= 20 else 0
    if code == 0:
        return None
    flags = _HEADER.unpack_from(message)[2]
    reason = os.strerror(code)
    if flags & NLM_F_ACK_TLVS:
        copied = 36 if flags & NLM_F_CAPPED else 20 + _U32.unpack_from(message, 20)[0]
        text = parse_attributes(message[copied:]).get(NLMSGERR_ATTR_MSG)
        if text:
            reason = f"{reason} ({text.rstrip(bytes(1)).decode(errors='replace')})"
    return OSError(code, f"{what}: {reason}")


def create_veth(
    host_name: str,
    peer_name: str,
    *,
    master_index: int = 0,
    mtu: int = 0,
    peer_mac: str = "",
    peer_pid: int = 0,
    peer_ns_fd: int = -1,
    route: NetlinkSocket | None = None,
) -> None:
    """Make a veth pair: the host end up and in its bridge, the other end, still down, as ``peer_name`` in
    the network namespace of ``peer_pid`` (or ``peer_ns_fd``). Raises OSError.

    ``route`` is a socket of the host's namespace to use again; by default one is made. The link becomes
    running when :func:`configure_inside` sets the other end up.
    """
    # The kernel's default is a queue for each possible CPU, each with its directories in sysfs; without
    # XDP none but the first is used.
    common = attribute_u32(IFLA_NUM_TX_QUEUES, 1) + attribute_u32(IFLA_NUM_RX_QUEUES, 1)
    if mtu:
        common += attribute_u32(IFLA_MTU, mtu)
    if peer_ns_fd >= 0:
        namespace = attribute_u32(IFLA_NET_NS_FD, peer_ns_fd)
    elif peer_pid:
        namespace = attribute_u32(IFLA_NET_NS_PID, peer_pid)
    else:
        raise ValueError("a veth pair needs the other end's namespace")
    mac = attribute(IFLA_ADDRESS, bytes.fromhex(peer_mac.replace(":", ""))) if peer_mac else b""
    peer = link_body(attribute_text(IFLA_IFNAME, peer_name), common, mac, namespace)
    named = attribute_text(IFLA_IFNAME, host_name)
    master = attribute_u32(IFLA_MASTER, master_index) if master_index else b""
    kind = attribute(IFLA_INFO_KIND, b"veth")
    info = nested(IFLA_LINKINFO, kind, nested(IFLA_INFO_DATA, nested(VETH_INFO_PEER, peer)))
    body = link_body(named, common, master, info)
    requests = [(f"create veth pair {host_name}", RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)]
    if master_index:
        requests.append(no_link_local_request(host_name))
        if has_bridge_netfilter():
            requests.append(hairpin_request(host_name))
    requests.append((f"set {host_name} up", RTM_NEWLINK, 0, link_body(named, flags=IFF_UP)))
    if route is not None:
        route.execute(requests, tolerated=errno.EAFNOSUPPORT)
        return
    with NetlinkSocket() as own:
        own.execute(requests, tolerated=errno.EAFNOSUPPORT)


MACVLAN_MODES = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}
"""linux/if_link.h, enum macvlan_mode."""
IPVLAN_MODES = {"l2": 0, "l3": 1, "l3s": 2}
IPVLAN_FLAGS = {"bridge": 0, "private": 1, "vepa": 2}


def create_part(
    kind: str,
    name: str,
    *,
    parent_index: int,
    mode: str = "",
    mac: str = "",
    mtu: int = 0,
    pid: int = 0,
    namespace_fd: int = -1,
    route: NetlinkSocket,
) -> None:
    """A macvlan or ipvlan interface of the host's device ``parent_index``, still down, in another network
    namespace. ``mode`` of an ipvlan may end with a flag, ``l2 private``. Raises OSError (EOPNOTSUPP: the
    kernel has no such kind)."""
    if kind == "macvlan":
        data = attribute_u32(IFLA_MACVLAN_MODE, MACVLAN_MODES[mode or "bridge"])
    else:
        layer, _, flag = mode.partition(" ")
        data = attribute(IFLA_IPVLAN_MODE, _U16.pack(IPVLAN_MODES[layer or "l2"]))
        data += attribute(IFLA_IPVLAN_FLAGS, _U16.pack(IPVLAN_FLAGS[flag or "bridge"]))
    body = attribute_text(IFLA_IFNAME, name) + attribute_u32(IFLA_LINK, parent_index)
    body += (
        attribute_u32(IFLA_NET_NS_FD, namespace_fd)
        if namespace_fd >= 0
        else attribute_u32(IFLA_NET_NS_PID, pid)
    )
    if mtu:
        body += attribute_u32(IFLA_MTU, mtu)
    if mac and kind == "macvlan":
        body += attribute(IFLA_ADDRESS, bytes.fromhex(mac.replace(":", "")))
    info = nested(IFLA_LINKINFO, attribute(IFLA_INFO_KIND, kind.encode()), nested(IFLA_INFO_DATA, data))
    what = f"create {kind} interface {name}"
    route.execute([(what, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, link_body(body, info))])


def create_interface(
    kind: str,
    parent: str,
    host_name: str,
    name: str,
    mac: str,
    mtu: int,
    mode: str,
    *,
    parent_index: int,
    pid: int = 0,
    namespace_fd: int = -1,
    route: NetlinkSocket | None = None,
) -> None:
    """A container's interface (model.launch.Interface), still down, in the namespace of ``pid`` or
    ``namespace_fd``; a part of a device is called ``host_name`` until :func:`rename_link` has been there.
    ``parent_index`` is that of ``parent``; ``route`` a socket of the host's namespace."""
    if kind == "veth":
        create_veth(
            host_name,
            name,
            master_index=parent_index,
            mtu=mtu,
            peer_mac=mac,
            peer_pid=pid,
            peer_ns_fd=namespace_fd,
            route=route,
        )
        return
    own = route or NetlinkSocket()
    try:
        create_part(
            kind, host_name, parent_index=parent_index, mode=mode, mac=mac, mtu=mtu, pid=pid,
            namespace_fd=namespace_fd, route=own,
        )  # fmt: skip
    except OSError as error:
        error.filename = f"{kind} of {parent}"
        raise
    finally:
        if route is None:
            own.close()


def has_bridge_netfilter() -> bool:
    """Whether the module is loaded; its switches may be off."""
    return os.access(_BRIDGE_NETFILTER, os.F_OK)


def rename_link(old: str, new: str) -> None:
    """An interface, still down, of the calling thread's namespace. Before Linux 6.15 parts of a device are
    made in its namespace and moved, and must not have the name of another interface there. Raises OSError."""
    body = link_body(attribute_text(IFLA_IFNAME, new), index=socket.if_nametoindex(old))
    with NetlinkSocket() as route:
        route.execute([(f"rename {old} to {new}", RTM_NEWLINK, 0, body)])


def hairpin_request(name: str) -> Request:
    """Let a bridge send a frame back through the port it came from: with br_netfilter a container's call
    to its own published port is turned around within the bridge. The port must be in its bridge already."""
    mode = attribute(IFLA_BRPORT_MODE, b"\1")
    info = nested(
        IFLA_LINKINFO, attribute(IFLA_INFO_SLAVE_KIND, b"bridge"), nested(IFLA_INFO_SLAVE_DATA, mode)
    )
    return (f"set hairpin mode of {name}", RTM_NEWLINK, 0, link_body(attribute_text(IFLA_IFNAME, name), info))


def configure_inside(
    name: str,
    addresses: list[str],
    gateway4: str = "",
    gateway6: str = "",
    *,
    route: NetlinkSocket | None = None,
) -> None:
    """In the network namespace of the calling thread: loopback up, and interface ``name`` up with its
    ``addresses`` (``172.17.0.2/16``, ``fd00::2/64``) and default routes. Raises OSError.

    Without an IPv6 address the interface gets no link-local one either, as in Docker Engine, and the
    kernel sends no router solicitations for it.
    """
    index = socket.if_nametoindex(name)
    requests = [loopback_request()]
    has_ipv6 = any(":" in address for address in addresses)
    if not has_ipv6:
        requests.append(no_link_local_request(name))
    up = link_body(index=index, flags=IFF_UP)
    requests.append((f"set {name} up", RTM_NEWLINK, 0, up))
    requests.extend(address_request(name, index, address) for address in addresses)
    for gateway, family in ((gateway4, socket.AF_INET), (gateway6, socket.AF_INET6)):
        if gateway == "dev":
            requests.append(device_route_request(f"add default route through {name}", family, index))
        elif gateway:
            requests.append(route_request(f"add default route via {gateway}", "", gateway, index))
    if route is not None:
        route.execute(requests, tolerated=errno.EAFNOSUPPORT)
        return
    with NetlinkSocket() as own:
        own.execute(requests, tolerated=errno.EAFNOSUPPORT)


def set_loopback_up() -> None:
    """For a namespace that has no other interface (``--network none``). Raises OSError."""
    with NetlinkSocket() as route:
        route.execute([loopback_request()])


def loopback_request() -> Request:
    return ("set lo up", RTM_NEWLINK, 0, link_body(index=1, flags=IFF_UP))  # LOOPBACK_IFINDEX


def no_link_local_request(name: str) -> Request:
    """No IPv6 address of its own making for an interface (and no announcements of it). Must come before
    the interface is up. Answered with EAFNOSUPPORT where there is no IPv6, or too small an MTU for it."""
    mode = attribute(IFLA_INET6_ADDR_GEN_MODE, bytes([IN6_ADDR_GEN_MODE_NONE]))
    spec = nested(IFLA_AF_SPEC, nested(socket.AF_INET6, mode))
    body = link_body(attribute_text(IFLA_IFNAME, name), spec)
    return (f"keep {name} without link-local address", RTM_NEWLINK, 0, body)


def address_request(name: str, index: int, address: str) -> Request:
    """RTM_NEWADDR for ``address`` with its prefix length; an IPv6 one is usable at once (no DAD)."""
    family, packed, prefix = split_address(address)
    body = _IFADDR.pack(family, prefix, 0, RT_SCOPE_UNIVERSE, index) + attribute(IFA_LOCAL, packed)
    body += attribute(IFA_ADDRESS, packed)
    if family == socket.AF_INET6:
        body += attribute_u32(IFA_FLAGS, IFA_F_NODAD | IFA_F_PERMANENT)
    elif prefix < 31:
        host_bits = (1 << (32 - prefix)) - 1
        body += attribute(IFA_BROADCAST, (int.from_bytes(packed, "big") | host_bits).to_bytes(4, "big"))
    return (f"add address {address} to {name}", RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, body)


def device_route_request(
    what: str, family: int, index: int, flags: int = NLM_F_CREATE | NLM_F_EXCL
) -> Request:
    """The default route through interface ``index`` itself."""
    header = _ROUTE.pack(family, 0, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, RT_SCOPE_LINK, RTN_UNICAST, 0)
    return (what, RTM_NEWROUTE, flags, header + attribute_u32(RTA_OIF, index))


def route_request(
    what: str, destination: str, gateway: str, index: int, flags: int = NLM_F_CREATE | NLM_F_EXCL
) -> Request:
    """RTM_NEWROUTE by ``gateway`` through interface ``index`` (0: the one that reaches it); an empty
    destination is the default."""
    family, packed, _ = split_address(gateway)
    length, target = 0, b""
    if destination:
        _, network, length = split_address(destination)
        target = attribute(1, network)  # RTA_DST
    header = _ROUTE.pack(family, length, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, RT_SCOPE_UNIVERSE, RTN_UNICAST, 0)
    body = header + target + attribute(RTA_GATEWAY, packed)
    if index:
        body += attribute_u32(RTA_OIF, index)
    return (what, RTM_NEWROUTE, flags, body)
