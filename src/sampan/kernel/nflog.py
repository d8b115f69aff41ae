"""Packets that a rule of nf_tables has logged to a group (``log group N``), read as they come.

Sources: linux/netfilter/nfnetlink_log.h. The kernel copies the first bytes of each, which hold the headers.
Standard library only.
"""

from __future__ import annotations

import errno
import socket
from struct import Struct
from typing import NamedTuple

from .netlink import MSG_DONTWAIT, MessageReader, attribute, error_of, parse_attributes

NETLINK_NETFILTER = 12
_SUBSYSTEM = 4 << 8  # NFNL_SUBSYS_ULOG
NFULNL_MSG_PACKET = _SUBSYSTEM | 0
NFULNL_MSG_CONFIG = _SUBSYSTEM | 1
NFULA_CFG_CMD = 1
NFULA_CFG_MODE = 2
NFULA_CFG_QTHRESH = 5
NFULNL_CFG_CMD_BIND = 1
NFULNL_COPY_PACKET = 2
NFULA_PAYLOAD = 9
NFULA_PREFIX = 10

_HEADER = Struct("=IHHII")
_NFGENMSG = Struct(">BBH")
_MODE = Struct(">IBB")
_U32_BE = Struct(">I")
_PORTS = Struct(">HH")
_COPIED = 128
_REQUEST_ACK = 0x5
_NLMSG_ERROR = 2
_WITH_PORTS = (socket.IPPROTO_TCP, socket.IPPROTO_UDP, socket.IPPROTO_SCTP)


class Packet(NamedTuple):
    """What its headers say."""

    source: str
    destination: str
    protocol: int
    port: int
    """Of the destination; 0 where the protocol has none, or the headers are longer than what was copied."""


class PacketLog:
    """Of one group, in the network namespace of the thread that makes it."""

    def __init__(self, group: int) -> None:
        """Raises OSError: EBUSY when another program listens to the group."""
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_NETLINK, kind, NETLINK_NETFILTER)
        try:
            self._socket.bind((0, 0))
            # one packet a message, so that none waits for others
            self._configure(group, attribute(NFULA_CFG_CMD, bytes((NFULNL_CFG_CMD_BIND,))))
            mode = attribute(NFULA_CFG_MODE, _MODE.pack(_COPIED, NFULNL_COPY_PACKET, 0))
            self._configure(group, mode + attribute(NFULA_CFG_QTHRESH, _U32_BE.pack(1)))
        except OSError:
            self._socket.close()
            raise

    def _configure(self, group: int, attributes: bytes) -> None:
        body = _NFGENMSG.pack(socket.AF_UNSPEC, 0, group) + attributes
        self._socket.send(_HEADER.pack(16 + len(body), NFULNL_MSG_CONFIG, _REQUEST_ACK, 1, 0) + body)
        for kind, _, message in MessageReader(self._socket, MSG_DONTWAIT):
            if kind == _NLMSG_ERROR:
                failure = error_of(message, f"listen to log group {group}")
                if failure is not None:
                    raise failure

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def read(self, prefix: str) -> list[Packet]:
        """What has been logged with this prefix since the last call; what did not fit is lost."""
        found: list[Packet] = []
        try:
            for kind, _, message in MessageReader(self._socket, MSG_DONTWAIT):
                if kind == NFULNL_MSG_PACKET:
                    attributes = parse_attributes(message[20:])
                    named = attributes.get(NFULA_PREFIX, b"").rstrip(b"\0").decode(errors="replace")
                    packet = read_packet(attributes.get(NFULA_PAYLOAD, b""))
                    if named == prefix and packet is not None:
                        found.append(packet)
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
        return found


def read_packet(data: bytes) -> Packet | None:
    """The headers of an IP packet; None for what is none."""
    version = data[0] >> 4 if data else 0
    if version == 4 and len(data) >= 20:
        size, protocol, family, start, width = (data[0] & 0xF) * 4, data[9], socket.AF_INET, 12, 4
    elif version == 6 and len(data) >= 40:
        size, protocol, family, start, width = 40, data[6], socket.AF_INET6, 8, 16
    else:
        return None
    ends = [socket.inet_ntop(family, data[at : at + width]) for at in (start, start + width)]
    port = 0
    if protocol in _WITH_PORTS and len(data) >= size + _PORTS.size:
        port = _PORTS.unpack_from(data, size)[1]
    return Packet(ends[0], ends[1], protocol, port)
