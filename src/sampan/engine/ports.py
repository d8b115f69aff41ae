"""What the engine needs from the mechanisms below it, declared by the consumer.

Each Protocol has one contract suite that the real thing and the fake in tests/fakes both pass.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from sampan.model.container import Endpoint, EndpointConfig, PortBinding
from sampan.model.launch import ExecRequest, ExitStatus, Interface, LaunchRequest
from sampan.model.network import NameWish, Network
from sampan.model.oci import Resources


class ByteStream(Protocol):
    """The engine's end of an attached client: output frames in, input bytes out."""

    async def read(self, limit: int = 65536) -> bytes:
        """Output as the client gets it: raw with a tty, else Docker's 8-byte framed. b"" is the end."""

    async def write(self, data: bytes) -> None:
        """Input for the process; waits while the process does not read."""

    def write_eof(self) -> None:
        """No more input from this client."""

    def close(self) -> None:
        """Detach: output for this client is no longer kept."""


class Supervised(Protocol):
    """A process with a monitor: a container's init or an exec."""

    @property
    def id(self) -> str: ...
    @property
    def pid(self) -> int:
        """As the host counts; 0 once it has ended."""

    @property
    def started_ns(self) -> int: ...
    async def wait(self) -> ExitStatus:
        """Any number of waiters; returns at once when it has ended."""

    async def released(self) -> None:
        """After the end: its monitor has removed the control groups and is gone."""

    async def attach(self, *, stdin: bool, stdout: bool, stderr: bool) -> ByteStream: ...
    async def resize(self, height: int, width: int) -> None: ...
    def kill(self, signal: int) -> None:
        """Through a pidfd, so never to a recycled pid. Raises Conflict when the process has ended."""

    async def reopen_log(self) -> None:
        """Close and open the log file again, after somebody else has moved or truncated it."""


class Attachment(Protocol):
    """A client that attached before the start: its stream is connected by the launch, so nothing is lost."""

    stdin: bool
    stdout: bool
    stderr: bool

    def connected(self, stream: ByteStream) -> None: ...


class Runtime(Protocol):
    """Starts processes and finds them again."""

    async def launch(self, request: LaunchRequest, attachments: Sequence[Attachment] = ()) -> Supervised:
        """Returns when execve has succeeded. Raises runtime.errors.StartFailed (exit_code 125/126/127)."""

    async def exec(self, request: ExecRequest, attachments: Sequence[Attachment] = ()) -> Supervised: ...

    async def recover(self, process_id: str, run_dir: str) -> Supervised | ExitStatus | None:
        """After a restart of the daemon: the live process, how it ended meanwhile, or None if unknown."""


class Cgroups(Protocol):
    """cgroup v1 and v2 behind one face. ``path`` is the OCI cgroupsPath, e.g. ``/docker/<id>``."""

    version: int

    def update(self, path: str, resources: Resources) -> None: ...
    def freeze(self, path: str) -> None: ...
    def thaw(self, path: str) -> None: ...
    def processes(self, path: str) -> list[int]:
        """Every pid in the group and below it, as the host counts."""

    def kill(self, path: str) -> None:
        """SIGKILL to everything in the group, frozen or not."""

    def oom_kills(self, path: str) -> int: ...
    def remove(self, path: str) -> None:
        """Idempotent; waits shortly for the kernel to let go of dying members."""


class Networks(Protocol):
    """The network drivers, for one container at a time."""

    def connect(
        self,
        network: Network,
        container_id: str,
        config: EndpointConfig,
        ports: dict[str, list[PortBinding]],
        name: str = "",
    ) -> tuple[Endpoint, Interface | None, dict[str, list[PortBinding]]]:
        """Take addresses and publish ports. Answers the endpoint, the link for the launch (None for the
        networks host and none), and the bindings with the host ports that were really taken. ``name`` is
        the container's, for texts. Raises PortInUse, AddressInUse, PoolExhausted. Nothing is left when it
        raises."""

    def disconnect(self, container_id: str) -> None:
        """Give back the addresses and ports of a container. Idempotent."""

    def recover(
        self,
        container_id: str,
        network: Network,
        endpoint: Endpoint,
        ports: dict[str, list[PortBinding]],
        *,
        config: EndpointConfig | None = None,
    ) -> None:
        """A container that was running when the daemon came back: count its addresses and ports as taken,
        and keep it within what it may reach. ``config`` is what was connected with."""

    def move_ports(
        self, container_id: str, network_id: str, ports: dict[str, list[PortBinding]]
    ) -> dict[str, list[PortBinding]]:
        """Lead ``ports`` to the container's endpoint on another of its networks, and nowhere else; where
        that network publishes none they are withdrawn. Answers what is bound. Raises PortInUse; nothing is
        published then."""

    def show_names(self, container_id: str, wish: NameWish) -> str:
        """Let a container ask for the names on the networks it is on now. The name server's socket; "" when
        none of them has names."""

    def has_view(self, container_id: str) -> bool:
        """Whether it has been shown names."""

    def ensure_names(self) -> None:
        """Have a name server. Raises ResolverFailed."""

    def serve_names(self, container_id: str, pid: int, *, already: bool = False) -> None:
        """A running container is to be answered; ``already`` when its start has seen to that."""

    def rename(self, container_id: str, old: str, new: str) -> dict[str, Endpoint]:
        """A running container is called something else now; its endpoints by network name."""

    def set_health(self, container_id: str, healthy: bool) -> None:
        """Of several containers with one alias those that are healthy come first."""


class LogSource(Protocol):
    def read(
        self,
        path: str,
        *,
        stdout: bool,
        stderr: bool,
        since_ns: int,
        until_ns: int,
        tail: int | None,
        timestamps: bool,
        details: bool,
        follow: AsyncIterator[None] | None,
        framed: bool,
        merged: bool = False,
    ) -> AsyncIterator[bytes]:
        """The log as clients get it, in large chunks."""
