"""The engine as this front end sees it: Protocols declared by their consumer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from sampan.engine.container.views import (
    ContainerView,
    ExecConfig,
    ExecView,
    HostConfigUpdate,
    PruneResult,
    TopResult,
    WaitResult,
)
from sampan.model.container import ContainerConfig, EndpointConfig, HostConfig
from sampan.model.event import Event
from sampan.model.image import Image
from sampan.model.network import Network
from sampan.model.volume import Volume

Filters = Mapping[str, Sequence[str]]


class AttachSession(Protocol):
    """One attached client. Detach keys are handled inside: the output ends."""

    @property
    def tty(self) -> bool: ...
    async def read(self, limit: int = 65536) -> bytes:
        """Output: raw with a tty, else framed; b"" is the end."""

    async def write(self, data: bytes) -> None: ...
    def write_eof(self) -> None: ...
    async def close(self) -> None: ...


class Containers(Protocol):
    @property
    def generation(self) -> int:
        """Another number after each change of any container; 0 where that is not known."""

    async def create(
        self,
        name: str,
        config: ContainerConfig,
        host: HostConfig,
        networks: dict[str, EndpointConfig],
        platform: str = "",
    ) -> tuple[str, list[str]]: ...
    async def inspect(self, ref: str, size: bool = False) -> ContainerView: ...
    async def with_size(self, view: ContainerView) -> ContainerView: ...
    def list(self, all: bool, limit: int, size: bool, filters: Filters) -> list[ContainerView]: ...  # noqa: A002
    async def start(self, ref: str, detach_keys: str = "") -> None: ...
    async def stop(self, ref: str, timeout_s: int | None = None, signal: str = "") -> None: ...
    async def restart(self, ref: str, timeout_s: int | None = None, signal: str = "") -> None: ...
    async def kill(self, ref: str, signal: str = "") -> None: ...
    async def pause(self, ref: str) -> None: ...
    async def unpause(self, ref: str) -> None: ...
    async def rename(self, ref: str, new_name: str) -> None: ...
    async def update(self, ref: str, changes: HostConfigUpdate) -> Sequence[str]: ...
    async def remove(
        self, ref: str, *, force: bool = False, volumes: bool = False, link: bool = False
    ) -> None: ...
    async def prune(self, filters: Filters) -> PruneResult: ...
    async def wait(self, ref: str, condition: str) -> Awaitable[WaitResult]: ...
    async def top(self, ref: str, ps_args: str) -> TopResult: ...
    async def resize(self, ref: str, height: int, width: int) -> None: ...
    async def attach(
        self,
        ref: str,
        *,
        stdin: bool,
        stdout: bool,
        stderr: bool,
        stream: bool,
        logs: bool,
        detach_keys: str,
    ) -> AttachSession: ...
    def logs(
        self,
        ref: str,
        *,
        stdout: bool,
        stderr: bool,
        since_ns: int,
        until_ns: int,
        timestamps: bool,
        tail: int | None,
        follow: bool,
        details: bool,
        merged: bool,
    ) -> AsyncIterator[bytes]: ...


class Execs(Protocol):
    async def create(self, ref: str, config: ExecConfig) -> str: ...
    async def start(
        self, exec_id: str, *, detach: bool, tty: bool, console_size: tuple[int, int] | None
    ) -> AttachSession | None: ...
    async def inspect(self, exec_id: str) -> ExecView: ...
    async def resize(self, exec_id: str, height: int, width: int) -> None: ...


class Stats(Protocol):
    async def sample(self, ref: str, one_shot: bool) -> Any: ...
    def stream(self, ref: str) -> AsyncIterator[Any]: ...


class PathStat(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def mode(self) -> int:
        """As Go's os.FileMode."""

    @property
    def mtime_ns(self) -> int: ...
    @property
    def link_target(self) -> str: ...


class Archive(Protocol):
    async def stat(self, ref: str, path: str) -> Any: ...
    async def get(self, ref: str, path: str) -> tuple[AsyncIterator[bytes], Any]: ...
    async def put(
        self,
        ref: str,
        path: str,
        body: AsyncIterator[bytes],
        *,
        no_overwrite_dir_non_dir: bool,
        copy_uid_gid: bool,
    ) -> None: ...
    async def changes(self, ref: str) -> Sequence[Any]: ...
    def export(self, ref: str) -> AsyncIterator[bytes]: ...


class Images(Protocol):
    async def resolve(self, ref: str) -> Image: ...
    def __getattr__(self, name: str) -> Any: ...


class Volumes(Protocol):
    async def create(
        self, name: str, driver: str, options: dict[str, str], labels: dict[str, str]
    ) -> Volume: ...
    async def list(self, filters: Filters) -> tuple[list[Volume], list[str]]: ...
    async def inspect(self, name: str) -> Volume: ...
    async def remove(self, name: str, force: bool = False) -> None: ...
    async def prune(self, filters: Filters) -> PruneResult: ...


class Networks(Protocol):
    async def list(self, filters: Filters) -> list[Any]: ...
    async def inspect(self, ref: str) -> Any: ...
    def __getattr__(self, name: str) -> Any: ...


class System(Protocol):
    async def info(self) -> Any: ...
    async def version(self) -> Any: ...
    async def df(self, types: Sequence[str]) -> Any: ...
    async def data_root_usage(self) -> Any: ...


class Events(Protocol):
    def subscribe(self, since_ns: int, until_ns: int, filters: Filters) -> AsyncIterator[Event]: ...


class Engine(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the routes call, built by sampan.daemon.wiring."""

    containers: Containers
    execs: Execs
    archive: Archive
    images: Any
    commits: Any
    volumes: Volumes
    networks: Any
    system: System
    events: Events
    stats: Stats
    transfers: Any = None
    upkeep: Any = None
    tracer: Any = None
    traffic: Any = None
    explain: Any = None
    """``async explain(ref) -> list[str]``: the plan of a container, line by line."""


__all__ = ["Network"]
