"""``GET /containers/{id}/stats`` with Docker's names on the wire."""

from __future__ import annotations

import msgspec

from sampan.base.clock import ZERO_TIME


class ThrottlingData(msgspec.Struct, frozen=True, kw_only=True):
    periods: int = 0
    throttled_periods: int = 0
    throttled_time: int = 0


class CPUUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Nanoseconds."""

    total_usage: int = 0
    percpu_usage: list[int] | msgspec.UnsetType = msgspec.UNSET
    usage_in_kernelmode: int = 0
    usage_in_usermode: int = 0


class CPUStats(msgspec.Struct, frozen=True, kw_only=True):
    cpu_usage: CPUUsage = CPUUsage()
    system_cpu_usage: int | msgspec.UnsetType = msgspec.UNSET
    """Nanoseconds of all CPUs together since boot."""
    online_cpus: int | msgspec.UnsetType = msgspec.UNSET
    throttling_data: ThrottlingData = ThrottlingData()


class MemoryStats(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Bytes."""

    usage: int = 0
    max_usage: int = 0
    stats: dict[str, int] = {}
    failcnt: int = 0
    limit: int = 0


class BlkioEntry(msgspec.Struct, frozen=True, kw_only=True):
    major: int
    minor: int
    op: str
    value: int


class BlkioStats(msgspec.Struct, frozen=True, kw_only=True):
    io_service_bytes_recursive: list[BlkioEntry] | None = None
    io_serviced_recursive: list[BlkioEntry] | None = None
    io_queue_recursive: list[BlkioEntry] | None = None
    io_service_time_recursive: list[BlkioEntry] | None = None
    io_wait_time_recursive: list[BlkioEntry] | None = None
    io_merged_recursive: list[BlkioEntry] | None = None
    io_time_recursive: list[BlkioEntry] | None = None
    sectors_recursive: list[BlkioEntry] | None = None


class NetworkStats(msgspec.Struct, frozen=True, kw_only=True):
    rx_bytes: int = 0
    rx_packets: int = 0
    rx_errors: int = 0
    rx_dropped: int = 0
    tx_bytes: int = 0
    tx_packets: int = 0
    tx_errors: int = 0
    tx_dropped: int = 0


class PidsStats(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    current: int = 0
    limit: int = 0


class Nothing(msgspec.Struct, frozen=True):
    """An object that is always empty here."""


class StatsSample(msgspec.Struct, frozen=True, kw_only=True):
    """One sample. Not running: nothing but id, name and zeros."""

    id: str
    name: str
    """With Docker's leading slash."""
    os_type: str = "linux"
    read: str = ZERO_TIME
    preread: str = ZERO_TIME
    pids_stats: PidsStats = PidsStats()
    blkio_stats: BlkioStats = BlkioStats()
    num_procs: int = 0
    storage_stats: Nothing = Nothing()
    cpu_stats: CPUStats = CPUStats()
    precpu_stats: CPUStats = CPUStats()
    memory_stats: MemoryStats = MemoryStats()
    networks: dict[str, NetworkStats] | msgspec.UnsetType = msgspec.UNSET
