"""The OCI runtime specification (config.json, runtime-spec v1.2) as frozen structs.

It is the one description of a process and its isolation: the engine makes it from a container's record,
``sampan-oci`` reads it from a bundle, and the runtime's planner turns it into operations.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import field


class _OCI(msgspec.Struct, frozen=True, kw_only=True):
    pass


class User(_OCI, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    uid: int = 0
    gid: int = 0
    umask: int | None = None
    additional_gids: list[int] = []


class Box(_OCI, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    height: int = 0
    width: int = 0


class CapabilitySets(_OCI, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    bounding: list[str] = []
    effective: list[str] = []
    inheritable: list[str] = []
    permitted: list[str] = []
    ambient: list[str] = []


class Rlimit(_OCI, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    type: str
    """``RLIMIT_NOFILE`` and so on."""
    soft: int
    hard: int


class Scheduler(_OCI, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    policy: str = ""
    nice: int = 0
    priority: int = 0
    flags: list[str] = []
    runtime: int = 0
    deadline: int = 0
    period: int = 0


class IOPriority(_OCI, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    class_: str = field(default="", name="class")
    priority: int = 0


class ExecCPUAffinity(_OCI, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    initial: str = ""
    final: str = ""


class Process(_OCI, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    terminal: bool = False
    console_size: Box | None = None
    user: User = User()
    args: list[str] = []
    env: list[str] = []
    cwd: str = "/"
    capabilities: CapabilitySets | None = None
    rlimits: list[Rlimit] = []
    no_new_privileges: bool = False
    apparmor_profile: str = ""
    oom_score_adj: int | None = None
    selinux_label: str = ""
    scheduler: Scheduler | None = None
    io_priority: IOPriority | None = None
    exec_cpu_affinity: ExecCPUAffinity | None = field(default=None, name="execCPUAffinity")


class Root(_OCI, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    path: str
    readonly: bool = False


class IDMapping(_OCI, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    container_id: int = field(default=0, name="containerID")
    host_id: int = field(default=0, name="hostID")
    size: int = 0


class OCIMount(_OCI, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    destination: str
    type: str = ""
    source: str = ""
    options: list[str] = []
    uid_mappings: list[IDMapping] = []
    gid_mappings: list[IDMapping] = []


class Namespace(_OCI, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    type: str
    """pid, network, mount, ipc, uts, user, cgroup or time."""
    path: str = ""
    """Join this one instead of making a new one."""


class Device(_OCI, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    path: str
    type: str
    major: int = 0
    minor: int = 0
    file_mode: int | None = None
    uid: int | None = None
    gid: int | None = None


class DeviceRule(_OCI, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    allow: bool
    type: str = ""
    major: int | None = None
    minor: int | None = None
    access: str = ""


class MemoryLimits(_OCI, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    limit: int | None = None
    reservation: int | None = None
    swap: int | None = None
    """Memory plus swap, as in cgroup v1 and Docker; -1 is no limit."""
    kernel: int | None = None
    kernel_tcp: int | None = field(default=None, name="kernelTCP")
    swappiness: int | None = None
    disable_oom_killer: bool | None = field(default=None, name="disableOOMKiller")
    use_hierarchy: bool | None = None
    check_before_update: bool | None = None


class CPULimits(_OCI, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    shares: int | None = None
    quota: int | None = None
    """Microseconds per period."""
    burst: int | None = None
    period: int | None = None
    realtime_runtime: int | None = None
    realtime_period: int | None = None
    cpus: str = ""
    mems: str = ""
    idle: int | None = None


class PidsLimit(_OCI, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    limit: int = 0


class WeightDeviceRule(_OCI, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    major: int
    minor: int
    weight: int | None = None
    leaf_weight: int | None = None


class ThrottleRule(_OCI, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    major: int
    minor: int
    rate: int


class BlockIO(_OCI, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    weight: int | None = None
    leaf_weight: int | None = None
    weight_device: list[WeightDeviceRule] = []
    throttle_read_bps_device: list[ThrottleRule] = []
    throttle_write_bps_device: list[ThrottleRule] = []
    throttle_read_iops_device: list[ThrottleRule] = field(default=[], name="throttleReadIOPSDevice")
    throttle_write_iops_device: list[ThrottleRule] = field(default=[], name="throttleWriteIOPSDevice")


class HugepageLimit(_OCI, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    page_size: str
    limit: int


class InterfacePriority(_OCI, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    name: str
    priority: int


class NetworkCgroup(_OCI, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    class_id: int | None = field(default=None, name="classID")
    priorities: list[InterfacePriority] = []


class Resources(_OCI, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    devices: list[DeviceRule] = []
    memory: MemoryLimits | None = None
    cpu: CPULimits | None = None
    pids: PidsLimit | None = None
    block_io: BlockIO | None = field(default=None, name="blockIO")
    hugepage_limits: list[HugepageLimit] = []
    network: NetworkCgroup | None = None
    rdma: dict[str, Any] = {}
    unified: dict[str, str] = {}


class SyscallArg(_OCI, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    index: int
    value: int
    value_two: int = 0
    op: str


class SyscallRule(_OCI, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    names: list[str]
    action: str
    errno_ret: int | None = None
    args: list[SyscallArg] = []


class Seccomp(_OCI, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A resolved profile: what runtime-spec's config-linux.md calls ``seccomp``."""

    default_action: str
    default_errno_ret: int | None = None
    architectures: list[str] = []
    flags: list[str] = []
    listener_path: str = ""
    listener_metadata: str = ""
    syscalls: list[SyscallRule] = []


class MemoryPolicy(_OCI, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    mode: str
    """``MPOL_BIND`` and so on (set_mempolicy(2))."""
    nodes: str = ""
    """A list such as ``0-3,7``."""
    flags: list[str] = []


class Linux(_OCI, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    uid_mappings: list[IDMapping] = []
    gid_mappings: list[IDMapping] = []
    sysctl: dict[str, str] = {}
    resources: Resources | None = None
    cgroups_path: str = ""
    namespaces: list[Namespace] = []
    devices: list[Device] = []
    seccomp: Seccomp | None = None
    rootfs_propagation: str = ""
    masked_paths: list[str] = []
    readonly_paths: list[str] = []
    mount_label: str = ""
    personality: dict[str, Any] | None = None
    time_offsets: dict[str, dict[str, int]] = {}
    intel_rdt: dict[str, Any] | None = None
    memory_policy: MemoryPolicy | None = None


class Hook(_OCI, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    path: str
    args: list[str] = []
    env: list[str] = []
    timeout: int | None = None


class Hooks(_OCI, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    prestart: list[Hook] = []
    create_runtime: list[Hook] = []
    create_container: list[Hook] = []
    start_container: list[Hook] = []
    poststart: list[Hook] = []
    poststop: list[Hook] = []


class RuntimeSpec(_OCI, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    oci_version: str = "1.2.0"
    process: Process | None = None
    root: Root | None = None
    hostname: str = ""
    domainname: str = ""
    mounts: list[OCIMount] = []
    hooks: Hooks | None = None
    annotations: dict[str, str] = {}
    linux: Linux = Linux()
