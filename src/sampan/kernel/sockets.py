"""Socket options that the standard library has no name for."""

from __future__ import annotations

import ctypes
import socket
from collections.abc import Sequence
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


def attach_filter(target: socket.socket, instructions: Sequence[tuple[int, int, int, int]]) -> None:
    """Let the kernel drop what a classic BPF program returns 0 for, in place of an earlier one. Each
    instruction is (code, jump if true, jump if false, k) as in linux/filter.h. Raises OSError."""
    packed = ctypes.create_string_buffer(b"".join(_SOCK_FILTER.pack(*one) for one in instructions))
    program = _SOCK_FPROG.pack(len(instructions), ctypes.addressof(packed))
    target.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
