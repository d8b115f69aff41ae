"""Values as they are written in the settings file: ``"30d"``, ``"10G"``, lists of patterns."""

from __future__ import annotations

import re
from typing import Any

from sampan.formats.size import parse_binary
from sampan.registry.patterns import Patterns

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d|w)?")
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


class Duration:
    """``90``, ``"90s"``, ``"5m"``, ``"1h"``, ``"30d"``, ``"2w"``."""

    __slots__ = ("seconds",)

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    @property
    def ns(self) -> int:
        return int(self.seconds * 1_000_000_000)

    @classmethod
    def read(cls, value: object) -> Duration:
        """Raises ValueError."""
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise ValueError('expected a duration such as "90s", "5m", "1h" or "30d"')
        match = _DURATION.fullmatch(str(value).strip())
        if match is None:
            raise ValueError(
                f'invalid duration {str(value)[:40]!r}: use one such as "90s", "5m", "1h" or "30d"'
            )
        return cls(float(match[1]) * _UNITS_S[match[2] or "s"])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Duration) and other.seconds == self.seconds

    def __hash__(self) -> int:
        return hash(self.seconds)

    def __repr__(self) -> str:
        return f"Duration({self.seconds})"


class Size:
    """``1048576``, ``"64k"``, ``"10G"``, with 1024 to the kilobyte."""

    __slots__ = ("in_bytes",)

    def __init__(self, in_bytes: int) -> None:
        self.in_bytes = in_bytes

    @classmethod
    def read(cls, value: object) -> Size:
        """Raises ValueError."""
        if isinstance(value, bool) or not isinstance(value, (int, str)):
            raise ValueError('expected a size such as "500M" or "10G"')
        return cls(parse_binary(str(value)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Size) and other.in_bytes == self.in_bytes

    def __hash__(self) -> int:
        return hash(self.in_bytes)

    def __repr__(self) -> str:
        return f"Size({self.in_bytes})"


def read(kind: type, value: Any) -> Any:
    """msgspec's hook for what is not JSON's own. Raises ValueError."""
    if kind is Duration:
        return Duration.read(value)
    if kind is Size:
        return Size.read(value)
    if kind is Patterns:
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise ValueError('expected a list of patterns such as ["team/**"]')
        return Patterns(value)
    raise NotImplementedError(kind)
