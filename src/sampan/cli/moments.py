"""``--since`` and ``--until``: moments and times ago, as the API wants them."""

from __future__ import annotations

import time

from sampan.cli.failure import Failure
from sampan.cli.units import parse_duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.options import Values


def moment(text: str) -> str:
    """``SECONDS[.NANOSECONDS]`` since the epoch of a number of those, a duration ago, or an RFC 3339 time
    (local when it names no zone, and shortened from the right as one likes). Raises ValueError."""
    if not text.strip("0123456789."):
        return text
    try:
        ago = parse_duration(text)
    except ValueError:
        return _of_date(text)
    seconds, nanos = divmod(time.time_ns() - ago, 1_000_000_000)
    return f"{seconds}.{nanos:09d}"


def moment_option(values: Values, name: str) -> list[tuple[str, str]]:
    """The query of ``--since`` or ``--until``, nothing when it was not given. Raises Failure."""
    text = values.text(name)
    if not text:
        return []
    try:
        return [(name, moment(text))]
    except ValueError:
        raise Failure(
            f'invalid value for "{name}": failed to parse value as time or duration: "{text}"\n'
            "Use a duration such as 42m, or a time such as 2026-01-02T13:23:37Z."
        ) from None


def go_time(text: str) -> str:
    """An RFC 3339 time of the API as Go prints it: ``2026-01-02 13:23:37.5 +0000 UTC``."""
    from sampan.cli.containerview import local_time

    seconds, _, nanos = _of_date(text).partition(".")
    return local_time(int(seconds), int(nanos))


def _of_date(text: str) -> str:
    from datetime import datetime

    head, _, tail = text.partition(".")
    digits = tail[: len(tail) - len(tail.lstrip("0123456789"))]
    whole = head + tail[len(digits) :]
    if "T" in whole and ":" not in whole.partition("T")[2]:
        whole += ":00"
    try:
        parsed = datetime.fromisoformat(whole)
    except ValueError:
        raise ValueError(text) from None
    return f"{int(parsed.timestamp())}.{digits[:9].ljust(9, '0')}"
