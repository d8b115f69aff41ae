"""OCI resources to control-file writes, for cgroup v1 and v2. Pure: no file is touched here.

Each function answers ``Write``s in the order in which the kernel accepts them on a new group. Names and
units: Documentation/admin-guide/cgroup-v1/, cgroup-v2.rst, and runtime-spec config-linux.md.
"""

from __future__ import annotations

import math

import msgspec

from sampan.base.errors import InvalidArgument
from sampan.model.oci import BlockIO, CPULimits, DeviceRule, MemoryLimits, Resources, ThrottleRule

UNLIMITED = -1


class Write(msgspec.Struct, frozen=True):
    """``texts`` go to ``file`` of ``controller``, one write(2) each. On v2 the controller is what must be
    enabled for the file to exist ("" for core files)."""

    controller: str
    file: str
    texts: tuple[str, ...]
    optional: bool = False
    """Skipped on kernels without the file."""
    fallback: tuple[str, str] | None = None
    """Another file and its text, for kernels without the first."""


def writes(version: int, resources: Resources) -> list[Write]:
    """All writes for these resources but v2's device filter, which is a program and not a file."""
    return _writes_v1(resources) if version == 1 else _writes_v2(resources)


# --- v1 ---------------------------------------------------------------------------------------------


def _writes_v1(resources: Resources) -> list[Write]:
    result = _devices_v1(resources.devices)
    if resources.memory:
        result += _memory_v1(resources.memory)
    if resources.cpu:
        result += _cpu_v1(resources.cpu)
    if resources.pids and resources.pids.limit:
        result.append(Write("pids", "pids.max", (_number_or_max(resources.pids.limit),)))
    if resources.block_io:
        result += _blkio_v1(resources.block_io)
    result += [
        Write("hugetlb", f"hugetlb.{limit.page_size}.limit_in_bytes", (str(limit.limit),))
        for limit in resources.hugepage_limits
    ]
    if resources.network:
        if resources.network.class_id:
            result.append(Write("net_cls", "net_cls.classid", (str(resources.network.class_id),)))
        if resources.network.priorities:
            texts = tuple(f"{entry.name} {entry.priority}" for entry in resources.network.priorities)
            result.append(Write("net_prio", "net_prio.ifpriomap", texts))
    return result


def _devices_v1(rules: list[DeviceRule]) -> list[Write]:
    """Consecutive rules of one kind share a file descriptor; the order of the rules is kept.

    The first rule of a container is "deny all"; where everything is allowed again afterwards nothing is
    written, since a new group has its parent's access and cannot have more.
    """
    texts: list[tuple[bool, str]] = []
    for rule in rules:
        if not rule.type or rule.type == "a" or (rule.type not in ("b", "c")):
            texts = [] if rule.allow and not texts else [(rule.allow, "a")]
            continue
        texts.append((rule.allow, f"{rule.type} {_device_number(rule)} {rule.access or 'rwm'}"))
    if texts and texts[-1] == (True, "a"):
        return []
    result: list[Write] = []
    for allow, text in texts:
        file = "devices.allow" if allow else "devices.deny"
        if result and result[-1].file == file:
            result[-1] = Write("devices", file, (*result[-1].texts, text))
        else:
            result.append(Write("devices", file, (text,)))
    return result


def _device_number(rule: DeviceRule) -> str:
    def part(value: int | None) -> str:
        return "*" if value is None or value < 0 else str(value)

    return f"{part(rule.major)}:{part(rule.minor)}"


