"""Docker's multiplexed stream: each piece of output under eight bytes, ``{stream, 0, 0, 0, length}`` with
the length big-endian. stdin is 0 (never sent), stdout 1, stderr 2, and 3 is an error of the daemon's."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

STDOUT = 1
STDERR = 2
SYSTEM_ERROR = 3
HEADER_BYTES = 8

_HEADER = struct.Struct(">BxxxI")
_SHORT = 1024


def _headers(stream: int) -> tuple[bytes, ...]:
    return tuple(_HEADER.pack(stream, length) for length in range(_SHORT))


_SHORT_HEADERS = {STDOUT: _headers(STDOUT), STDERR: _headers(STDERR)}
"""Log lines are short and there are millions of them."""


def header(stream: int, length: int) -> bytes:
    return _HEADER.pack(stream, length)


def frame(stream: int, payload: bytes) -> bytes:
    return _HEADER.pack(stream, len(payload)) + payload


def frame_each(stream: int, payloads: Sequence[bytes]) -> bytes:
    """One frame for each payload, all of one stream: clients count on a log line being a frame."""
    short = _SHORT_HEADERS[stream]
    parts = [b""] * (2 * len(payloads))
    parts[1::2] = payloads
    parts[::2] = [
        short[length] if length < _SHORT else _HEADER.pack(stream, length) for length in map(len, payloads)
    ]
    return b"".join(parts)


def split(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Stream and payload of each whole frame. Raises ValueError when the last one is cut off."""
    position = 0
    while position < len(data):
        if len(data) - position < HEADER_BYTES:
            raise ValueError("the multiplexed stream ends inside a header")
        stream, length = _HEADER.unpack_from(data, position)
        position += HEADER_BYTES
        if len(data) - position < length:
            raise ValueError("the multiplexed stream ends inside a frame")
        yield stream, data[position : position + length]
        position += length
