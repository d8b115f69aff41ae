"""What the container services need from the rest of the engine, declared here by the consumer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from sampan.engine.container.views import ExecConfig
from sampan.model.container import Container, ContainerConfig, HostConfig, MountPoint
from sampan.model.image import Image
from sampan.model.launch import ExecRequest, Interface, LaunchRequest
from sampan.model.network import Network
from sampan.store.containers import RunRecord


class ImageSource(Protocol):
    async def resolve(self, ref: str, platform: str = "") -> Image:
        """By name, digest or (short) id. Raises NotFound ``No such image: REF``."""


class MountResolver(Protocol):
    async def resolve(
        self, container_id: str, config: ContainerConfig, host: HostConfig, image: Image | None
    ) -> list[MountPoint]:
        """Every mount of a new container; makes the volumes that do not exist. Leaves nothing when it
        raises."""

    async def prepare(self, record: Container) -> list[MountPoint]:
        """For a start: the mount points with sources that exist now, outer destinations first."""

    def launched(self, container_id: str) -> None:
        """The container has its own mounts now. Idempotent."""

    async def finish(self, record: Container) -> None:
        """The container has ended."""

    def recovered(self, record: Container) -> None:
        """The container was running when the daemon came back."""

    async def release(self, container_id: str, mounts: Sequence[MountPoint], *, anonymous: bool) -> None:
        """The container is gone. ``anonymous``: remove the volumes that were made for it alone."""


class Validator(Protocol):
    def __call__(self, config: ContainerConfig | None, host: HostConfig) -> list[str]:
        """Warnings. Raises InvalidArgument with Docker's texts."""


class NetworkSource(Protocol):
    def find(self, ref: str) -> Network | None:
        """By name or id."""


class LaunchFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a launch needs beside the record: resolved at this very start."""

    run_dir: str
    container_dir: str
    lower: list[str]
    """Directories of the image's layers, topmost first."""
    upper: str
    work: str
    log_path: str
    hostname_path: str
    hosts_path: str
    resolv_conf_path: str
    links: list[Interface] = []
    resolver: str = ""
    """Socket of the name server, for containers on networks with names."""
    joined_pids: dict[str, int] = {}
    """Host pids of the containers whose namespaces are shared: by ``network``, ``pid``, ``ipc``."""
    link_env: list[str] = []


class SpecSource(Protocol):
    """From a record to what the runtime does. Pure."""

    def launch(self, record: Container, facts: LaunchFacts) -> LaunchRequest: ...

    def exec(
        self, record: Container, config: ExecConfig, *, exec_id: str, run_dir: str, pid: int, run: RunRecord
    ) -> ExecRequest: ...
