"""Names that a container may reach the addresses of (``sampan.egress``). No I/O.

Standard library only.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any, NamedTuple

Ways = frozenset[tuple[int, int]]
"""Protocol number and port; port 0 for all of a protocol."""
_ALL = {socket.AF_INET: (6, 17, 1), socket.AF_INET6: (6, 17, 58)}
"""TCP, UDP and ICMP: what is sent without a port or protocol being asked for."""


class Rule(NamedTuple):
    name: str
    """Lower case; ``*.`` in front stands for one label or more."""
    protocols: tuple[int, ...]
    """None: all."""
    ports: tuple[int, ...]
    """First and last; none: all."""


class Allowance(NamedTuple):
    """What one place of a container in one network may reach by name."""

    table: str
    """The nft table whose sets are filled."""
    address4: str
    address6: str
    rules: tuple[Rule, ...]

    def ways(self, name: str, family: int) -> Ways:
        """How the addresses of ``name`` (lower case, no last dot) may be reached; empty: not at all."""
        found: set[tuple[int, int]] = set()
        for rule in self.rules:
            if matches(rule.name, name):
                first, last = rule.ports or (0, 0)
                for protocol in rule.protocols or _ALL[socket.AddressFamily(family)]:
                    found.update((protocol, port) for port in range(first, last + 1))
        return frozenset(found)


def matches(pattern: str, name: str) -> bool:
    """``*.example.org`` are all names below it, at any depth, and not itself."""
    if pattern.startswith("*."):
        return name.endswith(pattern[1:]) and len(name) >= len(pattern)
    return name == pattern


def allowance_of(message: Mapping[str, Any]) -> Allowance:
    """As a view's message has it. Raises KeyError, TypeError, ValueError."""
    rules = tuple(
        Rule(str(name), tuple(map(int, protocols)), tuple(map(int, ports)))
        for name, protocols, ports in message["names"]
    )
    return Allowance(str(message["table"]), str(message["address4"]), str(message["address6"]), rules)
