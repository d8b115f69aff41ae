"""``GET /info``, ``/version`` and ``/system/df`` with Docker's names on the wire."""

from __future__ import annotations

import msgspec
from msgspec import field

from sampan.engine.container.views import ContainerView
from sampan.engine.files.volumes import VolumeUsage
from sampan.engine.image.views import ImageSummary

Pairs = list[tuple[str, str]]


class SystemSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the daemon was told about itself; the system service only repeats it."""

    id: str
    server_version: str
    """The Docker Engine whose behaviour is served; clients compare with it."""
    version: str
    """Of Sampan."""
    api_version: str
    min_api_version: str
    data_root: str
    labels: list[str] = []
    debug: bool = False
    experimental: bool = False
    log_driver: str = "json-file"
    default_runtime: str = "runc"
    runtimes: dict[str, str] = {}
    """Further names that ``--runtime`` accepts, with their paths."""
    cgroup_driver: str = "cgroupfs"
    init_binary: str = "docker-init"
    seccomp_profile: str = "builtin"
    no_new_privileges: bool = False
    userns_remap: bool = False
    insecure_registries: list[str] = []
    registry_mirrors: list[str] = []
    http_proxy: str = ""
    https_proxy: str = ""
    no_proxy: str = ""
    address_pools: list[tuple[str, int]] = []
    """Base and size of the pools that were configured; empty for the built-in ones."""
    network_drivers: tuple[str, ...] = ("bridge", "host", "null")
    tcp_hosts: list[str] = []
    """TCP sockets without client verification, as ``address``: warned about."""


class PluginsInfo(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    volume: list[str]
    network: list[str]
    authorization: list[str] | None = None
    log: list[str]


class IndexInfo(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    name: str
    mirrors: list[str]
    secure: bool
    official: bool


class RegistryConfig(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    insecure_registry_cidrs: list[str] = field(name="InsecureRegistryCIDRs")
    index_configs: dict[str, IndexInfo]
    mirrors: list[str] | None


class RuntimeInfo(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    status: dict[str, str]


class SwarmInfo(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    node_id: str = field(default="", name="NodeID")
    node_addr: str = ""
    local_node_state: str = "inactive"
    control_available: bool = False
    error: str = ""
    remote_managers: None = None


class Commit(msgspec.Struct, frozen=True, kw_only=True):
    id: str = field(name="ID")


class AddressPool(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    base: str
    size: int


class FirewallInfo(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    driver: str
    info: Pairs | msgspec.UnsetType = msgspec.UNSET


class SystemInfo(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    id: str = field(name="ID")
    containers: int
    containers_running: int
    containers_paused: int
    containers_stopped: int
    images: int
    driver: str
    driver_status: Pairs
    plugins: PluginsInfo
    memory_limit: bool
    swap_limit: bool
    cpu_cfs_period: bool
    cpu_cfs_quota: bool
    cpu_shares: bool = field(name="CPUShares")
    cpu_set: bool = field(name="CPUSet")
    pids_limit: bool
    ipv4_forwarding: bool = field(name="IPv4Forwarding")
    debug: bool
    n_fd: int = field(name="NFd")
    oom_kill_disable: bool
    n_goroutines: int = field(name="NGoroutines")
    """Tasks and threads of the daemon: the same question asked of Python."""
    system_time: str
    logging_driver: str
    cgroup_driver: str
    cgroup_version: str
    n_events_listener: int = field(name="NEventsListener")
    kernel_version: str
    operating_system: str
    os_version: str = field(name="OSVersion")
    os_type: str = field(default="linux", name="OSType")
    architecture: str
    index_server_address: str = "https://index.docker.io/v1/"
    registry_config: RegistryConfig
    ncpu: int = field(name="NCPU")
    mem_total: int
    generic_resources: None = None
    docker_root_dir: str
    http_proxy: str
    https_proxy: str
    no_proxy: str
    name: str
    labels: list[str]
    experimental_build: bool
    server_version: str
    runtimes: dict[str, RuntimeInfo]
    default_runtime: str
    swarm: SwarmInfo = SwarmInfo()
    live_restore_enabled: bool = True
    """Containers always outlive the daemon here."""
    isolation: str = ""
    init_binary: str
    containerd_commit: Commit
    runc_commit: Commit
    init_commit: Commit
    security_options: list[str]
    default_address_pools: list[AddressPool] | msgspec.UnsetType
    firewall_backend: FirewallInfo
    cdi_spec_dirs: list[str] = field(default=[], name="CDISpecDirs")
    discovered_devices: list[str] = []
    warnings: list[str] | None


class Component(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    name: str
    version: str
    details: dict[str, str]


class Platform(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    name: str


class SystemVersion(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    platform: Platform
    components: list[Component]
    version: str
    api_version: str
    min_api_version: str = field(name="MinAPIVersion")
    git_commit: str
    go_version: str
    os: str
    arch: str
    kernel_version: str
    build_time: str


class DiskUsage(msgspec.Struct, frozen=True, kw_only=True):
    """None for a kind that was not asked for."""

    layers_size: int = 0
    """Bytes of all layers, each counted once."""
    images: list[ImageSummary] | None = None
    containers: list[ContainerView] | None = None
    volumes: list[VolumeUsage] | None = None
    build_cache: list[str] | None = None
    """Always empty: nothing is built here yet."""
