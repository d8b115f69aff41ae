"""Making room in a cache: what was pulled least recently goes first, and can be fetched again."""

from __future__ import annotations

import asyncio

from ..service import Registry
from .settings import UpstreamSettings

_BATCH = 50
_LOW_WATER = 0.9
"""Of the limit: so far it is emptied, so that not every run has to."""


async def evict(registry: Registry, settings: UpstreamSettings) -> int:
    """Manifests removed. Those an index needs go with it. Blobs become the collector's."""
    index, below = registry.index, settings.prefix
    count = 0
    if settings.unused_s:
        before_ns = registry.context.now_ns() - int(settings.unused_s * 1e9)
        while numbers := index.cached.least_recent(below, before_ns, _BATCH):
            count += _remove(registry, numbers)
            await asyncio.sleep(0)
    if settings.limit_bytes and index.cached.size_bytes(below) > settings.limit_bytes:
        now_ns = registry.context.now_ns()
        while index.cached.size_bytes(below) > settings.limit_bytes * _LOW_WATER:
            # one at a time: how much each frees depends on what others share with it
            numbers = index.cached.least_recent(below, now_ns, 1)
            if not numbers:
                break
            count += _remove(registry, numbers)
            await asyncio.sleep(0)
    return count


def _remove(registry: Registry, numbers: list[int]) -> int:
    with registry.index.transaction():
        registry.index.garbage.delete_manifests(numbers)
    return len(numbers)