def _memory_v1(memory: MemoryLimits) -> list[Write]:
    """``swap`` is memory plus swap in OCI as in v1. It may not be below the memory limit at any moment, so
    on a new group (both unlimited) the limit comes first."""
    result: list[Write] = []

    def add(file: str, value: int | None, optional: bool = False) -> None:
        if value:
            result.append(Write("memory", file, (str(value),), optional))

    add("memory.limit_in_bytes", memory.limit)
    swap = memory.swap
    if memory.limit == UNLIMITED and not swap:
        swap = UNLIMITED
    add("memory.memsw.limit_in_bytes", swap, optional=swap == UNLIMITED)
    add("memory.soft_limit_in_bytes", memory.reservation)
    add("memory.kmem.tcp.limit_in_bytes", memory.kernel_tcp)
    if memory.disable_oom_killer:
        result.append(Write("memory", "memory.oom_control", ("1",)))
    if memory.swappiness is not None and memory.swappiness != UNLIMITED:
        if not 0 <= memory.swappiness <= 100:
            raise InvalidArgument(
                f"invalid memory swappiness value: {memory.swappiness} (valid range is 0-100)"
            )
        result.append(Write("memory", "memory.swappiness", (str(memory.swappiness),)))
    return result


def _cpu_v1(cpu: CPULimits) -> list[Write]:
    result: list[Write] = []

    def add(controller: str, file: str, value: int | str | None) -> None:
        if value:
            result.append(Write(controller, file, (str(value),)))

    add("cpu", "cpu.rt_period_us", cpu.realtime_period)
    add("cpu", "cpu.rt_runtime_us", cpu.realtime_runtime)
    add("cpu", "cpu.shares", cpu.shares)
    add("cpu", "cpu.cfs_period_us", cpu.period)
    add("cpu", "cpu.cfs_quota_us", cpu.quota)
    add("cpu", "cpu.cfs_burst_us", cpu.burst)
    if cpu.idle is not None:
        result.append(Write("cpu", "cpu.idle", (str(cpu.idle),)))
    add("cpuset", "cpuset.cpus", cpu.cpus)
    add("cpuset", "cpuset.mems", cpu.mems)
    return result


def _blkio_v1(block: BlockIO) -> list[Write]:
    result: list[Write] = []
    if block.weight:
        text = str(block.weight)
        result.append(Write("blkio", "blkio.bfq.weight", (text,), fallback=("blkio.weight", text)))
    if block.leaf_weight:
        result.append(Write("blkio", "blkio.leaf_weight", (str(block.leaf_weight),)))
    for device in block.weight_device:
        number = f"{device.major}:{device.minor}"
        if device.weight:
            text = f"{number} {device.weight}"
            fallback = ("blkio.weight_device", text)
            result.append(Write("blkio", "blkio.bfq.weight_device", (text,), fallback=fallback))
        if device.leaf_weight:
            result.append(Write("blkio", "blkio.leaf_weight_device", (f"{number} {device.leaf_weight}",)))
    for file, rules in (
        ("blkio.throttle.read_bps_device", block.throttle_read_bps_device),
        ("blkio.throttle.write_bps_device", block.throttle_write_bps_device),
        ("blkio.throttle.read_iops_device", block.throttle_read_iops_device),
        ("blkio.throttle.write_iops_device", block.throttle_write_iops_device),
    ):
        if rules:
            texts = tuple(f"{rule.major}:{rule.minor} {rule.rate}" for rule in rules)
            result.append(Write("blkio", file, texts))
    return result


# --- v2 ---------------------------------------------------------------------------------------------


def _writes_v2(resources: Resources) -> list[Write]:
    result: list[Write] = []
    if resources.memory:
        result += _memory_v2(resources.memory)
    if resources.cpu:
        result += _cpu_v2(resources.cpu)
    if resources.pids and resources.pids.limit:
        result.append(Write("pids", "pids.max", (_number_or_max(resources.pids.limit),)))
    if resources.block_io:
        result += _io_v2(resources.block_io)
    result += [
        Write("hugetlb", f"hugetlb.{limit.page_size}.max", (str(limit.limit),))
        for limit in resources.hugepage_limits
    ]
    for file, text in resources.unified.items():
        if "/" in file or file in (".", ".."):
            raise InvalidArgument(f"unified resource {file!r} must be a file name (no slashes)")
        texts = tuple(line for line in text.split("\n") if line) or ("",)
        controller = file.partition(".")[0]
        result.append(Write("" if controller == "cgroup" else controller, file, texts))
    return result


