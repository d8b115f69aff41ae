"""What the engine's services answer: frozen snapshots, made once per change and shared by every reader.

``ContainerView.revision`` is different after every change of anything in it, so a front end may keep what
it rendered under ``(record.id, revision)``.
"""

from __future__ import annotations

import msgspec
from msgspec import field

from sampan.model.container import (
    Container,
    Endpoint,
    EndpointConfig,
    HealthState,
    PortBinding,
    RestartPolicy,
    ThrottleDevice,
    Ulimit,
    WeightDevice,
)


class StateView(msgspec.Struct, frozen=True, kw_only=True):
    status: str
    """created, running, paused, restarting, removing, exited or dead."""
    running: bool = False
    """Also true while paused or restarting, as in Docker."""
    paused: bool = False
    restarting: bool = False
    oom_killed: bool = False
    dead: bool = False
    pid: int = 0
    exit_code: int = 0
    error: str = ""
    started_ns: int = 0
    finished_ns: int = 0
    health: HealthState | None = None


class EndpointView(msgspec.Struct, frozen=True, kw_only=True):
    config: EndpointConfig
    live: Endpoint


class ContainerView(msgspec.Struct, frozen=True, kw_only=True):
    record: Container
    state: StateView
    endpoints: dict[str, EndpointView]
    """By network name."""
    ports: dict[str, list[PortBinding]]
    """Bindings in force, by ``80/tcp``; empty unless running."""
    restart_count: int
    exec_ids: list[str]
    size_rw: int | None = None
    """Bytes; only when asked for."""
    size_root_fs: int | None = None
    log_path: str = ""
    hostname_path: str = ""
    hosts_path: str = ""
    resolv_conf_path: str = ""
    sandbox_key: str = ""
    graph: dict[str, str] = {}
    """LowerDir, UpperDir, WorkDir, MergedDir."""
    image_manifest_digest: str = ""
    aliases: list[str] = []
    """What containers that have legacy links to this one call it, ``/web/db``; in listings only."""
    revision: int = 0
    """Views of one revision are the same; 0 is compared with nothing."""


class WaitResult(msgspec.Struct, frozen=True, kw_only=True):
    exit_code: int
    error: str = ""


class PruneResult(msgspec.Struct, frozen=True, kw_only=True):
    deleted: list[str]
    space_reclaimed: int
    """Bytes."""


class TopResult(msgspec.Struct, frozen=True, kw_only=True):
    titles: list[str]
    processes: list[list[str]]


class ExecConfig(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """The body of ``POST /containers/{id}/exec``."""

    user: str = ""
    privileged: bool = False
    tty: bool = False
    console_size: tuple[int, int] | None = None
    """Height, width."""
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    detach_keys: str = ""
    env: list[str] | None = None
    working_dir: str = ""
    cmd: list[str] | None = None


class ExecView(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    container_id: str
    running: bool
    exit_code: int | None
    pid: int
    open_stdin: bool
    open_stdout: bool
    open_stderr: bool
    can_remove: bool
    entrypoint: str
    arguments: list[str]
    tty: bool
    user: str
    privileged: bool | None
    detach_keys: str
    """As bytes decoded latin-1, e.g. ``\\x10\\x11``; empty for the default."""


class HostConfigUpdate(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """The body of ``POST /containers/{id}/update``. As in Docker, zero and absent both mean "as it is"."""

    cpu_shares: int = 0
    memory: int = 0
    nano_cpus: int = 0
    cgroup_parent: str = ""
    blkio_weight: int = 0
    blkio_weight_device: list[WeightDevice] | None = None
    blkio_device_read_bps: list[ThrottleDevice] | None = None
    blkio_device_write_bps: list[ThrottleDevice] | None = None
    blkio_device_read_iops: list[ThrottleDevice] | None = field(default=None, name="BlkioDeviceReadIOps")
    blkio_device_write_iops: list[ThrottleDevice] | None = field(default=None, name="BlkioDeviceWriteIOps")
    cpu_period: int = 0
    cpu_quota: int = 0
    cpu_realtime_period: int = 0
    cpu_realtime_runtime: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    memory_reservation: int = 0
    memory_swap: int = 0
    memory_swappiness: int | None = None
    oom_kill_disable: bool | None = None
    pids_limit: int | None = None
    ulimits: list[Ulimit] | None = None
    restart_policy: RestartPolicy | None = None
