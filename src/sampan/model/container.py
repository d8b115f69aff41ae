"""Containers as they are requested, stored and shown.

The structs carry Docker's field names on the wire (``rename="pascal"``) because those are the field's
common language: the store keeps the same encoding, and the front end adds only what differs by version.
Sizes are bytes, durations nanoseconds, moments nanoseconds since the epoch unless a name says otherwise.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import field

Labels = dict[str, str]


class HealthConfig(msgspec.Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """How health is probed. ``test`` is [] (inherit), ["NONE"], ["CMD", ...] or ["CMD-SHELL", line]."""

    test: list[str] | None = None
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class ContainerConfig(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """The portable part: what an image's config can also say."""

    hostname: str = ""
    domainname: str = ""
    user: str = ""
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    exposed_ports: dict[str, Any] | None = None
    """Keys are ``80/tcp``; values are empty objects."""
    tty: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    env: list[str] | None = None
    cmd: list[str] | None = None
    healthcheck: HealthConfig | None = None
    args_escaped: bool = False
    image: str = ""
    volumes: dict[str, Any] | None = None
    working_dir: str = ""
    entrypoint: list[str] | None = None
    network_disabled: bool = False
    mac_address: str = ""
    on_build: list[str] | None = None
    labels: Labels | None = None
    stop_signal: str = ""
    stop_timeout: int | None = None
    """Seconds."""
    shell: list[str] | None = None


