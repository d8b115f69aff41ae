"""What a group uses, from the controllers' files (cgroup-v1/*.rst and cgroup-v2.rst of the kernel).

A file that is not there counts as nothing: controllers differ from host to host, and a group may vanish
while it is read.
"""

from __future__ import annotations

from typing import NamedTuple

from .layout import Layout

NO_LIMIT = (1 << 64) - 1
_TICK_NS = 10_000_000  # USER_HZ is 100 on every architecture that matters


class CPU(NamedTuple):
    """Nanoseconds."""

    total_ns: int = 0
    per_cpu_ns: tuple[int, ...] = ()
    kernel_ns: int = 0
    user_ns: int = 0
    periods: int = 0
    throttled_periods: int = 0
    throttled_ns: int = 0


class Memory(NamedTuple):
    """Bytes; ``counters`` is memory.stat as the kernel wrote it."""

    usage: int = 0
    max_usage: int = 0
    limit: int = NO_LIMIT
    failures: int = 0
    counters: dict[str, int] = {}


class Pids(NamedTuple):
    current: int = 0
    limit: int = 0


class IOEntry(NamedTuple):
    major: int
    minor: int
    operation: str
    value: int


class Usage(NamedTuple):
    cpu: CPU
    memory: Memory
    pids: Pids
    bytes_by_device: tuple[IOEntry, ...]
    requests_by_device: tuple[IOEntry, ...]
    """v1 only."""


def read_usage(host: Layout, path: str) -> Usage:
    """``path`` is the group's OCI cgroupsPath. A dozen small reads, no more than a millisecond."""
    return _read_v1(host, path) if host.version == 1 else _read_v2(host, path)


def _read_v1(host: Layout, path: str) -> Usage:
    def at(controller: str, file: str) -> str:
        return f"{host.mounts[controller]}{path}/{file}" if controller in host.mounts else ""

    times = _table(at("cpuacct", "cpuacct.stat"))
    throttling = _table(at("cpu", "cpu.stat"))
    return Usage(
        cpu=CPU(
            total_ns=_number(at("cpuacct", "cpuacct.usage")),
            per_cpu_ns=tuple(int(word) for word in _text(at("cpuacct", "cpuacct.usage_percpu")).split()),
            kernel_ns=times.get("system", 0) * _TICK_NS,
            user_ns=times.get("user", 0) * _TICK_NS,
            periods=throttling.get("nr_periods", 0),
            throttled_periods=throttling.get("nr_throttled", 0),
            throttled_ns=throttling.get("throttled_time", 0),
        ),
        memory=Memory(
            usage=_number(at("memory", "memory.usage_in_bytes")),
            max_usage=_number(at("memory", "memory.max_usage_in_bytes")),
            limit=_number(at("memory", "memory.limit_in_bytes")),
            failures=_number(at("memory", "memory.failcnt")),
            counters=_table(at("memory", "memory.stat")),
        ),
        pids=Pids(_number(at("pids", "pids.current")), _limit(at("pids", "pids.max"), 0)),
        bytes_by_device=_v1_io(at("blkio", "blkio.throttle.io_service_bytes_recursive")),
        requests_by_device=_v1_io(at("blkio", "blkio.throttle.io_serviced_recursive")),
    )


def _read_v2(host: Layout, path: str) -> Usage:
    base = host.directory("", path)
    cpu = _table(base + "/cpu.stat")
    return Usage(
        cpu=CPU(
            total_ns=cpu.get("usage_usec", 0) * 1000,
            kernel_ns=cpu.get("system_usec", 0) * 1000,
            user_ns=cpu.get("user_usec", 0) * 1000,
            periods=cpu.get("nr_periods", 0),
            throttled_periods=cpu.get("nr_throttled", 0),
            throttled_ns=cpu.get("throttled_usec", 0) * 1000,
        ),
        memory=Memory(
            usage=_number(base + "/memory.current"),
            limit=_limit(base + "/memory.max", NO_LIMIT),
            failures=_table(base + "/memory.events").get("oom", 0),
            counters=_table(base + "/memory.stat"),
        ),
        pids=Pids(_number(base + "/pids.current"), _limit(base + "/pids.max", NO_LIMIT)),
        bytes_by_device=_v2_io(base + "/io.stat"),
        requests_by_device=(),
    )


def _text(path: str) -> str:
    if not path:
        return ""
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""  # no such controller, or the group ended while we looked


def _number(path: str) -> int:
    text = _text(path).strip()
    return int(text) if text.isdigit() else 0


def _limit(path: str, unlimited: int) -> int:
    text = _text(path).strip()
    return int(text) if text.isdigit() else unlimited


def _table(path: str) -> dict[str, int]:
    """Lines of ``name value``."""
    rows = (line.split() for line in _text(path).splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()}


def _v1_io(path: str) -> tuple[IOEntry, ...]:
    """Lines of ``8:0 Read 4096``; the last one is a total without device."""
    found = []
    for line in _text(path).splitlines():
        words = line.split()
        if len(words) == 3:
            major, _, minor = words[0].partition(":")
            found.append(IOEntry(int(major), int(minor), words[1].lower(), int(words[2])))
    return tuple(found)


def _v2_io(path: str) -> tuple[IOEntry, ...]:
    """Lines of ``8:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0``."""
    found = []
    for line in _text(path).splitlines():
        device, *words = line.split()
        major, _, minor = device.partition(":")
        values = dict(word.partition("=")[::2] for word in words)
        found.append(IOEntry(int(major), int(minor), "read", int(values.get("rbytes", "0"))))
        found.append(IOEntry(int(major), int(minor), "write", int(values.get("wbytes", "0"))))
    return tuple(found)
