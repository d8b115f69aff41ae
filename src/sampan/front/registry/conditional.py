"""Conditional requests (RFC 9110, 13) and ranges (14) of content that its digest names."""

from __future__ import annotations

import re
from typing import NamedTuple

from sampan.registry.errors import RangeInvalid

from .call import Call

_RANGE = re.compile(r"bytes=\s*([0-9]{0,19})\s*-\s*([0-9]{0,19})\s*")


class Span(NamedTuple):
    """Bytes from ``start`` to before ``end``."""

    start: int
    end: int


def etags(header: str) -> tuple[str, ...]:
    """Digests, or ``*``; weak ones count as well, as the content is the digest's."""
    if not header:
        return ()
    return tuple(one.strip().removeprefix("W/").strip('"') for one in header.split(","))


def not_modified(call: Call, digest: str) -> bool:
    """Whether the client has it already."""
    known = etags(call.header("If-None-Match"))
    return "*" in known or digest in known


def wanted_span(call: Call, digest: str, size_bytes: int) -> Span | None:
    """The part that is asked for; None: all of it, also when several parts are asked for (as 14.2 allows).

    Raises RangeInvalid.
    """
    header = call.header("Range")
    if not header or call.request.method != "GET":
        return None
    found = _RANGE.fullmatch(header)
    if found is None or found.groups() == ("", ""):
        return None
    if_range = call.header("If-Range")
    if if_range and digest not in etags(if_range):
        return None
    first, last = found.groups()
    if not first:
        start, end = max(0, size_bytes - int(last)), size_bytes
    else:
        start = int(first)
        end = min(int(last) + 1, size_bytes) if last else size_bytes
    if start >= end:
        raise RangeInvalid(f"range {header[:80]!r} of {size_bytes} bytes is not there", size_bytes)
    return Span(start, end)
