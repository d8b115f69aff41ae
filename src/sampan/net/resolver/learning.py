"""Addresses that a container may reach because it was told them: put into nft sets before it is told.

The kernel forgets each by itself when the answer's time is over; a container that holds an address longer
than that has a minute more. Whoever restores the table says so, and everything is put in again.

Standard library only.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from struct import Struct

from sampan.kernel.nftables import Element, NftSocket

from .allowance import Allowance, Ways
from .wire import Malformed, addresses_of

SHORTEST_S = 60
MARGIN_S = 60
LONGEST_S = 24 * 3600
MOST = 4096
"""Elements of one place of a container: one that asks for ever new names only loses its own oldest ones."""
_PORT = Struct(">HH")

Key = tuple[str, bytes]
"""Name of the set, key of the element."""


class Learner:
    """Knows what is in the kernel, and until when."""

    def __init__(self) -> None:
        self._known: dict[Allowance, dict[Key, float]] = {}
        self._socket: NftSocket | None = None
        self._flushed: set[str] = set()

    def learn(self, allowances: Sequence[Allowance], name: str, data: bytes, now_s: float) -> None:
        """An answer to the question for ``name``. Failures are told, and the container is refused then."""
        try:
            found = addresses_of(data, name)
        except Malformed:
            return
        for allowance in allowances:
            wanted: dict[Key, float] = {}
            ways = {family: allowance.ways(name, family) for family in (socket.AF_INET, socket.AF_INET6)}
            for family, packed, ttl_s in found:
                life_s = min(max(ttl_s, SHORTEST_S), LONGEST_S)
                for key in _keys(allowance, family, packed, ways[socket.AddressFamily(family)]):
                    wanted[key] = max(wanted.get(key, 0.0), now_s + life_s)
            self._learn(allowance, wanted, now_s)

    def _learn(self, allowance: Allowance, wanted: dict[Key, float], now_s: float) -> None:
        known = self._known.setdefault(allowance, {})
        # what lasts long enough as it is costs nothing
        fresh = {key: until_s + MARGIN_S for key, until_s in wanted.items() if known.get(key, 0.0) < until_s}
        if not fresh:
            return
        for key in [key for key, until_s in known.items() if until_s <= now_s]:
            del known[key]
        known.update(fresh)
        excess = list(known)[: max(len(known) - MOST, 0)]
        for key in excess:
            del known[key]
            fresh.pop(key, None)
        self._discard(allowance.table, excess)
        self._put(allowance.table, fresh, now_s)

    def again(self, now_s: float) -> None:
        """The kernel may have lost all of it."""
        for allowance, known in self._known.items():
            self._put(allowance.table, {key: s for key, s in known.items() if s > now_s}, now_s)

    @property
    def is_idle(self) -> bool:
        """Nothing has been learnt for anybody."""
        return not self._known

    def keep_only(self, allowances: Iterable[Allowance]) -> None:
        """Others are no more, and their addresses may be somebody else's soon."""
        wanted = set(allowances)
        for table in {one.table for one in wanted} - self._flushed:
            self._flush(table)
        for gone in self._known.keys() - wanted:
            self._discard(gone.table, list(self._known.pop(gone)))

    def _flush(self, table: str) -> None:
        """An earlier process has left what nobody looks after."""
        self._flushed.add(table)
        names = [f"learnt_{what}{version}" for what in ("port", "protocol") for version in (4, 6)]
        self._try("flush", lambda nft: nft.flush_sets(table, names))

    def _put(self, table: str, until_s: dict[Key, float], now_s: float) -> None:
        elements = [
            Element(name, key, timeout_ms=max(int((end_s - now_s) * 1000), 1))
            for (name, key), end_s in until_s.items()
        ]
        self._try("allow", lambda nft: nft.renew_elements(table, elements))

    def _discard(self, table: str, keys: list[Key]) -> None:
        elements = [Element(name, key, timeout_ms=1000) for name, key in keys]
        self._try("forget", lambda nft: nft.discard_elements(table, elements))

    def _try(self, what: str, change: Callable[[NftSocket], None]) -> None:
        try:
            if self._socket is None:
                self._socket = NftSocket()
            change(self._socket)
        except FileNotFoundError:
            return  # the table is gone: whoever makes it again says so
        except OSError as error:
            sys.stderr.write(f"name server: cannot {what} learnt addresses: {error}\n")


def _keys(allowance: Allowance, family: int, packed: bytes, ways: Ways) -> Iterator[Key]:
    version, source = (4, allowance.address4) if family == socket.AF_INET else (6, allowance.address6)
    if not source:
        return
    start = socket.inet_pton(family, source) + packed
    for protocol, port in sorted(ways):
        key = start + bytes((protocol, 0, 0, 0))
        if port:
            yield f"learnt_port{version}", key + _PORT.pack(port, 0)
        else:
            yield f"learnt_protocol{version}", key
