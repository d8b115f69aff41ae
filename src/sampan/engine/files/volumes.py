"""The volume verbs. Records live in memory and in the store; who uses a volume is counted from containers.

Everything but the deletion of files happens between two awaits, so volumes need no lock.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping, Sequence

import msgspec

from sampan.base.clock import now_ns
from sampan.base.errors import Conflict, InvalidArgument, NotFound, SampanError, SystemFailure
from sampan.base.ids import new_id
from sampan.engine.container.views import PruneResult
from sampan.engine.events import Events
from sampan.engine.filters import Filters, InvalidFilter, prune_labels_match
from sampan.engine.locks import KeyedLocks
from sampan.model.container import Container
from sampan.model.volume import Volume
from sampan.store.volumes import VolumeTable
from sampan.volumes.errors import VolumeNotMounted
from sampan.volumes.local import LocalDriver
from sampan.volumes.options import needs_mount

log = logging.getLogger(__name__)

LOCAL = "local"
ANONYMOUS_LABEL = "com.docker.volume.anonymous"
LIST_FILTERS = ("dangling", "name", "driver", "label")
PRUNE_FILTERS = ("label", "label!", "all")


class NoSuchVolume(NotFound):
    def __init__(self, name: str) -> None:
        super().__init__(f"get {name}: no such volume")


class NoSuchVolumeDriver(NotFound):
    def __init__(self, name: str, driver: str) -> None:
        super().__init__(
            f'create {name}: error looking up volume plugin {driver}: plugin "{driver}" not found'
        )


class VolumeInUse(Conflict):
    def __init__(self, name: str, containers: Sequence[str]) -> None:
        super().__init__(f"remove {name}: volume is in use - [{', '.join(containers)}]")


class VolumeUsage(msgspec.Struct, frozen=True, kw_only=True):
    """One row of ``system df``."""

    volume: Volume
    size_bytes: int
    """-1 when it cannot be told."""
    ref_count: int


# inside the class, ``list`` is the verb
VolumeList = list[Volume]
UsageList = list[VolumeUsage]
Texts = list[str]


class Volumes:
    """Named and anonymous volumes of the local driver, the only one there is."""

    def __init__(self, table: VolumeTable, driver: LocalDriver, events: Events, locks: KeyedLocks) -> None:
        self._table = table
        self._locks = locks
        self._driver = driver
        self._events = events
        self._volumes: dict[str, Volume] = {}
        self._users: dict[str, dict[str, None]] = {}
        """Containers that have a volume among their mounts, in the order they came."""
        self._mounts: dict[str, set[str]] = {}
        """Running containers of a volume that has to be mounted."""
        self._pruning = False

    # --- start-up -----------------------------------------------------------------------------------------

    def load(self, containers: Sequence[Container]) -> None:
        """Read the store and compare it with the disk. ``containers`` are all that exist.

        Goes: a record whose directory is gone, an anonymous volume whose container never came to be.
        Comes: a directory without record, as when data was restored from a backup.
        """
        self._driver.open()
        on_disk = set(self._driver.names())
        known = {container.id for container in containers}
        for volume in self._table.load():
            if volume.name not in on_disk:
                self._table.delete(volume.name)
            elif volume.owner and volume.owner not in known:
                self._table.delete(volume.name)
                self._driver.empty_trash(self._driver.discard(volume.name))
            else:
                self._volumes[volume.name] = volume
            on_disk.discard(volume.name)
        for name in sorted(on_disk):
            created_ns = os.stat(self._driver.path(name)).st_ctime_ns
            self._keep(Volume(name=name, mountpoint=self._driver.path(name), created_ns=created_ns))
        for container in containers:
            for mount in container.mounts:
                if mount.type == "volume":
                    self.add_user(mount.name, container.id)

    def unmount_unused(self) -> None:
        """After recovery has told who runs: what an earlier daemon mounted for others is not needed."""
        for name in self._driver.mounted():
            if not self._mounts.get(name):
                self._driver.unmount(name)

    # --- verbs --------------------------------------------------------------------------------------------

    async def create(
        self,
        name: str = "",
        driver: str = "",
        options: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Volume:
        """The existing volume of that name, or a new one. Raises InvalidVolume, NoSuchVolumeDriver."""
        return self.ensure(name, driver, options, labels)

    async def inspect(self, name: str) -> Volume:
        return self.require(name)

    async def list(self, filters: Mapping[str, Sequence[str]] | None = None) -> tuple[VolumeList, Texts]:
        """Volumes by name, and warnings. Raises InvalidFilter."""
        wanted = Filters(filters or {})
        wanted.require_known(LIST_FILTERS)
        dangling = wanted.boolean("dangling", False) if "dangling" in wanted else None
        found = [
            volume
            for name, volume in sorted(self._volumes.items())
            if wanted.exact("driver", volume.driver)
            and wanted.pattern("name", name)
            and wanted.labels("label", volume.labels)
            and (dangling is None or dangling != bool(self._users.get(name)))
        ]
        return found, []

    async def remove(self, name: str, force: bool = False) -> None:
        """Raises VolumeInUse also when forced, NoSuchVolume unless forced."""
        if force and name not in self._volumes:
            return
        self._require_unused(name)
        await self._delete(name)

    async def prune(self, filters: Mapping[str, Sequence[str]] | None = None) -> PruneResult:
        """Remove what no container refers to: anonymous volumes, or with ``all`` every volume.

        Volumes with mount options stay: removing them frees nothing here. Raises InvalidFilter, Conflict.
        """
        wanted = Filters(filters or {})
        wanted.require_known(PRUNE_FILTERS)
        everything = _all_filter(wanted)
        if self._pruning:
            raise Conflict("a prune operation is already running")
        self._pruning = True
        deleted: Texts = []
        reclaimed = 0
        try:
            for name, volume in sorted(self._volumes.items()):
                if name not in self._volumes or self._users.get(name) or volume.options:
                    continue
                if not everything and ANONYMOUS_LABEL not in (volume.labels or {}):
                    continue
                if not prune_labels_match(wanted, volume.labels):
                    continue
                size_bytes = await asyncio.to_thread(self._driver.size_bytes, name)
                if name not in self._volumes or self._users.get(name):
                    continue
                await self._delete(name)
                deleted.append(name)
                reclaimed += size_bytes
        finally:
            self._pruning = False
        self._events.publish("volume", "prune", "", {"reclaimed": str(reclaimed)})
        return PruneResult(deleted=deleted, space_reclaimed=reclaimed)

    async def usage(self) -> UsageList:
        """Sizes of all volumes without mount options."""
        rows = []
        for name, volume in sorted(self._volumes.items()):
            if volume.options:
                continue
            try:
                size_bytes = await asyncio.to_thread(self._driver.size_bytes, name)
            except OSError as error:
                log.warning("size of volume %s: %s", name, error)
                size_bytes = -1
            rows.append(
                VolumeUsage(volume=volume, size_bytes=size_bytes, ref_count=len(self._users.get(name, ())))
            )
        return rows

    # --- for the container verbs --------------------------------------------------------------------------

    def find(self, name: str) -> Volume | None:
        return self._volumes.get(name)

    def require(self, name: str) -> Volume:
        volume = self._volumes.get(name)
        if volume is None:
            raise NoSuchVolume(name)
        return volume

    def ensure(
        self,
        name: str,
        driver: str = "",
        options: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        owner: str = "",
    ) -> Volume:
        """As :meth:`create`; an empty name makes an anonymous volume that belongs to ``owner``."""
        existing = self._volumes.get(name)
        if driver and driver != LOCAL:
            if existing is not None:
                raise Conflict(
                    f"create {name}: driver '{existing.driver}' already has volume '{name}': "
                    "volume name must be unique"
                )
            raise NoSuchVolumeDriver(name, driver)
        if existing is not None:
            return existing
        all_labels = dict(labels or {})
        anonymous = not name
        if anonymous:
            name = new_id()
            all_labels[ANONYMOUS_LABEL] = ""
        try:
            mountpoint = self._driver.create(name, options or {})
        except InvalidArgument as error:
            raise type(error)(f"create {name}: {error.message}") from None
        except OSError as error:
            raise SystemFailure(
                f"create {name}: error while creating volume path '{self._driver.path(name)}': {error}"
            ) from error
        volume = Volume(
            name=name,
            mountpoint=mountpoint,
            created_ns=now_ns(),
            labels=all_labels or None,
            options=dict(options) if options else None,
            anonymous=anonymous,
            owner=owner if anonymous else "",
        )
        try:
            self._keep(volume)
        except SampanError:
            self._driver.remove_empty(name)
            raise
        self._events.publish("volume", "create", name, {"driver": LOCAL})
        return volume

    def add_user(self, name: str, container_id: str) -> None:
        self._users.setdefault(name, {})[container_id] = None

    def drop_user(self, name: str, container_id: str, *, keep: bool) -> None:
        """The container is gone. A volume that it owned, and that is to ``keep``, is nobody's from now on."""
        users = self._users.get(name)
        if users is not None:
            users.pop(container_id, None)
            if not users:
                del self._users[name]
        volume = self._volumes.get(name)
        if keep and volume is not None and volume.owner == container_id:
            self._keep(msgspec.structs.replace(volume, owner=""))

    async def remove_if_unused(self, name: str) -> None:
        if name in self._volumes and not self._users.get(name):
            await self._delete(name)

    async def mount(self, name: str, holder: str) -> str:
        """Make the volume's data reachable at the path answered, until :meth:`unmount` by the same holder.

        Raises NoSuchVolume, VolumeNotMounted."""
        volume = self.require(name)
        if not needs_mount(volume.options):
            return volume.mountpoint
        async with self._locks.hold("volume", name):
            self._mounts.setdefault(name, set()).add(holder)
            try:
                await asyncio.to_thread(self._driver.mount, name, volume.options)
            except VolumeNotMounted as error:
                self._mounts[name].discard(holder)
                raise VolumeNotMounted(
                    f"error while mounting volume '{volume.mountpoint}': {error.message}"
                ) from error
        return volume.mountpoint

    async def unmount(self, name: str, holder: str) -> None:
        """Idempotent. The last one unmounts."""
        if holder not in self._mounts.get(name, ()):
            return
        async with self._locks.hold("volume", name):
            holders = self._mounts.get(name, set())
            holders.discard(holder)
            if not holders:
                self._mounts.pop(name, None)
                await asyncio.to_thread(self._driver.unmount, name)

    def still_mounted(self, name: str, holder: str) -> None:
        """Recovery: a running container has the volume mounted."""
        volume = self._volumes.get(name)
        if volume is not None and needs_mount(volume.options):
            self._mounts.setdefault(name, set()).add(holder)

    # --- inside -------------------------------------------------------------------------------------------

    def _keep(self, volume: Volume) -> None:
        self._table.put(volume)
        self._volumes[volume.name] = volume

    def _require_unused(self, name: str) -> None:
        self.require(name)
        users = self._users.get(name)
        if users:
            raise VolumeInUse(name, list(users))

    async def _delete(self, name: str) -> None:
        volume = self._volumes.pop(name)
        # first aside, then out of the store: a record without directory is cleared away at start-up,
        # a directory without record would come back as a volume
        try:
            trash = self._driver.discard(name)
        except OSError as error:
            self._volumes[name] = volume
            raise SystemFailure(f"remove {name}: error removing volume path: {error}") from error
        self._table.delete(name)
        self._events.publish("volume", "destroy", name, {"driver": volume.driver})
        await asyncio.to_thread(self._driver.empty_trash, trash)


def _all_filter(filters: Filters) -> bool:
    values = filters.get("all")
    if len(values) > 1:
        raise InvalidFilter(f"invalid filter 'all=[{' '.join(values)}]': only one value is expected")
    if not values:
        return False
    value = values[0].lower()
    if value in ("1", "t", "true"):
        return True
    if value in ("0", "f", "false"):
        return False
    raise InvalidFilter(f"invalid filter 'all': strconv.ParseBool: parsing \"{values[0]}\": invalid syntax")
