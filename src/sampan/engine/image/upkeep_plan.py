"""Which images automatic garbage collection removes. A pure decision: time and disk are arguments."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

AGE = "age"
DISK = "disk"


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """An image, as far as collection cares."""

    id: str
    names: list[str]
    last_used_ns: int
    layers: list[tuple[str, int]]
    """Chain id and bytes of each."""
    parent: str = ""
    protected: str = ""
    """Why it must stay whatever happens: a container, a lease, a name the settings keep; "" if it may go."""


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """Zero switches a rule off."""

    unused_for_ns: int = 0
    """Images that nobody used for so long go."""
    high_percent: int = 0
    """When the file system is fuller than this, those used least recently go,"""
    low_percent: int = 0
    """until it is no fuller than this."""

    @property
    def any(self) -> bool:
        return bool(self.unused_for_ns or self.high_percent)


class Disk(msgspec.Struct, frozen=True, kw_only=True):
    """The file system of the data root, as df(1) counts: what only root may use is not there."""

    total_bytes: int
    free_bytes: int


class Eviction(msgspec.Struct, frozen=True, kw_only=True):
    image: Candidate
    reason: str
    """age or disk."""
    freed_bytes: int
    """Of layers that no image needs any more once this one and those before it are gone."""


def plan(images: Iterable[Candidate], rules: Rules, disk: Disk, now_ns: int) -> list[Eviction]:
    """What goes, in this order: never what is protected, nor the parent of an image that stays."""
    state = _State(sorted(images, key=lambda image: (image.last_used_ns, image.id)))
    if rules.unused_for_ns:
        oldest_ns = now_ns - rules.unused_for_ns
        while (image := state.next()) is not None and image.last_used_ns < oldest_ns:
            state.evict(image, AGE)
    used = disk.total_bytes - disk.free_bytes
    if rules.high_percent and used * 100 > disk.total_bytes * rules.high_percent:
        low = min(rules.low_percent or rules.high_percent, rules.high_percent)
        while (used - state.freed_bytes) * 100 > disk.total_bytes * low:
            image = state.next()
            if image is None:
                break
            state.evict(image, DISK)
    return state.evictions


class _State:
    """The images that stay so far, least recently used first."""

    def __init__(self, images: Sequence[Candidate]) -> None:
        self.evictions: list[Eviction] = []
        self.freed_bytes = 0
        self._left = {image.id: image for image in images}
        self._users: dict[str, int] = {}
        self._children: dict[str, int] = {}
        for image in images:
            self._count(image, 1)

    def _count(self, image: Candidate, step: int) -> None:
        for chain, _ in image.layers:
            self._users[chain] = self._users.get(chain, 0) + step
        if image.parent:
            self._children[image.parent] = self._children.get(image.parent, 0) + step

    def next(self) -> Candidate | None:
        """The one used least recently of those that may go now."""
        for image in self._left.values():
            if not image.protected and not self._children.get(image.id):
                return image
        return None

    def evict(self, image: Candidate, reason: str) -> None:
        del self._left[image.id]
        self._count(image, -1)
        freed = sum(size for chain, size in dict(image.layers).items() if not self._users[chain])
        self.freed_bytes += freed
        self.evictions.append(Eviction(image=image, reason=reason, freed_bytes=freed))
