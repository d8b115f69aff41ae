"""When each image was used last: a container was made of it or started."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from sampan.base.clock import now_ns
from sampan.base.errors import SampanError
from sampan.store.image_use import ImageUseTable

log = logging.getLogger(__name__)

_COARSE_NS = 60 * 1_000_000_000
"""Starts within a minute count as one: so many containers cost one write."""


class LastUse:
    def __init__(self, table: ImageUseTable) -> None:
        self._table = table
        self._used_ns = table.load()

    def used(self, image_id: str, at_ns: int = 0) -> None:
        """Note a use. A disk that does not take it keeps no container from starting."""
        at_ns = at_ns or now_ns()
        if not image_id or at_ns - self._used_ns.get(image_id, 0) < _COARSE_NS:
            return
        self._used_ns[image_id] = at_ns
        try:
            self._table.put(image_id, at_ns)
        except SampanError as error:
            log.error("last use of image %s is not recorded: %s", image_id, error.message)

    def of(self, image_id: str) -> int | None:
        """None when no use was ever noted."""
        return self._used_ns.get(image_id)

    def keep(self, image_ids: Iterable[str]) -> None:
        """Forget all others: they were removed."""
        for image_id in self._used_ns.keys() - set(image_ids):
            del self._used_ns[image_id]
            self._table.delete(image_id)
