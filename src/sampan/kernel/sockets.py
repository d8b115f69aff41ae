"""Socket options that the standard library has no name for."""

from __future__ import annotations

import ctypes
import socket
from struct import Struct

SO_ATTACH_FILTER = 26
_SOCK_FILTER = Struct("=HBBI")
_SOCK_FPROG = Struct("@HP")
_BPF_RET_K = 0x06

_DROP_ALL = ctypes.create_string_buffer(_SOCK_FILTER.pack(_BPF_RET_K, 0, 0, 0))


def drop_input(target: socket.socket) -> None:
    """Let the kernel drop everything that arrives at the socket (socket(7), a filter that returns 0).

    Raises OSError.
    """
    program = _SOCK_FPROG.pack(1, ctypes.addressof(_DROP_ALL))
    target.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
