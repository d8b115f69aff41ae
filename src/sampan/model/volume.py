"""Volumes of the local driver."""

from __future__ import annotations

import msgspec


class Volume(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    driver: str = "local"
    mountpoint: str
    """Absolute path of the volume's data on the host."""
    created_ns: int
    labels: dict[str, str] | None = None
    options: dict[str, str] | None = None
    anonymous: bool = False
    owner: str = ""
    """The container that an anonymous volume was made for and still belongs to: without that container,
    the daemon died while it was being created, and the volume goes."""
