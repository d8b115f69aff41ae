"""Garbage collection of images by age and by how full the disk is, on demand and from time to time."""

from __future__ import annotations

import asyncio
import fnmatch
import logging
import os
from collections.abc import Sequence

import msgspec

from sampan.base.clock import now_ns
from sampan.base.crashpoints import crash_point
from sampan.base.errors import SampanError
from sampan.content.streams import Workers
from sampan.formats.reference import parse_name
from sampan.model.image import Image
from sampan.transfer.downloads import Downloads

from .catalog import ImageCatalog, names_of
from .last_use import LastUse
from .removal import ImageInUse, ImageRemoval
from .upkeep_plan import Candidate, Disk, Eviction, Rules, plan
from .users import ImageUsers

log = logging.getLogger(__name__)


class UpkeepSettings(msgspec.Struct, frozen=True, kw_only=True):
    data_root: str
    rules: Rules = Rules()
    """All zero: nothing is removed unless somebody asks."""
    kept_names: Sequence[str] = ()
    """Patterns of names with or without a tag, as a shell's; their images stay."""
    interval_s: int = 300


class CollectedImage(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    id: str = msgspec.field(name="Id")
    names: list[str]
    reason: str
    last_used: int
    """Seconds since the epoch."""
    size: int
    """Bytes that its removal frees."""


class Collection(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """What one round removed, or with a dry run would remove."""

    images: list[CollectedImage]
    downloads_reclaimed: int
    """Bytes of downloads that nobody continued for a week."""
    space_reclaimed: int
    """Bytes in all."""


class ImageUpkeep:
    def __init__(
        self,
        catalog: ImageCatalog,
        removal: ImageRemoval,
        users: ImageUsers,
        last_use: LastUse,
        downloads: Downloads,
        workers: Workers,
        settings: UpkeepSettings,
    ) -> None:
        self.settings = settings
        """May be replaced while it runs; the next round follows the new ones."""
        self._catalog = catalog
        self._removal = removal
        self._users = users
        self._last_use = last_use
        self._downloads = downloads
        self._one_at_a_time = asyncio.Lock()
        self._workers = workers
        self._settled: set[str] = set()
        """Blobs that were looked at."""

    async def follow(self) -> None:
        """A round from time to time, until cancelled."""
        while True:
            await asyncio.sleep(self.settings.interval_s)
            try:
                await self.collect()
            except (SampanError, OSError):
                log.exception("garbage collection of images failed; it is tried again later")

    async def collect(self, rules: Rules | None = None, *, dry_run: bool = False) -> Collection:
        """One round by ``rules``, or by those of the settings."""
        async with self._one_at_a_time:
            if not dry_run:
                await self._settle_blobs()
            evictions = self._plan(rules or self.settings.rules)
            if not dry_run:
                evictions = [one for one in evictions if self._evict(one)]
                crash_point("upkeep.evicted")
                await self._catalog.collect()
                self._last_use.keep(image.id for image in self._catalog.store.all())
            expired = await self._downloads.expire(dry_run=dry_run)
        return Collection(
            images=[_shown(one) for one in evictions],
            downloads_reclaimed=expired,
            space_reclaimed=expired + sum(one.freed_bytes for one in evictions),
        )

    async def _settle_blobs(self) -> None:
        """Blobs that were packed by Sampan, here or elsewhere, are not needed beside their layers: find out
        when nobody waits for it."""
        store = self._catalog.store
        for record, digest in store.doubled():
            if digest in self._settled:
                continue
            self._settled.add(digest)
            with store.lease() as lease:
                lease.add(record.chain_id, digest)
                packed = await self._workers.run(
                    lambda record=record, digest=digest: store.layer_blobs.find_packing(record, digest)  # type: ignore[misc]
                )
            if packed is not None and store.layer(record.chain_id) is not None:
                store.remember_packed(record.diff_id, packed)

    def _plan(self, rules: Rules) -> list[Eviction]:
        status = os.statvfs(self.settings.data_root)
        disk = Disk(
            # as df(1): blocks that only root may use are neither free nor part of what can be used
            total_bytes=(status.f_blocks - status.f_bfree + status.f_bavail) * status.f_frsize,
            free_bytes=status.f_bavail * status.f_frsize,
        )
        return plan(self._candidates(), rules, disk, now_ns()) if rules.any else []

    def _candidates(self) -> list[Candidate]:
        store = self._catalog.store
        used = {user.image_id for user in self._users.image_users()}
        used.update(image_id for user in self._users.image_users() for image_id in user.mounted_images)
        leased = store.leased()
        return [
            Candidate(
                id=image.id,
                names=names_of(image),
                last_used_ns=self._last_used_ns(image),
                layers=list(zip(image.chain_ids, image.layer_sizes, strict=True)),
                parent=image.parent,
                protected=self._protection(image, used, leased),
            )
            for image in store.all()
        ]

    def _protection(self, image: Image, used: set[str], leased: set[str]) -> str:
        if image.id in used:
            return "a container uses it"
        if image.id in leased or image.manifest_digest in leased:
            return "it is being read"
        if any(_names(pattern, names_of(image)) for pattern in self.settings.kept_names):
            return "its name is kept"
        return ""

    def _last_used_ns(self, image: Image) -> int:
        used_ns = max(self._last_use.of(image.id) or 0, image.last_tagged_ns, image.arrived_ns)
        if not used_ns:
            # nobody knows how long it has been here: its time begins now
            used_ns = now_ns()
            self._last_use.used(image.id, used_ns)
        return used_ns

    def _evict(self, eviction: Eviction) -> bool:
        try:
            self._removal.evict(eviction.image.id, eviction.reason)
        except ImageInUse:
            return False  # a container was made of it a moment ago
        log.info("image %s removed: %s", eviction.image.names or eviction.image.id, eviction.reason)
        return True


def _names(pattern: str, names: Sequence[str]) -> bool:
    """Whether a pattern matches one of the names, their repositories, or either written in full."""
    for name in map(parse_name, names):
        forms = (name.familiar, name.familiar_repository, name.normalised, name.repository)
        if any(fnmatch.fnmatchcase(form, pattern) for form in forms):
            return True
    return False


def _shown(eviction: Eviction) -> CollectedImage:
    image = eviction.image
    return CollectedImage(
        id=image.id,
        names=image.names,
        reason=eviction.reason,
        last_used=image.last_used_ns // 1_000_000_000,
        size=eviction.freed_bytes,
    )
