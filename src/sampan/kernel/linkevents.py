"""Interfaces of the host that are deleted, set down or lose an address (rtnetlink(7)).

Standard library only.
"""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Sequence
from struct import Struct

from .netlink import IFF_UP, MSG_DONTWAIT, RTM_NEWLINK, MessageReader
from .sockets import attach_filter

_GROUPS = 0x1 | 0x10 | 0x100  # RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR
_RTM_NEWADDR = 20
_INDEX_AT = 20
"""In ifinfomsg and ifaddrmsg alike, behind the header of 16 bytes."""
_FLAGS_AT = 24
_FLAGS = Struct("=I")
_LOAD_WORD, _JUMP_EQUAL, _RETURN = (
    0x20,
    0x15,
    0x06,
)  # BPF_LD|BPF_W|BPF_ABS, BPF_JMP|BPF_JEQ|BPF_K, BPF_RET|BPF_K
MOST = 1000


class LinkChanges:
    """Tells that something has changed, not what: whoever asks looks for himself."""

    def __init__(self) -> None:
        """Of no interface yet. Raises OSError."""
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
        try:
            self.watch_only([])
            self._socket.bind((0, _GROUPS))
        except OSError:
            self._socket.close()
            raise

    def watch_only(self, indexes: Sequence[int]) -> None:
        """Of these interfaces alone: the kernel drops the rest, so that the containers' own links, which
        come and go, wake nobody. Of more than MOST the last are not watched. Raises OSError."""
        attach_filter(self._socket, filter_of(indexes[:MOST]))

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def happened(self) -> bool:
        """Whether one of them was deleted or set down, or an address taken away, since the last call."""
        found = False
        try:
            for kind, _, message in MessageReader(self._socket, MSG_DONTWAIT):
                is_up = kind == RTM_NEWLINK and _FLAGS.unpack_from(message, _FLAGS_AT)[0] & IFF_UP
                found = found or (kind != _RTM_NEWADDR and not is_up)
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            return True  # more than the socket's buffer takes
        return found


def filter_of(indexes: Sequence[int]) -> list[tuple[int, int, int, int]]:
    """A socket filter (code, jump if true, jump if false, k) that passes messages about these interfaces."""
    program = [(_LOAD_WORD, 0, 0, _INDEX_AT)]
    for index in indexes:
        # the filter reads in network order what the kernel wrote in its own; a jump is at most 255 long
        number = index if sys.byteorder == "big" else int.from_bytes(index.to_bytes(4, "little"), "big")
        program += [(_JUMP_EQUAL, 0, 1, number), (_RETURN, 0, 0, 0xFFFFFFFF)]
    return [*program, (_RETURN, 0, 0, 0)]
