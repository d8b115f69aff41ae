"""Where a request comes from: the connection's other end, or what a proxy that is trusted says of it."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Any

from aiohttp.web_request import BaseRequest

from sampan.model.registry import Caller

UNIX = "unix"
"""As a trusted proxy: whoever comes through a unix socket."""
_MOST_HOPS = 20


class Callers:
    """Reads ``X-Forwarded-For`` and ``X-Forwarded-Proto`` of trusted proxies alone: anybody can send them."""

    def __init__(self, proxies: Iterable[str] = ()) -> None:
        """Addresses and networks, and :data:`UNIX`. Raises ValueError."""
        given = tuple(proxies)
        self._networks = tuple(ipaddress.ip_network(one) for one in given if one != UNIX)
        self._trusts_unix = UNIX in given

    def of(self, request: BaseRequest) -> Caller:
        transport = request.transport
        peer: Any = transport.get_extra_info("peername") if transport is not None else None
        tls: Any = transport.get_extra_info("ssl_object") if transport is not None else None
        address = plain(str(peer[0])) if isinstance(peer, tuple) else ""
        secure = tls is not None
        if self._trusts(address):
            address = self._forwarded(request.headers.getall("X-Forwarded-For", ()), address)
            secure = secure or request.headers.get("X-Forwarded-Proto", "").lower() == "https"
        return Caller(
            address=address,
            host=request.headers.get("Host", ""),
            secure=secure,
            authorization=request.headers.get("Authorization", ""),
            certificate=(tls.getpeercert() or None) if tls is not None else None,
        )

    def _trusts(self, address: str) -> bool:
        if not address:
            return self._trusts_unix
        if not self._networks:
            return False
        found = ipaddress.ip_address(address)
        return any(found in network for network in self._networks)

    def _forwarded(self, headers: Iterable[str], address: str) -> str:
        """From the right: each proxy adds whom it was asked by, and what is left of them is hearsay."""
        hops = [hop.strip() for header in headers for hop in header.split(",")]
        for hop in reversed(hops[-_MOST_HOPS:]):
            try:
                address = plain(hop)
            except ValueError:
                break
            if not self._trusts(address):
                break
        return address


def plain(text: str) -> str:
    """An address as it is usually written; IPv4 also where a socket for both has it as IPv6."""
    address = ipaddress.ip_address(text)
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)
