"""Wall-clock time as clients see it: RFC 3339 in UTC with nanoseconds."""

from __future__ import annotations

import time
from datetime import UTC, datetime

ZERO_TIME = "0001-01-01T00:00:00Z"
"""What Docker sends for a moment that has not come yet (Go's zero time)."""


def now_ns() -> int:
    """Nanoseconds since the epoch."""
    return time.time_ns()


def format_ns(time_ns: int) -> str:
    """RFC 3339 with nanoseconds, trailing zeros dropped as Go's RFC3339Nano; 0 gives :data:`ZERO_TIME`."""
    if time_ns == 0:
        return ZERO_TIME
    seconds, nanos = divmod(time_ns, 1_000_000_000)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    fraction = f"{nanos:09d}".rstrip("0")
    return f"{text}.{fraction}Z" if fraction else f"{text}Z"


def parse_ns(text: str) -> int:
    """The inverse of :func:`format_ns`, any UTC offset accepted. Raises ValueError.

    ``datetime`` alone would cut the fraction to microseconds.
    """
    if text in ("", ZERO_TIME):
        return 0
    head, dot, tail = text.partition(".")
    nanos = 0
    if dot:
        digits = len(tail) - len(tail.lstrip("0123456789"))
        nanos = int(tail[:digits][:9].ljust(9, "0")) if digits else 0
        head += tail[digits:]
    moment = datetime.fromisoformat(head)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp()) * 1_000_000_000 + nanos
