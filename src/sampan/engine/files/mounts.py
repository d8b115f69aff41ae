"""From what a caller asks to be mounted to mount points at create time, and to host paths at start time.

Create decides (:meth:`MountResolver.resolve`), each start makes it reachable (:meth:`MountResolver.prepare`),
each exit lets go (:meth:`MountResolver.finish`), removal forgets (:meth:`MountResolver.release`).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from contextlib import AsyncExitStack

import msgspec

from sampan.base.errors import InvalidArgument, NotImplementedYet, SystemFailure
from sampan.engine.collaborators import ImageSource
from sampan.engine.container.layout import Layout
from sampan.engine.container.mountpoints import provide_mount_points
from sampan.engine.container.registry import Registry
from sampan.engine.events import Events
from sampan.formats.bind import (
    InvalidMount,
    bind_conflict,
    clean_path,
    parse_bind,
    parse_volumes_from,
    point_of,
    target_problem,
    validate,
)
from sampan.kernel.mount import detached_overlay
from sampan.kernel.mountinfo import containing_mount
from sampan.kernel.paths import open_in_root
from sampan.model.container import (
    BindOptions,
    Container,
    ContainerConfig,
    HostConfig,
    Mount,
    MountPoint,
    VolumeOptions,
)
from sampan.model.image import Image
from sampan.volumes.copyup import copy_tree
from sampan.volumes.errors import SubpathNotFound
from sampan.volumes.local import LocalDriver

from .volumes import Volumes

POPULATE = "populate"


class DuplicateMount(InvalidArgument):
    def __init__(self, destination: str) -> None:
        super().__init__(f"Duplicate mount point: {destination}")


class MountResolver:
    """The mounts of containers. One instance per engine."""

    def __init__(
        self,
        registry: Registry,
        volumes: Volumes,
        driver: LocalDriver,
        images: ImageSource,
        layout: Layout,
        events: Events,
    ) -> None:
        self._registry = registry
        self._volumes = volumes
        self._driver = driver
        self._images = images
        self._layout = layout
        self._events = events
        self._open: dict[str, list[int]] = {}
        """Descriptors of subpaths that running containers were started from."""

    # --- create -------------------------------------------------------------------------------------------

    async def resolve(
        self, container_id: str, config: ContainerConfig, host: HostConfig, image: Image | None
    ) -> list[MountPoint]:
        """Every mount of a new container. Later kinds replace earlier ones at the same destination:
        --volumes-from, then -v, then --mount; the image's VOLUMEs take what is left.

        Volumes that do not exist are made, and filled from the image while they are empty. Raises
        InvalidMount, DuplicateMount, InvalidVolume; then no volume is left that was made here.
        """
        if image is not None:
            provide_mount_points(self._layout, image.chain_ids)
        points = self._inherited(host)
        points.update(self._requested(host))
        points.update(_declared(config, host, points))
        if not points:
            return []
        made: list[MountPoint] = []
        async with AsyncExitStack() as undo:
            undo.push_async_callback(self.release, container_id, made, anonymous=True)
            for point in points.values():
                # not a comprehension: what is made so far must be known when one of them fails
                made.append(await self._with_source(container_id, point, host))  # noqa: PERF401
            copies = [point for point in made if point.type == "volume" and point.copy_up]
            if copies and image is not None and image.chain_ids:
                await self._populate(container_id, copies, image)
            undo.pop_all()
        return made

    def _inherited(self, host: HostConfig) -> dict[str, MountPoint]:
        points: dict[str, MountPoint] = {}
        for text in host.volumes_from or []:
            reference, writable = parse_volumes_from(text)
            entry = self._registry.find(reference)
            if entry is None:
                raise InvalidMount(f"No such container: {reference}")
            for point in entry.record.mounts:
                points[point.destination] = msgspec.structs.replace(
                    point, rw=point.rw and writable, mode="", copy_up=False
                )
        return points

    def _requested(self, host: HostConfig) -> dict[str, MountPoint]:
        points: dict[str, MountPoint] = {}
        for target in host.tmpfs or {}:
            problem = target_problem(target)
            if problem:
                raise InvalidMount(problem)
        for text in host.binds or []:
            bind = parse_bind(text, host.volume_driver)
            point = point_of(_with_directory_made(bind.mount), bind.mode)
            if point.destination in points or point.destination in (host.tmpfs or {}):
                raise DuplicateMount(point.destination)
            points[point.destination] = point
        for mount in host.mounts or []:
            validate(mount)
            _require_bind_source(mount)
            point = point_of(mount)
            if point.destination in points:
                raise DuplicateMount(mount.target)
            points[point.destination] = point
        return points

    async def _with_source(self, container_id: str, point: MountPoint, host: HostConfig) -> MountPoint:
        if point.type == "image":
            return await self._with_image(point)
        if point.type != "volume":
            return point
        if point.source:  # taken over from another container
            self._volumes.add_user(self._volumes.ensure(point.name).name, container_id)
            return point
        options = (point.spec.volume_options if point.spec else None) or VolumeOptions()
        driver_options = options.driver_config.options if options.driver_config else None
        existing_driver = point.driver if point.spec is not None else host.volume_driver
        volume = self._volumes.ensure(
            point.name, existing_driver, driver_options, options.labels, owner=container_id
        )
        self._volumes.add_user(volume.name, container_id)
        mode = "z" if point.spec is not None and not point.mode else point.mode
        return msgspec.structs.replace(
            point, name=volume.name, driver=volume.driver, source=volume.mountpoint, mode=mode
        )

    async def _with_image(self, point: MountPoint) -> MountPoint:
        if point.name:  # taken over from another container, so decided already
            return point
        if point.spec and point.spec.image_options and point.spec.image_options.subpath:
            raise NotImplementedYet("image mounts with a subpath are not supported: mount the whole image")
        image = await self._images.resolve(point.source)
        return msgspec.structs.replace(point, name=point.source, source=image.id)

    async def _populate(self, container_id: str, points: Sequence[MountPoint], image: Image) -> None:
        """Copy the image's content into empty volumes, as Docker does when it creates a container."""
        holder = f"{POPULATE}:{container_id}"
        lower = [self._layout.layer(chain_id) for chain_id in reversed(image.chain_ids)]
        root_fd = detached_overlay(lower)
        try:
            for point in points:
                source_fd = _open_directory(root_fd, point)
                if source_fd < 0:
                    continue
                try:
                    await self._volumes.mount(point.name, holder)
                    try:
                        await asyncio.to_thread(self._copy, source_fd, point)
                    finally:
                        await self._volumes.unmount(point.name, holder)
                finally:
                    os.close(source_fd)
        except OSError as error:
            raise SystemFailure(f"failed to populate volume: {error}") from error
        finally:
            os.close(root_fd)

    def _copy(self, source_fd: int, point: MountPoint) -> None:
        subpath = _subpath(point)
        try:
            target_fd = self._driver.open_subpath(point.name, subpath, os.O_RDONLY | os.O_DIRECTORY)
        except SubpathNotFound:
            return  # the start will say so; nothing to fill
        try:
            if not os.listdir(target_fd):
                copy_tree(source_fd, target_fd)
        finally:
            os.close(target_fd)

    # --- start and exit -----------------------------------------------------------------------------------

    async def prepare(self, record: Container) -> list[MountPoint]:
        """The mount points with sources that exist now, outer destinations first.

        Makes missing directories of ``-v``, mounts volumes with options, opens subpaths: a source may then
        be ``/proc/<pid>/fd/<n>`` of this process. An image mount's source is its layer directories, topmost
        first, joined by colons. Raises InvalidMount, NotFound, VolumeNotMounted; then nothing is held.
        """
        provide_mount_points(self._layout, record.layer_ids)
        if not record.mounts:
            return []
        covered = record.host.tmpfs or {}
        async with AsyncExitStack() as undo:
            undo.push_async_callback(self._let_go, record, silently=True)
            points = [
                await self._prepare_one(record, point)
                for point in record.mounts
                if point.destination not in covered
            ]
            undo.pop_all()
        for point in record.mounts:
            if point.type == "volume":
                self._publish(record, point, "mount")
        return sorted(points, key=lambda point: point.destination.count("/"))

    async def _prepare_one(self, record: Container, point: MountPoint) -> MountPoint:
        if point.type == "volume":
            path = await self._volumes.mount(point.name, record.id)
            subpath = _subpath(point)
            if subpath:
                fd = self._driver.open_subpath(point.name, subpath)
                self._open.setdefault(record.id, []).append(fd)
                path = f"/proc/{os.getpid()}/fd/{fd}"
            return msgspec.structs.replace(point, source=path)
        if point.type == "bind":
            _prepare_bind(point)
        elif point.type == "image":
            image = await self._images.resolve(point.source)
            lower = [self._layout.layer(chain_id) for chain_id in reversed(image.chain_ids)]
            return msgspec.structs.replace(point, source=":".join(lower))
        return point

    def launched(self, container_id: str) -> None:
        """The container has its own mounts now: the descriptors it was started from can go. Idempotent."""
        for fd in self._open.pop(container_id, ()):
            os.close(fd)

    async def finish(self, record: Container) -> None:
        """The container has ended. Idempotent but for the events."""
        await self._let_go(record, silently=False)

    async def _let_go(self, record: Container, *, silently: bool) -> None:
        self.launched(record.id)
        for point in record.mounts:
            if point.type == "volume":
                await self._volumes.unmount(point.name, record.id)
                if not silently:
                    self._publish(record, point, "unmount")

    def recovered(self, record: Container) -> None:
        """The container was running when the daemon came back: its volumes stay mounted."""
        for point in record.mounts:
            if point.type == "volume":
                self._volumes.still_mounted(point.name, record.id)

    def _publish(self, record: Container, point: MountPoint, action: str) -> None:
        attributes = {"driver": point.driver, "container": record.id}
        if action == "mount":
            attributes["destination"] = point.destination
            attributes["read/write"] = "true" if point.rw else "false"
            attributes["propagation"] = point.propagation
        self._events.publish("volume", action, point.name, attributes)

    # --- remove -------------------------------------------------------------------------------------------

    async def release(self, container_id: str, mounts: Sequence[MountPoint], *, anonymous: bool) -> None:
        """The container is gone. ``anonymous``: its anonymous volumes go too, unless others use them."""
        self.launched(container_id)
        for point in mounts:
            if point.type != "volume":
                continue
            self._volumes.drop_user(point.name, container_id, keep=not anonymous)
            if anonymous and point.created_by_mount:
                await self._volumes.remove_if_unused(point.name)


