"""The sockets of a process's network namespace, from /proc (proc(5): /proc/<pid>/net/tcp and its like).

Standard library only.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import NamedTuple

CONNECTED = "connected"
LISTENING = "listening"
"""TCP that listens; UDP that is bound and takes datagrams of anybody."""
OTHER = "other"

# linux/net/tcp_states.h; a UDP socket without a peer has TCP_CLOSE
_STATES = {
    ("tcp", "01"): CONNECTED,
    ("tcp", "0A"): LISTENING,
    ("udp", "01"): CONNECTED,
    ("udp", "07"): LISTENING,
}


class Socket(NamedTuple):
    protocol: str
    """tcp or udp."""
    address: str
    port: int
    peer: str
    """``0.0.0.0`` or ``::`` where there is none."""
    peer_port: int
    state: str


def list_sockets(pid: int | str = "self") -> list[Socket]:
    """TCP and UDP of both address families. Raises FileNotFoundError when the process has ended."""
    found: list[Socket] = []
    for protocol in ("tcp", "udp"):
        for suffix in ("", "6"):
            try:
                with open(f"/proc/{pid}/net/{protocol}{suffix}", encoding="ascii") as file:
                    found.extend(read_sockets(protocol, file))
            except FileNotFoundError:
                if not suffix:
                    raise
                continue  # a kernel without IPv6
    return found


def read_sockets(protocol: str, lines: Iterable[str]) -> Iterable[Socket]:
    """The rows below the heading."""
    for line in lines:
        fields = line.split()
        if len(fields) < 4 or not fields[0].endswith(":"):
            continue
        address, port = _endpoint(fields[1])
        peer, peer_port = _endpoint(fields[2])
        yield Socket(protocol, address, port, peer, peer_port, _STATES.get((protocol, fields[3]), OTHER))


def _endpoint(text: str) -> tuple[str, int]:
    """``0100007F:0050``: words of 32 bits in the host's order, here as little endian machines print them."""
    packed, _, port = text.partition(":")
    raw = bytes.fromhex(packed)
    ordered = b"".join(raw[place : place + 4][::-1] for place in range(0, len(raw), 4))
    address = ipaddress.ip_address(ordered)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address), int(port, 16)
