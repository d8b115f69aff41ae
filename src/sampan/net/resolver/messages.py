"""What the daemon and the monitors tell the name server, one JSON object for each packet.

::

    {"do": "begin"}                          from here on everything is said again ...
    {"do": "network", "network": id, "name": text}
    {"do": "drop", "network": id}
    {"do": "join", "network": id, "endpoint": id, "names": [...], "address4": text, "address6": text,
     "healthy": bool}
    {"do": "leave", "network": id, "endpoint": id}
    {"do": "view", "container": id, "networks": [...], "aliases": {...}, "servers": [...],
     "own_servers": bool, "forwards": bool, "egress": [{"table": text, "address4": text, "address6": text,
     "names": [[name, [protocol numbers], [first port, last port]], ...]}, ...]}
    {"do": "forget", "container": id}
    {"do": "commit"}                         ... and what was not, is no more; what was
                                             learnt for "egress" is put into nft's sets again
    {"do": "serve", "container": id}         with a pidfd; answered by {} or {"error": text}
    {"do": "status"}                         answered by {"version": text, "sandboxes": [ids], "networks": n}
    {"do": "stop"}

Standard library only.
"""

from __future__ import annotations

import json
import socket
from typing import Any

LARGEST = 1 << 17
Message = dict[str, Any]


class BadMessage(ValueError):
    """Not one of the above."""


def encode(message: Message) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode()


def decode(data: bytes) -> Message:
    """Raises BadMessage."""
    try:
        message = json.loads(data)
    except ValueError as error:
        raise BadMessage(str(error)) from error
    if not isinstance(message, dict):
        raise BadMessage("not an object")
    return message


def receive(connection: socket.socket) -> tuple[bytes, list[int]]:
    """One packet and the descriptors that came with it; b"" at the end. Raises BlockingIOError, OSError."""
    data, fds, _, _ = socket.recv_fds(connection, LARGEST, 4)
    return data, list(fds)
