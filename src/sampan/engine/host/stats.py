"""``stats``: samples of what containers use. Followers of one container share one sampler."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec

from sampan.base.clock import format_ns, now_ns
from sampan.engine.container.registry import Entry, Registry
from sampan.kernel.cgroup.layout import Layout as CgroupLayout
from sampan.kernel.cgroup.usage import IOEntry, Memory, Usage, read_usage

from .stats_views import (
    BlkioEntry,
    BlkioStats,
    CPUStats,
    CPUUsage,
    MemoryStats,
    NetworkStats,
    PidsStats,
    StatsSample,
    ThrottlingData,
)

INTERVAL_S = 1.0

_V1_WORDS = (
    "cache rss rss_huge mapped_file dirty writeback pgpgin pgpgout pgfault pgmajfault inactive_anon "
    "active_anon inactive_file active_file unevictable"
)
_V2_WORDS = (
    "anon file kernel_stack slab sock shmem file_mapped file_dirty file_writeback anon_thp inactive_anon "
    "active_anon inactive_file active_file unevictable slab_reclaimable slab_unreclaimable pgfault "
    "pgmajfault workingset_refault workingset_activate workingset_nodereclaim pgrefill pgscan pgsteal "
    "pgactivate pgdeactivate pglazyfree pglazyfreed thp_fault_alloc thp_collapse_alloc"
)
_V1_MEMORY = tuple(_V1_WORDS.split())
MEMORY_KEYS = {
    1: (
        *_V1_MEMORY,
        "hierarchical_memory_limit",
        "hierarchical_memsw_limit",
        *(f"total_{name}" for name in _V1_MEMORY),
    ),
    2: tuple(_V2_WORDS.split()),
}
"""What Docker passes on of memory.stat, by cgroup version."""


class Stats:
    """``ref`` as everywhere: id, name or unique prefix."""

    def __init__(self, registry: Registry, cgroups: CgroupLayout) -> None:
        self._registry = registry
        self._cgroups = cgroups
        self._machine_bytes = machine_memory_bytes()
        self._samplers: dict[str, _Sampler] = {}

    async def sample(self, ref: str, one_shot: bool = False) -> StatsSample:
        """One sample; unless ``one_shot``, a second after another one that its pre-values come from."""
        entry = self._registry.require(ref)
        first = self.take(entry)
        if one_shot or entry.life.phase not in ("running", "paused"):
            return first
        await asyncio.sleep(INTERVAL_S)
        return _after(first, self.take(entry))

    async def stream(self, ref: str) -> AsyncIterator[StatsSample]:
        """A sample each second until the container is removed; empty ones while it does not run."""
        entry = self._registry.require(ref)
        sampler = self._samplers.get(entry.id)
        if sampler is None:
            sampler = self._samplers[entry.id] = _Sampler(self, entry)
        previous: StatsSample | None = None
        queue = sampler.subscribe()
        try:
            while (sample := await queue.get()) is not None:
                yield _after(previous, sample) if previous is not None else sample
                previous = sample
        finally:
            if sampler.unsubscribe(queue) and self._samplers.get(entry.id) is sampler:
                del self._samplers[entry.id]

    def exists(self, entry: Entry) -> bool:
        return self._registry.find_id(entry.id) is entry

    def take(self, entry: Entry) -> StatsSample:
        """Now."""
        name = f"/{entry.name}"
        if entry.run is None or entry.life.phase not in ("running", "paused"):
            return StatsSample(id=entry.id, name=name)
        usage = read_usage(self._cgroups, entry.run.cgroup_path)
        system_ns, online = system_cpu()
        networked = entry.record.networks and "host" not in entry.record.networks
        joined = entry.record.host.network_mode.startswith("container:")
        networks = interface_counters(entry.life.pid) if networked or joined else {}
        return StatsSample(
            id=entry.id,
            name=name,
            read=format_ns(now_ns()),
            pids_stats=PidsStats(current=usage.pids.current, limit=usage.pids.limit),
            blkio_stats=self._blkio(usage),
            cpu_stats=_cpu(usage, system_ns, online),
            memory_stats=self._memory(usage.memory),
            networks=networks or msgspec.UNSET,
        )

    def _memory(self, memory: Memory) -> MemoryStats:
        return MemoryStats(
            usage=memory.usage,
            max_usage=memory.max_usage,
            stats={name: memory.counters.get(name, 0) for name in MEMORY_KEYS[self._cgroups.version]},
            failcnt=memory.failures,
            limit=min(memory.limit, self._machine_bytes),
        )

    def _blkio(self, usage: Usage) -> BlkioStats:
        service_bytes = _io(usage.bytes_by_device)
        if self._cgroups.version == 2:
            return BlkioStats(io_service_bytes_recursive=service_bytes or None)
        return BlkioStats(
            io_service_bytes_recursive=service_bytes,
            io_serviced_recursive=_io(usage.requests_by_device),
            io_queue_recursive=[],
            io_service_time_recursive=[],
            io_wait_time_recursive=[],
            io_merged_recursive=[],
            io_time_recursive=[],
            sectors_recursive=[],
        )


class _Sampler:
    """Takes a sample a second while anybody wants them. A reader that is slow misses samples."""

    def __init__(self, stats: Stats, entry: Entry) -> None:
        self._stats = stats
        self._entry = entry
        self._queues: set[asyncio.Queue[StatsSample | None]] = set()
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"stats {entry.id}")

    def subscribe(self) -> asyncio.Queue[StatsSample | None]:
        queue: asyncio.Queue[StatsSample | None] = asyncio.Queue(1)
        self._queues.add(queue)
        return queue

    def unsubscribe(self, queue: asyncio.Queue[StatsSample | None]) -> bool:
        """True when nobody is left and the sampler has stopped."""
        self._queues.discard(queue)
        if not self._queues:
            self._task.cancel()
        return not self._queues

    async def _run(self) -> None:
        while self._stats.exists(self._entry):
            self._offer(self._stats.take(self._entry))
            await asyncio.sleep(INTERVAL_S)
        self._offer(None)

    def _offer(self, sample: StatsSample | None) -> None:
        for queue in self._queues:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(sample)


def _after(previous: StatsSample, sample: StatsSample) -> StatsSample:
    return msgspec.structs.replace(sample, preread=previous.read, precpu_stats=previous.cpu_stats)


def _cpu(usage: Usage, system_ns: int, online: int) -> CPUStats:
    cpu = usage.cpu
    return CPUStats(
        cpu_usage=CPUUsage(
            total_usage=cpu.total_ns,
            percpu_usage=list(cpu.per_cpu_ns) if cpu.per_cpu_ns else msgspec.UNSET,
            usage_in_kernelmode=cpu.kernel_ns,
            usage_in_usermode=cpu.user_ns,
        ),
        system_cpu_usage=system_ns,
        online_cpus=online,
        throttling_data=ThrottlingData(
            periods=cpu.periods, throttled_periods=cpu.throttled_periods, throttled_time=cpu.throttled_ns
        ),
    )


def _io(entries: tuple[IOEntry, ...]) -> list[BlkioEntry]:
    return [
        BlkioEntry(major=one.major, minor=one.minor, op=one.operation, value=one.value) for one in entries
    ]


def system_cpu(text: str | None = None) -> tuple[int, int]:
    """Nanoseconds that all CPUs spent since boot (user to softirq, proc_stat(5)), and how many there are."""
    if text is None:
        with open("/proc/stat") as file:
            text = file.read()
    total = online = 0
    for line in text.splitlines():
        if not line.startswith("cpu"):
            break
        words = line.split()
        if words[0] == "cpu":
            total = sum(int(word) for word in words[1:8]) * 10_000_000
        else:
            online += 1
    return total, online


def interface_counters(pid: int, text: str | None = None) -> dict[str, NetworkStats]:
    """Counters of a process's interfaces but the loopback (proc_pid_net(5) ``net/dev``); {} once it ended."""
    if text is None:
        try:
            with open(f"/proc/{pid}/net/dev") as file:
                text = file.read()
        except OSError:
            return {}
    found = {}
    for line in text.splitlines()[2:]:
        name, _, rest = line.partition(":")
        values = [int(word) for word in rest.split()]
        if name.strip() == "lo" or len(values) < 12:
            continue
        found[name.strip()] = NetworkStats(
            rx_bytes=values[0],
            rx_packets=values[1],
            rx_errors=values[2],
            rx_dropped=values[3],
            tx_bytes=values[8],
            tx_packets=values[9],
            tx_errors=values[10],
            tx_dropped=values[11],
        )
    return found


def machine_memory_bytes() -> int:
    """MemTotal of proc_meminfo(5)."""
    with open("/proc/meminfo") as file:
        for line in file:
            if line.startswith("MemTotal:"):
                return int(line.split()[1]) * 1024
    return 0