def _declared(
    config: ContainerConfig, host: HostConfig, taken: dict[str, MountPoint]
) -> dict[str, MountPoint]:
    """VOLUMEs of the image and ``-v /path`` of old clients, where nothing else is mounted."""
    points: dict[str, MountPoint] = {}
    for text in sorted(config.volumes or {}):
        destination = clean_path(text)
        problem = target_problem(destination)
        if problem:
            raise InvalidMount(f"invalid volume specification: '{text}': {problem}")
        if destination not in taken and destination not in (host.tmpfs or {}):
            points[destination] = MountPoint(
                type="volume", destination=destination, copy_up=True, created_by_mount=True
            )
    return points


def _with_directory_made(mount: Mount) -> Mount:
    """``-v`` makes a missing host directory, ``--mount`` only when told so."""
    if mount.type != "bind":
        return mount
    options = msgspec.structs.replace(mount.bind_options or BindOptions(), create_mountpoint=True)
    return msgspec.structs.replace(mount, bind_options=options)


def _creates_directory(mount: Mount | None) -> bool:
    return bool(mount is not None and mount.bind_options is not None and mount.bind_options.create_mountpoint)


def _require_bind_source(mount: Mount) -> None:
    if mount.type == "bind" and not _creates_directory(mount) and not os.path.exists(mount.source):
        raise InvalidMount(
            f'invalid mount config for type "bind": bind source path does not exist: {mount.source}'
        )


