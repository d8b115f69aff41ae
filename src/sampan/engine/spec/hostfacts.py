"""What this host's kernel can isolate and limit: asked once at daemon start, a value afterwards."""

from __future__ import annotations

import os
import platform

import msgspec

from sampan.kernel.cgroup import layout as cgroup_layout
from sampan.security import apparmor


class HostFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The defaults describe a host that can do everything, for tests of pure code."""

    cgroup_version: int = 1
    machine: str = "x86_64"
    kernel: tuple[int, int] = (6, 1)
    cpus: int = 2
    apparmor: bool = False
    """AppArmor is on and the default profile is loaded."""
    seccomp: bool = True
    cgroup_namespaces: bool = True
    memory_limit: bool = True
    swap_limit: bool = True
    memory_reservation: bool = True
    oom_kill_disable: bool = True
    memory_swappiness: bool = True
    cpu_shares: bool = True
    cpu_cfs: bool = True
    cpu_realtime: bool = False
    cpuset: bool = True
    cpuset_cpus: str = "0-1"
    """As the kernel lists them, e.g. ``0-3,8``."""
    cpuset_mems: str = "0"
    pids_limit: bool = True
    blkio_weight: bool = True
    blkio_throttle: bool = True
    ipv4_forwarding: bool = True

    @property
    def recursive_read_only(self) -> bool:
        """mount_setattr(2) is of kernel 5.12."""
        return self.kernel >= (5, 12)


def detect() -> HostFacts:
    """Read /proc and the root groups, and load the AppArmor profile where there is AppArmor.

    Raises FileNotFoundError on a host without cgroups, AppArmorFailed.
    """
    layout = cgroup_layout.detect()
    common = {
        "machine": platform.machine(),
        "kernel": kernel_version(platform.release()),
        "cpus": len(os.sched_getaffinity(0)),
        "apparmor": apparmor.ensure_default_profile(),
        "seccomp": os.path.exists("/proc/sys/kernel/seccomp/actions_avail"),
        "cgroup_namespaces": os.path.exists("/proc/self/ns/cgroup"),
        "ipv4_forwarding": _first_line("/proc/sys/net/ipv4/ip_forward") == "1",
    }
    found = _detect_v1(layout) if layout.version == 1 else _detect_v2(layout)
    return msgspec.convert({**common, **found, "cgroup_version": layout.version}, HostFacts)


def _detect_v1(layout: cgroup_layout.Layout) -> dict[str, object]:
    mounts = layout.mounts

    def has(controller: str, file: str) -> bool:
        return controller in mounts and os.path.exists(f"{mounts[controller]}/{file}")

    return {
        "memory_limit": has("memory", "memory.limit_in_bytes"),
        "swap_limit": has("memory", "memory.memsw.limit_in_bytes"),
        "memory_reservation": has("memory", "memory.soft_limit_in_bytes"),
        "oom_kill_disable": has("memory", "memory.oom_control"),
        "memory_swappiness": has("memory", "memory.swappiness"),
        "cpu_shares": has("cpu", "cpu.shares"),
        # the root group itself has no quota; its children have
        "cpu_cfs": has("cpu", "cpu.cfs_quota_us") or _in_child(mounts.get("cpu"), "cpu.cfs_quota_us"),
        "cpu_realtime": has("cpu", "cpu.rt_runtime_us"),
        "cpuset": "cpuset" in mounts,
        "cpuset_cpus": _first_line(f"{mounts.get('cpuset', '')}/cpuset.cpus"),
        "cpuset_mems": _first_line(f"{mounts.get('cpuset', '')}/cpuset.mems"),
        "pids_limit": "pids" in mounts,
        "blkio_weight": any(
            has("blkio", file) or _in_child(mounts.get("blkio"), file)
            for file in ("blkio.weight", "blkio.bfq.weight")
        ),
        "blkio_throttle": has("blkio", "blkio.throttle.read_bps_device"),
    }


def _detect_v2(layout: cgroup_layout.Layout) -> dict[str, object]:
    root = layout.mounts[""]
    controllers = set(_first_line(root + "/cgroup.controllers").split())
    memory = "memory" in controllers
    return {
        "memory_limit": memory,
        "swap_limit": memory and (_in_child(root, "memory.swap.max") or os.path.exists("/proc/swaps")),
        "memory_reservation": memory,
        "oom_kill_disable": False,
        "memory_swappiness": False,
        "cpu_shares": "cpu" in controllers,
        "cpu_cfs": "cpu" in controllers,
        "cpu_realtime": False,
        "cpuset": "cpuset" in controllers,
        "cpuset_cpus": _first_line(root + "/cpuset.cpus.effective") or _first_line(_ONLINE_CPUS),
        "cpuset_mems": _first_line(root + "/cpuset.mems.effective") or "0",
        "pids_limit": "pids" in controllers,
        "blkio_weight": "io" in controllers
        and any(_in_child(root, file) for file in ("io.weight", "io.bfq.weight")),
        "blkio_throttle": "io" in controllers,
    }


_ONLINE_CPUS = "/sys/devices/system/cpu/online"


def _in_child(root: str | None, file: str) -> bool:
    """Files that root groups lack are looked for in a group of our own making, removed at once."""
    if root is None:
        return False
    probe = f"{root}/sampan-probe-{os.getpid()}"
    try:
        os.mkdir(probe)
    except OSError:
        return any(os.path.exists(f"{child}/{file}") for child in cgroup_layout.children(root))
    try:
        return os.path.exists(f"{probe}/{file}")
    finally:
        os.rmdir(probe)


def _first_line(path: str) -> str:
    try:
        with open(path) as file:
            return file.readline().strip()
    except OSError:
        return ""


def kernel_version(release: str) -> tuple[int, int]:
    """``6.18.44-fc`` is (6, 18)."""
    major, _, rest = release.partition(".")
    digits = ""
    for letter in rest:
        if not letter.isdigit():
            break
        digits += letter
    return int(major or 0), int(digits or 0)


def parse_cpu_list(text: str) -> set[int]:
    """``0-3,8`` as a set. Raises ValueError."""
    result: set[int] = set()
    for part in text.split(","):
        if not part:
            continue
        low, dash, high = part.partition("-")
        if not (low.isdecimal() and (high.isdecimal() or not dash)) or len(part) > 64:
            raise ValueError(f"invalid format: {text[:64]}")
        first, last = int(low), int(high) if dash else int(low)
        if last < first or last > 8192:
            raise ValueError(f"invalid range {part!r}")
        result.update(range(first, last + 1))
    return result
