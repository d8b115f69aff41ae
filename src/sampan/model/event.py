"""What happened, as ``GET /events`` tells it."""

from __future__ import annotations

import msgspec


class Event(msgspec.Struct, frozen=True, kw_only=True):
    type: str
    """container, image, volume, network or daemon."""
    action: str
    actor_id: str
    attributes: dict[str, str]
    time_ns: int
    scope: str = "local"