def _memory_v2(memory: MemoryLimits) -> list[Write]:
    """v2 counts swap alone: OCI's memory+swap minus memory. Kernel memory, swappiness and the OOM switch
    have no counterpart and are left out, as runc does."""
    result: list[Write] = []
    swap = swap_alone(memory.limit, memory.swap)
    if swap is not None:
        result.append(Write("memory", "memory.swap.max", (swap,), optional=swap == "max"))
    if memory.limit:
        result.append(Write("memory", "memory.max", (_number_or_max(memory.limit),)))
    if memory.reservation:
        result.append(Write("memory", "memory.low", (_number_or_max(memory.reservation),)))
    return result


def swap_alone(limit: int | None, memory_and_swap: int | None) -> str | None:
    """The text for ``memory.swap.max``; None leaves it alone. Raises InvalidArgument."""
    if limit == UNLIMITED and not memory_and_swap:
        return "max"
    if memory_and_swap == UNLIMITED:
        return "max"
    if memory_and_swap is None:
        return None
    if memory_and_swap == 0:
        # none at all; beside a limit 0 is Go's "not set"
        return None if limit else "0"
    if not limit or limit == UNLIMITED:
        raise InvalidArgument("unable to set swap limit without memory limit")
    if memory_and_swap < limit:
        raise InvalidArgument("memory+swap limit should be >= memory limit")
    return str(memory_and_swap - limit)


def _cpu_v2(cpu: CPULimits) -> list[Write]:
    result: list[Write] = []
    if cpu.idle is not None:
        result.append(Write("cpu", "cpu.idle", (str(cpu.idle),)))
    if cpu.shares and cpu.idle != 1:
        result.append(Write("cpu", "cpu.weight", (str(cpu_weight(cpu.shares)),)))
    if cpu.quota or cpu.period:
        quota = str(cpu.quota) if cpu.quota and cpu.quota > 0 else "max"
        result.append(Write("cpu", "cpu.max", (f"{quota} {cpu.period or 100000}",)))
    if cpu.burst:
        result.append(Write("cpu", "cpu.max.burst", (str(cpu.burst),)))
    if cpu.cpus:
        result.append(Write("cpuset", "cpuset.cpus", (cpu.cpus,)))
    if cpu.mems:
        result.append(Write("cpuset", "cpuset.mems", (cpu.mems,)))
    return result


def cpu_weight(shares: int) -> int:
    """v1 shares (2..262144, default 1024) to v2 weight (1..10000, default 100).

    A curve through those three points, quadratic in the logarithms, so that the defaults correspond
    (the linear formula used before made a default container weigh 39).
    """
    if shares <= 2:
        return 1
    if shares >= 262144:
        return 10000
    exponent = math.log2(shares)
    return math.ceil(10 ** ((exponent * exponent + 125 * exponent) / 612 - 7 / 34))


def _io_v2(block: BlockIO) -> list[Write]:
    result: list[Write] = []
    if block.weight:
        fallback = ("io.weight", str(io_weight(block.weight)))
        result.append(Write("io", "io.bfq.weight", (str(block.weight),), fallback=fallback))
    for device in block.weight_device:
        if device.weight:
            number = f"{device.major}:{device.minor}"
            fallback = ("io.weight", f"{number} {io_weight(device.weight)}")
            result.append(Write("io", "io.bfq.weight", (f"{number} {device.weight}",), fallback=fallback))
    throttles: list[tuple[str, list[ThrottleRule]]] = [
        ("rbps", block.throttle_read_bps_device),
        ("wbps", block.throttle_write_bps_device),
        ("riops", block.throttle_read_iops_device),
        ("wiops", block.throttle_write_iops_device),
    ]
    lines = tuple(
        f"{rule.major}:{rule.minor} {key}={rule.rate or 'max'}" for key, rules in throttles for rule in rules
    )
    if lines:
        result.append(Write("io", "io.max", lines))
    return result


def io_weight(blkio_weight: int) -> int:
    """v1's 10..1000 stretched over v2's 1..10000."""
    return 1 + (blkio_weight - 10) * 9999 // 990


def _number_or_max(value: int) -> str:
    return "max" if value < 0 else str(value)
