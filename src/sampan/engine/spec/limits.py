"""From Docker's resource settings to OCI's. Pure."""

from __future__ import annotations

import msgspec

from sampan.base.errors import InvalidArgument
from sampan.model.container import HostConfig, Ulimit
from sampan.model.oci import BlockIO, CPULimits, DeviceRule, MemoryLimits, PidsLimit, Resources, Rlimit

from .hostfacts import HostFacts

CPU_PERIOD_US = 100_000


def resources(
    host: HostConfig, facts: HostFacts, rules: list[DeviceRule], block: BlockIO | None
) -> Resources:
    """What the host cannot limit is left out; :mod:`.validate` has warned of it at create time."""
    return Resources(
        devices=rules,
        memory=_memory(host, facts),
        cpu=_cpu(host, facts),
        pids=_pids(host, facts),
        block_io=_block_io(block, facts) if block else None,
    )


def _memory(host: HostConfig, facts: HostFacts) -> MemoryLimits | None:
    if not facts.memory_limit:
        return None
    limits = MemoryLimits(
        limit=host.memory if host.memory > 0 else None,
        swap=host.memory_swap if host.memory_swap and facts.swap_limit else None,
        reservation=host.memory_reservation if host.memory_reservation > 0 else None,
        swappiness=_swappiness(host, facts),
        disable_oom_killer=True if host.oom_kill_disable and facts.oom_kill_disable else None,
    )
    return limits if limits != _NO_MEMORY else None


def _swappiness(host: HostConfig, facts: HostFacts) -> int | None:
    if host.memory_swappiness in (None, -1) or not facts.memory_swappiness:
        return None
    return host.memory_swappiness


def _cpu(host: HostConfig, facts: HostFacts) -> CPULimits | None:
    period = quota = None
    if facts.cpu_cfs:
        if host.nano_cpus > 0:
            period, quota = CPU_PERIOD_US, host.nano_cpus * CPU_PERIOD_US // 1_000_000_000
        period = host.cpu_period or period
        quota = host.cpu_quota or quota
    limits = CPULimits(
        shares=host.cpu_shares or None if facts.cpu_shares else None,
        period=period,
        quota=quota,
        realtime_period=host.cpu_realtime_period or None,
        realtime_runtime=host.cpu_realtime_runtime or None,
        cpus=host.cpuset_cpus if facts.cpuset else "",
        mems=host.cpuset_mems if facts.cpuset else "",
    )
    return limits if limits != _NO_CPU else None


def _pids(host: HostConfig, facts: HostFacts) -> PidsLimit | None:
    if host.pids_limit is None or not facts.pids_limit:
        return None
    return PidsLimit(limit=host.pids_limit if host.pids_limit > 0 else -1)


def _block_io(block: BlockIO, facts: HostFacts) -> BlockIO | None:
    if facts.blkio_weight:
        return block
    return msgspec.structs.replace(block, weight=None, weight_device=[])


def rlimits(host: HostConfig, defaults: list[Ulimit]) -> list[Rlimit]:
    """The container's ulimits and those of the daemon's defaults that it does not name."""
    if not host.ulimits and not defaults:
        return []
    named = {limit.name: limit for limit in (*defaults, *(host.ulimits or ()))}
    return [_rlimit(limit) for limit in named.values()]


_RLIMIT_WORDS = (
    "as core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack"
)
_RLIMITS = frozenset(_RLIMIT_WORDS.split())


def _rlimit(limit: Ulimit) -> Rlimit:
    name = limit.name.lower()
    if name not in _RLIMITS:
        raise InvalidArgument(f"invalid ulimit type: {limit.name}")
    if limit.hard != -1 and (limit.soft > limit.hard or limit.soft == -1):
        raise InvalidArgument(
            f"ulimit soft limit must be less than or equal to hard limit: {limit.soft} > {limit.hard}"
        )
    return Rlimit(type="RLIMIT_" + name.upper(), soft=limit.soft, hard=limit.hard)


_NO_MEMORY = MemoryLimits()
_NO_CPU = CPULimits()
