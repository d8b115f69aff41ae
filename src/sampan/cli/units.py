"""Sizes, durations and moments as people read and write them (go-units' and Go's spellings)."""

from __future__ import annotations

from sampan.formats.durations import UNIT_NS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_DECIMAL = ("B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB")
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB")
_FACTORS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}


def _scaled(size: float, base: float, units: Sequence[str], precision: int) -> str:
    index = 0
    while size >= base and index < len(units) - 1:
        size /= base
        index += 1
    return f"{size:.{precision}g}{units[index]}"


def human_size(size_bytes: float, precision: int = 4) -> str:
    """Decimal units: ``1.23MB``."""
    return _scaled(size_bytes, 1000.0, _DECIMAL, precision)


def binary_size(size_bytes: float) -> str:
    """Binary units: ``1.205MiB``."""
    return _scaled(size_bytes, 1024.0, _BINARY, 4)


def display_width(text: str) -> int:
    """Columns on a terminal: colours take none, East Asian wide characters two, combining ones none."""
    while (start := text.find("\x1b[")) >= 0:
        end = text.find("m", start)
        text = text[:start] + (text[end + 1 :] if end >= 0 else "")
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(char) else 2 if east_asian_width(char) in "WF" else 1 for char in text)


def ellipsis(text: str, width: int) -> str:
    """At most ``width`` columns, the last one an ellipsis when something was cut."""
    if display_width(text) <= width:
        return text
    end = min(len(text), width - 1)
    while display_width(text[:end]) > width - 1:
        end -= 1
    return text[:end] + "…"


def short_id(full: str) -> str:
    """Twelve digits of an id, an algorithm prefix dropped."""
    return full.partition(":")[2][:12] if ":" in full else full[:12]


_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\a": "\\a", "\b": "\\b"}


def go_quote(text: str) -> str:
    """As Go's strconv.Quote."""
    if text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    parts = []
    for char in text:
        if char in _ESCAPES:
            parts.append(_ESCAPES[char])
        elif char.isprintable():
            parts.append(char)
        elif ord(char) < 0x80:
            parts.append(f"\\x{ord(char):02x}")
        else:
            parts.append(f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}")
    return '"' + "".join(parts) + '"'


def parse_size(text: str) -> int:
    """Bytes of ``512``, ``64m``, ``1.5GiB``, ``10 kb``. Raises ValueError with go-units' texts."""
    cut = max((text.rfind(digit) for digit in "0123456789. "), default=-1)
    if cut < 0:
        raise ValueError(f"invalid size: '{text}'")
    number, suffix = (text[:cut], text[cut + 1 :]) if text[cut] == " " else (text[: cut + 1], text[cut + 1 :])
    try:
        if number != number.strip() or "_" in number:
            raise ValueError
        size = float(number)
    except ValueError:
        raise ValueError(f'strconv.ParseFloat: parsing "{number}": invalid syntax') from None
    if size < 0:
        raise ValueError(f"invalid size: '{text}'")
    suffix = suffix.lower()
    if not suffix or suffix == "b":
        return int(size)
    factor = _FACTORS.get(suffix[0])
    if factor is None or suffix[1:] not in ("", "b", "ib"):
        raise ValueError(f"invalid suffix: '{suffix}'")
    return int(size * factor)


def parse_duration(text: str) -> int:
    """Nanoseconds of Go's ``1h30m``, ``1.5s``, ``300ms``, ``0``. Raises ValueError."""
    body = text.lstrip("+-") if text[:1] in ("+", "-") else text
    if body == "0":
        return 0
    total = 0
    rest = body
    while rest:
        digits = len(rest) - len(rest.lstrip("0123456789."))
        number, rest = rest[:digits], rest[digits:]
        letters = 0
        while letters < len(rest) and rest[letters] not in "0123456789.":
            letters += 1
        unit, rest = rest[:letters], rest[letters:]
        if not unit and number:
            raise ValueError(f'time: missing unit in duration "{text}"')
        if not number.strip(".") or number.count(".") > 1:
            raise ValueError(f'time: invalid duration "{text}"')
        if unit not in UNIT_NS:
            raise ValueError(f'time: unknown unit "{unit}" in duration "{text}"')
        whole, _, fraction = number.partition(".")
        factor = UNIT_NS[unit]
        total += int(whole or 0) * factor
        if fraction:
            total += int(fraction) * factor // 10 ** len(fraction)
    if not body:
        raise ValueError(f'time: invalid duration "{text}"')
    return -total if text.startswith("-") else total