def _prepare_bind(point: MountPoint) -> None:
    if point.spec is not None:
        conflict = bind_conflict(point.spec)
        if conflict:
            raise InvalidMount(conflict)
    if not os.path.exists(point.source):
        if not _creates_directory(point.spec):
            raise InvalidMount(
                f'invalid mount config for type "bind": bind source path does not exist: {point.source}'
            )
        try:
            os.makedirs(point.source, 0o755, exist_ok=True)
        except NotADirectoryError:
            pass  # the mount itself will tell
        except OSError as error:
            raise SystemFailure(
                f"error while creating mount source path '{point.source}': mkdir {point.source}: "
                f"{(error.strerror or '').lower()}"
            ) from error
    _require_propagation(point)


def _require_propagation(point: MountPoint) -> None:
    """A container can share mounts with the host only where the host's own mount is shared."""
    kind = point.propagation.removeprefix("r")
    if kind not in ("shared", "slave"):
        return
    found = containing_mount(os.path.realpath(point.source))
    if found.shared or (kind == "slave" and found.slave):
        return
    wanted = "shared" if kind == "shared" else "shared or slave"
    raise SystemFailure(f"path {point.source} is mounted on {found.target} but it is not a {wanted} mount")


def _subpath(point: MountPoint) -> str:
    options = point.spec.volume_options if point.spec is not None else None
    return options.subpath if options is not None else ""


def _open_directory(root_fd: int, point: MountPoint) -> int:
    """The image's directory at the destination, or -1. Raises InvalidMount over a file for a VOLUME."""
    try:
        return open_in_root(root_fd, point.destination, os.O_RDONLY | os.O_DIRECTORY)
    except NotADirectoryError:
        if point.spec is None:
            raise InvalidMount(
                f"cannot mount volume over existing file, file exists {point.destination}"
            ) from None
        return -1
    except FileNotFoundError:
        return -1
