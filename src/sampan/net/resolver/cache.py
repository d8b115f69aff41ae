"""Answers of other name servers, kept as long as they say. No I/O; time is an argument.

Standard library only.
"""

from __future__ import annotations

from collections import OrderedDict

from .wire import NO_ERROR, NO_SUCH_NAME, Malformed, aged, read_lifetimes

Key = tuple[object, ...]
_LARGEST_BYTES = 4096
_LONGEST_S = 3600
_LONGEST_NEGATIVE_S = 300


class _Kept:
    __slots__ = ("data", "positions", "since_s", "until_s")

    def __init__(self, data: bytes, positions: tuple[int, ...], since_s: float, until_s: float) -> None:
        self.data = data
        self.positions = positions
        self.since_s = since_s
        self.until_s = until_s


class AnswerCache:
    """Bounded by number; what was not asked for the longest goes first."""

    def __init__(self, most: int = 4096) -> None:
        self._most = most
        self._kept: OrderedDict[Key, _Kept] = OrderedDict()

    def find(self, key: Key, now_s: float) -> bytes | None:
        """The answer with TTLs as of now."""
        kept = self._kept.get(key)
        if kept is None:
            return None
        if kept.until_s <= now_s:
            del self._kept[key]
            return None
        self._kept.move_to_end(key)
        return aged(kept.data, kept.positions, int(now_s - kept.since_s))

    def keep(self, key: Key, data: bytes, now_s: float) -> None:
        """Failures, what has no TTL and what is not understood are not kept."""
        if len(data) > _LARGEST_BYTES:
            return
        try:
            life = read_lifetimes(data)
        except Malformed:
            return
        if life.code not in (NO_ERROR, NO_SUCH_NAME) or not life.keep_s:
            return
        longest = _LONGEST_S if life.code == NO_ERROR else _LONGEST_NEGATIVE_S
        self._kept[key] = _Kept(data, life.positions, now_s, now_s + min(life.keep_s, longest))
        self._kept.move_to_end(key)
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)

    def clear(self) -> None:
        self._kept.clear()