class Ulimit(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    name: str = ""
    hard: int = 0
    soft: int = 0


class DeviceMapping(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    path_on_host: str = ""
    path_in_container: str = ""
    cgroup_permissions: str = ""


class DeviceRequest(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    driver: str = ""
    count: int = 0
    device_ids: list[str] | None = field(default=None, name="DeviceIDs")
    capabilities: list[list[str]] | None = None
    options: dict[str, str] | None = None


class WeightDevice(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    path: str = ""
    weight: int = 0


class ThrottleDevice(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    path: str = ""
    rate: int = 0


class LogConfig(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    type: str = ""
    config: dict[str, str] | None = None


class RestartPolicy(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    name: str = ""
    """"", "no", "always", "unless-stopped" or "on-failure"."""
    maximum_retry_count: int = 0


class PortBinding(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    host_ip: str = field(default="", name="HostIp")
    host_port: str = ""
    """"" for any, "8080", or a range "8000-8010"."""


class BindOptions(msgspec.Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    propagation: str = ""
    non_recursive: bool = False
    create_mountpoint: bool = False
    read_only_non_recursive: bool = False
    read_only_force_recursive: bool = False


class VolumeDriverConfig(msgspec.Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    name: str = ""
    options: dict[str, str] | None = None


class VolumeOptions(msgspec.Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    no_copy: bool = False
    labels: Labels | None = None
    driver_config: VolumeDriverConfig | None = None
    subpath: str = ""


class ImageOptions(msgspec.Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    subpath: str = ""


class TmpfsOptions(msgspec.Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    size_bytes: int = 0
    mode: int = 0
    options: list[list[str]] | None = None


class Mount(msgspec.Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """One ``--mount``."""

    type: str = ""
    source: str = ""
    target: str = ""
    read_only: bool = False
    consistency: str = ""
    bind_options: BindOptions | None = None
    volume_options: VolumeOptions | None = None
    image_options: ImageOptions | None = None
    tmpfs_options: TmpfsOptions | None = None


class HostConfig(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """The part that ties a container to its host."""

    # resources: what POST /containers/{id}/update may change
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
    devices: list[DeviceMapping] | None = None
    device_cgroup_rules: list[str] | None = None
    device_requests: list[DeviceRequest] | None = None
    memory_reservation: int = 0
    memory_swap: int = 0
    memory_swappiness: int | None = None
    oom_kill_disable: bool | None = None
    pids_limit: int | None = None
    ulimits: list[Ulimit] | None = None
    cpu_count: int = 0
    cpu_percent: int = 0
    io_maximum_iops: int = field(default=0, name="IOMaximumIOps")
    io_maximum_bandwidth: int = field(default=0, name="IOMaximumBandwidth")
    # the rest
    binds: list[str] | None = None
    container_id_file: str = field(default="", name="ContainerIDFile")
    log_config: LogConfig = LogConfig()
    network_mode: str = ""
    port_bindings: dict[str, list[PortBinding] | None] | None = None
    restart_policy: RestartPolicy = RestartPolicy()
    auto_remove: bool = False
    volume_driver: str = ""
    volumes_from: list[str] | None = None
    mounts: list[Mount] | None = None
    console_size: tuple[int, int] = (0, 0)
    annotations: dict[str, str] | None = None
    cap_add: list[str] | None = None
    cap_drop: list[str] | None = None
    cgroupns_mode: str = ""
    dns: list[str] | None = None
    dns_options: list[str] | None = None
    dns_search: list[str] | None = None
    extra_hosts: list[str] | None = None
    group_add: list[str] | None = None
    ipc_mode: str = ""
    cgroup: str = ""
    links: list[str] | None = None
    oom_score_adj: int = 0
    pid_mode: str = ""
    privileged: bool = False
    publish_all_ports: bool = False
    readonly_rootfs: bool = False
    security_opt: list[str] | None = None
    storage_opt: dict[str, str] | None = None
    tmpfs: dict[str, str] | None = None
    uts_mode: str = field(default="", name="UTSMode")
    userns_mode: str = ""
    shm_size: int = 0
    sysctls: dict[str, str] | None = None
    runtime: str = ""
    isolation: str = ""
    init: bool | None = None
    masked_paths: list[str] | None = None
    """None: Docker's default list. []: nothing is masked."""
    readonly_paths: list[str] | None = None


class EndpointIPAMConfig(msgspec.Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    ipv4_address: str = field(default="", name="IPv4Address")
    ipv6_address: str = field(default="", name="IPv6Address")
    link_local_ips: list[str] | None = field(default=None, name="LinkLocalIPs")


class EndpointConfig(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """What a caller asks of one network attachment (the request half of Docker's EndpointSettings)."""

    ipam_config: EndpointIPAMConfig | None = field(default=None, name="IPAMConfig")
    links: list[str] | None = None
    mac_address: str = ""
    aliases: list[str] | None = None
    driver_opts: dict[str, str] | None = None
    gw_priority: int = 0


class Endpoint(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """A live attachment of a running container to a network. Empty strings before start and after exit."""

    network_id: str = field(default="", name="NetworkID")
    endpoint_id: str = field(default="", name="EndpointID")
    gateway: str = ""
    ip_address: str = field(default="", name="IPAddress")
    ip_prefix_len: int = field(default=0, name="IPPrefixLen")
    ipv6_gateway: str = field(default="", name="IPv6Gateway")
    global_ipv6_address: str = field(default="", name="GlobalIPv6Address")
    global_ipv6_prefix_len: int = field(default=0, name="GlobalIPv6PrefixLen")
    mac_address: str = ""
    dns_names: list[str] | None = field(default=None, name="DNSNames")


class MountPoint(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """A mount decided at create time, as ``inspect`` shows it, plus what the planner needs."""

    type: str
    """bind, volume, tmpfs or image."""
    name: str = ""
    source: str = ""
    destination: str
    driver: str = ""
    mode: str = ""
    rw: bool = field(default=True, name="RW")
    propagation: str = ""
    spec: Mount | None = None
    """The --mount it came from, when it came from one: options such as subpath live there."""
    copy_up: bool = False
    """A volume that is filled from the image's content while it is empty."""
    created_by_mount: bool = False
    """An anonymous volume of this container, removed with it on ``rm -v`` and ``--rm``."""


class Container(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """Desired state: what create decided. Liveness is not here; it comes from the kernel and the run root."""

    id: str
    name: str
    """Without Docker's leading slash."""
    created_ns: int
    image_id: str
    """sha256:... of the image's config."""
    image_ref: str
    """As the caller typed it."""
    path: str
    args: list[str]
    config: ContainerConfig
    """Merged with the image's."""
    host: HostConfig
    networks: dict[str, EndpointConfig]
    """By network name as asked."""
    mounts: list[MountPoint]
    layer_ids: list[str]
    """Chain ids of the image's layers, bottom first: what the overlay root stacks."""
    platform: str = "linux"


class ExitRecord(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """The last run of a container, and what its owner wanted: the part of the record that changes."""

    started_ns: int = 0
    finished_ns: int = 0
    exit_code: int = 0
    oom_killed: bool = False
    error: str = ""
    """Why the last start failed."""
    restart_count: int = 0
    stopped_by_user: bool = False
    """``stop`` or ``kill`` was asked for: restart policies respect it until the next start."""
    wanted_running: bool = False
    """Started and not stopped by anybody: restarted at boot under always / unless-stopped."""
    dead: bool = False
    """A removal failed half way."""


class HealthResult(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    start_ns: int
    end_ns: int
    exit_code: int
    output: str


class HealthState(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    status: str = "starting"
    failing_streak: int = 0
    log: tuple[HealthResult, ...] = ()
    """The last five probes."""
