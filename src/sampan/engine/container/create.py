"""``create``: decide everything about a container and write it down. Nothing runs yet."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager

import msgspec

from sampan.base.clock import now_ns
from sampan.base.crashpoints import crash_point
from sampan.base.errors import ResourceExhausted
from sampan.base.ids import new_id
from sampan.engine.collaborators import ImageSource, MountResolver, Validator
from sampan.engine.network.endpoints import require_usable
from sampan.model.container import Container, ContainerConfig, EndpointConfig, HostConfig, MountPoint
from sampan.model.image import Image

from .defaults import EngineDefaults, complete_host
from .imageconfig import entrypoint_and_args, merge_config
from .ledger import Ledger
from .links import check_links
from .names import NameTaken, random_name, require_valid_name

GENERATED_NAME_ATTEMPTS = 6


class Creator:
    """Makes containers."""

    def __init__(
        self,
        ledger: Ledger,
        images: ImageSource,
        mounts: MountResolver,
        validate: Validator,
        defaults: EngineDefaults,
    ) -> None:
        self._ledger = ledger
        self._images = images
        self._mounts = mounts
        self._validate = validate
        self._defaults = defaults
        self._reserved: dict[str, str] = {}
        self._random = random.SystemRandom()

    async def create(
        self,
        name: str,
        config: ContainerConfig,
        host: HostConfig,
        networks: dict[str, EndpointConfig],
        platform: str = "",
    ) -> tuple[str, list[str]]:
        """The new id and warnings. Raises InvalidArgument, NotFound (image) or Conflict (name); then
        nothing is left."""
        warnings = list(self._validate(config, host))
        require_usable(networks)
        image = await self._images.resolve(config.image, platform) if config.image else None
        check_links(host, self._ledger.registry)
        container_id = new_id()
        with self._reserve(name, container_id) as bare_name:
            host = complete_host(host, self._defaults, self._ledger.registry.find)
            config = merge_config(config, image.config.config if image is not None else None)
            config = _with_hostname(config, host, container_id)
            async with AsyncExitStack() as undo:
                self._make_directories(container_id)
                undo.callback(self._remove_directories, container_id)
                crash_point("container.create.directories")
                mounts = await self._mounts.resolve(container_id, config, host, image)
                undo.push_async_callback(self._mounts.release, container_id, mounts, anonymous=True)
                crash_point("container.create.mounts")
                if image is not None:
                    # it may have been removed while the mounts were made; nothing waits from here to insert
                    await self._images.resolve(image.id)
                record = _record(
                    container_id, bare_name, config, host, _endpoints(host, networks), mounts, image
                )
                entry = self._ledger.insert(record)
                undo.pop_all()
        if image is not None:
            entry.manifest_digest = image.manifest_digest
            entry.image_size_bytes = image.size_bytes
        crash_point("container.create.stored")
        self._ledger.publish(entry, "create")
        return container_id, warnings

    @contextmanager
    def _reserve(self, name: str, container_id: str) -> Iterator[str]:
        """Keep a name for this container while the rest is made; a new one if ``name`` is empty."""
        bare = require_valid_name(name) if name else self._free_name(container_id)
        self.require_free(bare)
        self._reserved[bare] = container_id
        try:
            yield bare
        finally:
            del self._reserved[bare]

    def require_free(self, bare_name: str) -> None:
        """Raises NameTaken."""
        owner = self._owner(bare_name)
        if owner is not None:
            raise NameTaken(bare_name, owner)

    def _owner(self, bare_name: str) -> str | None:
        entry = self._ledger.registry.find_name(bare_name)
        return entry.id if entry is not None else self._reserved.get(bare_name)

    def _free_name(self, container_id: str) -> str:
        for attempt in range(GENERATED_NAME_ATTEMPTS):
            name = random_name(self._random, attempt)
            if self._owner(name) is None:
                return name
        return container_id[:12]

    def _make_directories(self, container_id: str) -> None:
        layout = self._ledger.layout
        try:
            os.mkdir(layout.container(container_id), 0o710)
            os.mkdir(layout.upper(container_id), 0o755)
            os.mkdir(layout.work(container_id), 0o700)
        except OSError as error:
            self._remove_directories(container_id)
            raise ResourceExhausted(f"create container directory: {error}") from error

    def _remove_directories(self, container_id: str) -> None:
        shutil.rmtree(self._ledger.layout.container(container_id), ignore_errors=True)


def _with_hostname(config: ContainerConfig, host: HostConfig, container_id: str) -> ContainerConfig:
    if config.hostname:
        return config
    own = os.uname().nodename if host.network_mode == "host" else container_id[:12]
    return msgspec.structs.replace(config, hostname=own)


def _endpoints(host: HostConfig, networks: dict[str, EndpointConfig]) -> dict[str, EndpointConfig]:
    """Networks to join. Those named in the request, else the one of the network mode."""
    if host.network_mode.startswith("container:"):
        return {}
    if networks:
        return {("bridge" if name == "default" else name): config for name, config in networks.items()}
    return {host.network_mode: EndpointConfig()}


def _record(
    container_id: str,
    name: str,
    config: ContainerConfig,
    host: HostConfig,
    networks: dict[str, EndpointConfig],
    mounts: list[MountPoint],
    image: Image | None,
) -> Container:
    path, args = entrypoint_and_args(config)
    return Container(
        id=container_id,
        name=name,
        created_ns=now_ns(),
        image_id=image.id if image is not None else "",
        image_ref=config.image,
        path=path,
        args=args,
        config=config,
        host=host,
        networks=networks if not config.network_disabled else {},
        mounts=mounts,
        layer_ids=list(image.chain_ids) if image is not None else [],
    )
