"""Filters of list, events and prune: decoded maps of key to values, with Docker's ways of matching."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from sampan.base.clock import parse_ns
from sampan.base.errors import InvalidArgument
from sampan.formats.durations import UNIT_NS


class InvalidFilter(InvalidArgument):
    """A key that the listing does not know, or a value it cannot read."""


class Filters:
    """``{"status": ["running", "paused"]}``: keys all have to agree, values are alternatives."""

    def __init__(self, values: Mapping[str, Sequence[str]]) -> None:
        self._values = values

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def __bool__(self) -> bool:
        return bool(self._values)

    def get(self, key: str) -> Sequence[str]:
        return self._values.get(key, ())

    def require_known(self, accepted: Iterable[str]) -> None:
        """Raises InvalidFilter with Docker's text for the first unknown key."""
        known = set(accepted)
        for key in self._values:
            if key not in known:
                raise InvalidFilter(f"invalid filter '{key}'")

    def exact(self, key: str, value: str) -> bool:
        values = self.get(key)
        return not values or value in values

    def prefix(self, key: str, value: str) -> bool:
        values = self.get(key)
        return not values or any(value.startswith(v) for v in values)

    def pattern(self, key: str, value: str) -> bool:
        """Equal to, or containing a match of, one of the values as regular expressions.

        A value that is no valid expression matches only itself.
        """
        values = self.get(key)
        if not values or value in values:
            return True
        return any(_search(v, value) for v in values)

    def labels(self, key: str, labels: Mapping[str, str] | None) -> bool:
        """Every ``name`` or ``name=value`` is among the labels (alternatives do not exist here)."""
        for wanted in self.get(key):
            name, equals, value = wanted.partition("=")
            if labels is None or name not in labels:
                return False
            if equals and labels[name] != value:
                return False
        return True

    def boolean(self, key: str, default: bool) -> bool:
        """true/1 or false/0. Raises InvalidFilter for anything else and for both."""
        if key not in self._values:
            return default
        values = self.get(key)
        is_false = "0" in values or "false" in values
        is_true = "1" in values or "true" in values
        if is_false == is_true:
            raise InvalidFilter(f"invalid filter '{key}=[{' '.join(values)}]'")
        return is_true


def _search(expression: str, text: str) -> bool:
    try:
        return re.search(expression, text) is not None
    except re.error:
        return False


def prune_labels_match(filters: Filters, labels: Mapping[str, str] | None) -> bool:
    """``label`` must match and ``label!`` must not."""
    if not filters.labels("label", labels):
        return False
    return not ("label!" in filters and filters.labels("label!", labels))


_DURATION = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")


def parse_duration_ns(text: str) -> int:
    """A Go duration such as ``1h30m`` or ``-1.5s``. Raises ValueError."""
    sign, rest = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    if rest == "0":
        return 0
    total, end = 0.0, 0
    for match in _DURATION.finditer(rest):
        if match.start() != end:
            break
        total += float(match[1]) * UNIT_NS[match[2]]
        end = match.end()
    if not rest or end != len(rest):
        raise ValueError(f"time: invalid duration {text!r}")
    return sign * int(total)


def parse_moment_ns(text: str, now_ns: int) -> int:
    """What clients write for ``since`` and ``until``: a duration before now, seconds (with fraction) since
    the epoch, or a date in RFC 3339, complete or cut off (``2024-01-02``, ``2024-01-02T03:04``).

    Raises InvalidArgument.
    """
    try:
        return now_ns - parse_duration_ns(text)
    except ValueError:
        pass
    if re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", text):
        whole, _, fraction = text.partition(".")
        nanos = int(fraction[:9].ljust(9, "0")) if fraction else 0
        return int(whole) * 1_000_000_000 + nanos
    try:
        if len(text) <= 10:
            return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000_000_000
        return parse_ns(text)
    except ValueError:
        raise InvalidFilter(f'invalid value: "{text}": failed to parse value as time or duration') from None


def prune_until_ns(filters: Filters, now_ns: int) -> int:
    """0 without an ``until`` filter. Raises InvalidArgument for several or unreadable ones."""
    values = filters.get("until")
    if not values:
        return 0
    if len(values) > 1:
        raise InvalidFilter("more than one until filter specified")
    return parse_moment_ns(values[0], now_ns)
