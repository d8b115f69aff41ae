"""How often somebody may present wrong credentials. Pure: time is an argument."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Hashable

MOST_KEYS = 10_000


class Throttle:
    """A bucket of failures for each key, refilled with time.

    ``burst`` failures are free; then one in ``refill_s``. Keys are the address, and address and name
    together: somebody who guesses names from elsewhere locks nobody out.
    """

    def __init__(self, *, burst: int, refill_s: float) -> None:
        self._burst = burst
        self._refill_s = refill_s
        self._spent: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()
        """Failures that count, as of when; the key that failed last is at the end."""

    def wait_s(self, key: Hashable, now_s: float) -> int:
        """Seconds until the key may try again; 0: now."""
        left = self._left(key, now_s) - (self._burst - 1)
        return math.ceil(left * self._refill_s) if left > 0 else 0

    def _left(self, key: Hashable, now_s: float) -> float:
        spent, since_s = self._spent.get(key, (0.0, now_s))
        return max(0.0, spent - (now_s - since_s) / self._refill_s)

    def failed(self, key: Hashable, now_s: float) -> None:
        self._spent[key] = (self._left(key, now_s) + 1, now_s)
        self._spent.move_to_end(key)
        if len(self._spent) > MOST_KEYS:
            self._spent.popitem(last=False)

    def refund(self, key: Hashable) -> None:
        """The last failure was none."""
        if key in self._spent:
            spent, since_s = self._spent[key]
            self._spent[key] = (max(0.0, spent - 1), since_s)

    def succeeded(self, key: Hashable) -> None:
        self._spent.pop(key, None)
