"""Layers as gzip, the same bytes from the same plain bytes each time.

A comment in the header (RFC 1952 2.3.1) says who packed it and how, so that a blob that comes back from a
registry can be told from others that cannot be made again.
"""

from __future__ import annotations

import platform
import struct

import isal
from isal import isal_zlib

_LEVEL = 2
_PIECE = 1 << 20
"""What the compressor gets at once: its output depends on it."""
_MARK = b"sampan 1\0"
_HEADER = b"\x1f\x8b\x08\x10\0\0\0\0\0\xff" + _MARK
"""Deflate, a comment follows; no time, unknown system."""

_INSTRUCTIONS = frozenset(
    ("sse4_1", "sse4_2", "pclmulqdq", "avx", "avx2", "avx512f", "avx512vl", "crc32", "pmull")
)


def _processor() -> str:
    """What of the processor isal chooses its code by; Linux names it in the same words for both kinds."""
    with open("/proc/cpuinfo") as file:
        for line in file:
            name, _, words = line.partition(":")
            if name.strip() in ("flags", "Features"):
                return " ".join(sorted(_INSTRUCTIONS.intersection(words.split())))
    return ""


CODEC = f"isal {isal.__version__} level {_LEVEL} on {platform.machine()} {_processor()}".rstrip()
"""Another version, or other code for another processor, may pack otherwise."""


class Packer:
    """Plain bytes in, gzip out. Raises nothing."""

    def __init__(self) -> None:
        self._deflate = isal_zlib.compressobj(_LEVEL, wbits=-15)
        self._checksum = 0
        self._length = 0
        self._rest: list[bytes] = []
        self._rest_length = 0
        self._started = False

    def pack(self, data: bytes) -> bytes:
        """What is ready of the packed bytes, perhaps none."""
        self._checksum = isal_zlib.crc32(data, self._checksum)
        self._length += len(data)
        self._rest.append(data)
        self._rest_length += len(data)
        if self._rest_length < _PIECE:
            return b""
        joined = b"".join(self._rest) if len(self._rest) > 1 else data
        whole = len(joined) // _PIECE * _PIECE
        view = memoryview(joined)
        out = [self._begin()]
        out += [self._deflate.compress(view[start : start + _PIECE]) for start in range(0, whole, _PIECE)]
        self._rest = [joined[whole:]]
        self._rest_length = len(joined) - whole
        return b"".join(out)

    def finish(self) -> bytes:
        """The last bytes."""
        out = [self._begin(), self._deflate.compress(b"".join(self._rest)), self._deflate.flush()]
        out.append(struct.pack("<II", self._checksum, self._length & 0xFFFFFFFF))
        return b"".join(out)

    def _begin(self) -> bytes:
        started, self._started = self._started, True
        return b"" if started else _HEADER


def is_ours(head: bytes) -> bool:
    """Whether a blob that begins with these 32 bytes or more says that it was packed here."""
    return head.startswith(_HEADER)
