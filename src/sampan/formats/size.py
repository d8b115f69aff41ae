"""Sizes as people write them. Docker reads ``10m`` in two ways: memory in powers of 1024, log files in
powers of 1000 (go-units)."""

from __future__ import annotations

import re

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([kmgtp]?)(?:i?b)?", re.IGNORECASE)
_EXPONENTS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}


def parse_binary(text: str) -> int:
    """Bytes of ``512``, ``64k``, ``1.5GiB`` with 1024 to the kilobyte. Raises ValueError."""
    return _parse(text, 1024)


def parse_decimal(text: str) -> int:
    """Bytes of ``512``, ``64k``, ``20m`` with 1000 to the kilobyte. Raises ValueError."""
    return _parse(text, 1000)


def _parse(text: str, base: int) -> int:
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"invalid size: '{text}'")
    factor: int = base ** _EXPONENTS[match[2].lower()]
    number = match[1]
    return int(float(number) * factor) if "." in number else int(number) * factor
