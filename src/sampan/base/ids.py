"""Identifiers: 64 hex digits as Docker's, and the random names containers get."""

from __future__ import annotations

import os
import re

ID_PATTERN = re.compile(r"^[a-f0-9]{64}$")


def new_id() -> str:
    """64 random hex digits whose first 12 are not all decimal digits.

    A short id of digits only would be read as a number by shells and as a pid by ``--pid`` (moby stringid).
    """
    while True:
        value = os.urandom(32).hex()
        if not value[:12].isdigit():
            return value


def short_id(full_id: str) -> str:
    """The 12 digits that clients show; an algorithm prefix such as ``sha256:`` is dropped first."""
    return full_id.removeprefix("sha256:")[:12]
