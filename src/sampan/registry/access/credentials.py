"""Basic credentials, both ways (RFC 7617)."""

from __future__ import annotations

import base64
import binascii

from ..errors import Unauthenticated

WRONG = "incorrect username or password"


def read_basic(presented: str) -> tuple[str, str]:
    """Name and password. Raises Unauthenticated."""
    try:
        text = base64.b64decode(presented, validate=True).decode()
    except (binascii.Error, ValueError):
        raise Unauthenticated("malformed credentials") from None
    name, colon, password = text.partition(":")
    if not colon or not name:
        raise Unauthenticated(WRONG)
    return name, password


def basic_header(name: str, password: str) -> str:
    """The value of Authorization. Raises Unauthenticated for a name that cannot be sent."""
    if ":" in name:
        raise Unauthenticated(WRONG)
    return "Basic " + base64.b64encode(f"{name}:{password}".encode("utf-8", "surrogateescape")).decode()
