"""Networks: what is stored of them; live endpoints belong to running containers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from msgspec import field


class IPAMPool(msgspec.Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    subnet: str = ""
    ip_range: str = field(default="", name="IPRange")
    gateway: str = ""
    auxiliary_addresses: dict[str, str] | None = field(default=None, name="AuxiliaryAddresses")


class Network(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    name: str
    driver: str
    """bridge, host or null."""
    created_ns: int
    scope: str = "local"
    enable_ipv4: bool = True
    enable_ipv6: bool = False
    internal: bool = False
    attachable: bool = False
    pools: list[IPAMPool] = []
    ipam_options: dict[str, str] | None = None
    options: dict[str, str] = {}
    labels: dict[str, str] = {}


class NameWish(msgspec.Struct, frozen=True, kw_only=True):
    """What a container wants of its name server beside the names on its networks."""

    aliases: Mapping[str, str]
    """Names of its own for other containers (--link)."""
    servers: Sequence[str]
    """Who is asked for all other names."""
    own_servers: bool
    """They are the container's (--dns), and asked from its own namespace."""
