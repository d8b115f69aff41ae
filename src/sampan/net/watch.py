"""Repairs what other programs do to our rules and bridges, as soon as the kernel tells of it.

Nothing is polled. Changes come in bursts (a container's start changes interfaces, a firewall's reload
replaces all tables), so that the look at what is left is taken a moment after the first of them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence

from sampan.kernel.linkevents import LinkChanges
from sampan.kernel.nftables import NftChanges

log = logging.getLogger(__name__)

_MOMENT_S = 0.05
_PAUSE_S = 1.0
"""Between two repairs, so that a quarrel with another program costs neither of them the machine."""


class Repairs:
    """One kind of thing that is looked after. ``repair`` answers whether anything was wrong."""

    def __init__(self, what: str, repair: Callable[[], bool]) -> None:
        self._what = what
        self._repair = repair
        self._timer: asyncio.TimerHandle | None = None
        self._not_before_s = 0.0

    def soon(self) -> None:
        if self._timer is None:
            loop = asyncio.get_running_loop()
            wait_s = max(_MOMENT_S, self._not_before_s - loop.time())
            self._timer = loop.call_later(wait_s, self._now)

    def _now(self) -> None:
        self._timer = None
        try:
            if self._repair():
                self._not_before_s = asyncio.get_running_loop().time() + _PAUSE_S
                log.warning("%s had been changed by another program: repaired", self._what)
        except OSError as error:
            log.error("%s cannot be repaired: %s", self._what, error)

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


class Watch:
    """Open from :meth:`begin` to :meth:`close`, in the event loop's thread."""

    def __init__(
        self,
        repair_rules: Mapping[str, Callable[[], bool]],
        repair_links: Callable[[], bool],
        unwatched: Collection[str] = (),
    ) -> None:
        """``repair_rules`` by table; elements of the sets called ``unwatched`` are others' business."""
        self._unwatched = unwatched
        self._rules = {
            table: Repairs(f"the firewall's table {table}", repair) for table, repair in repair_rules.items()
        }
        self._links = Repairs("a network's bridge", repair_links)
        self._nft: NftChanges | None = None
        self._link: LinkChanges | None = None

    def begin(self) -> None:
        """Raises OSError: this kernel does not tell."""
        loop = asyncio.get_running_loop()
        self._nft = NftChanges(self._unwatched)
        loop.add_reader(self._nft.fileno(), self._on_rules)
        self._link = LinkChanges()
        loop.add_reader(self._link.fileno(), self._on_links)

    def follow(self, indexes: Sequence[int]) -> None:
        """The bridges there are now, by the indexes of their interfaces."""
        if self._link is not None:
            self._link.watch_only(indexes)

    def _on_rules(self) -> None:
        assert self._nft is not None
        tables = self._nft.foreign()
        for table, repairs in self._rules.items():
            if tables is None or table in tables:
                repairs.soon()

    def _on_links(self) -> None:
        assert self._link is not None
        if self._link.happened():
            self._links.soon()

    def close(self) -> None:
        """Idempotent."""
        for repairs in (*self._rules.values(), self._links):
            repairs.cancel()
        for changes in (self._nft, self._link):
            if changes is not None:
                asyncio.get_running_loop().remove_reader(changes.fileno())
                changes.close()
        self._nft = self._link = None
