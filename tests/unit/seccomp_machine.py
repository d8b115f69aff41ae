"""A machine for seccomp's classic BPF, enough for the instructions that filters use."""

from __future__ import annotations

import struct

ARCH = {"x86_64": 0xC000003E, "x86": 0x40000003, "aarch64": 0xC00000B7, "arm": 0x40000028}


def run(program: bytes, arch: int, number: int, args: tuple[int, ...] = ()) -> int:
    """The SECCOMP_RET_* value for one call. ValueError for what the kernel's verifier would refuse."""
    data = struct.pack("<II Q 6Q", number & 0xFFFFFFFF, arch, 0, *(*args, *(0,) * (6 - len(args))))
    code = list(struct.iter_unpack("<HBBI", program))
    accumulator, position = 0, 0
    while position < len(code):
        operation, when_true, when_false, k = code[position]
        position += 1
        if operation == 0x20:
            accumulator = struct.unpack_from("<I", data, k)[0]
        elif operation == 0x54:
            accumulator &= k
        elif operation == 0x06:
            return k
        elif operation == 0x05:
            position += k
        elif operation in (0x15, 0x25, 0x35):
            holds = {0x15: accumulator == k, 0x25: accumulator > k, 0x35: accumulator >= k}[operation]
            position += when_true if holds else when_false
        else:
            raise ValueError(f"unknown instruction {operation:#x}")
    raise ValueError("fell off the end of the program")
