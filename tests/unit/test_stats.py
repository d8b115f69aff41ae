"""Samples: the parsers on text of both cgroup versions, and how samples follow each other."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from sampan.engine.container.lifecycle import Life
from sampan.engine.container.registry import Entry, Registry
from sampan.engine.host import stats as stats_module
from sampan.engine.host.stats import Stats, interface_counters, system_cpu
from sampan.engine.host.system import os_release
from sampan.kernel.cgroup.layout import Layout
from sampan.kernel.cgroup.usage import NO_LIMIT, read_usage
from sampan.model.container import Container, ContainerConfig, EndpointConfig, ExitRecord, HostConfig
from sampan.store.containers import RunRecord

V1 = {
    "cpuacct.usage": "3000000000\n",
    "cpuacct.usage_percpu": "1000000000 2000000000 \n",
    "cpuacct.stat": "user 120\nsystem 80\n",
    "cpu.stat": "nr_periods 5\nnr_throttled 2\nthrottled_time 77\n",
    "memory.usage_in_bytes": "4096\n",
    "memory.max_usage_in_bytes": "8192\n",
    "memory.limit_in_bytes": "9223372036854771712\n",
    "memory.failcnt": "3\n",
    "memory.stat": "cache 100\nrss 200\ntotal_inactive_file 50\nunknown_key 1\n",
    "pids.current": "4\n",
    "pids.max": "max\n",
    "blkio.throttle.io_service_bytes_recursive": "8:0 Read 10\n8:0 Write 20\nTotal 30\n",
}
V2 = {
    "cpu.stat": "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_periods 1\nnr_throttled 1\n"
    "throttled_usec 9\n",
    "memory.current": "4096\n",
    "memory.max": "max\n",
    "memory.events": "low 0\noom 2\n",
    "memory.stat": "anon 7\nfile 9\n",
    "pids.current": "4\n",
    "pids.max": "max\n",
    "io.stat": "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n",
}


def group(tmp_path: Path, version: int) -> Layout:
    for name, text in (V1 if version == 1 else V2).items():
        directory = tmp_path / "g"
        directory.mkdir(exist_ok=True)
        (directory / name).write_text(text)
    names = ("cpu", "cpuacct", "memory", "pids", "blkio") if version == 1 else ("",)
    return Layout(version, dict.fromkeys(names, str(tmp_path)))


def test_usage_on_cgroup_v1(tmp_path: Path) -> None:
    usage = read_usage(group(tmp_path, 1), "/g")
    assert usage.cpu == (3_000_000_000, (1_000_000_000, 2_000_000_000), 800_000_000, 1_200_000_000, 5, 2, 77)
    assert usage.memory[:4] == (4096, 8192, 9223372036854771712, 3)
    assert usage.pids == (4, 0)
    assert usage.bytes_by_device == ((8, 0, "read", 10), (8, 0, "write", 20))


def test_usage_on_cgroup_v2(tmp_path: Path) -> None:
    usage = read_usage(group(tmp_path, 2), "/g")
    assert usage.cpu == (30_000, (), 10_000, 20_000, 1, 1, 9_000)
    assert usage.memory == (4096, 0, NO_LIMIT, 2, {"anon": 7, "file": 9})
    assert usage.pids == (4, NO_LIMIT)
    assert usage.bytes_by_device == ((8, 0, "read", 1), (8, 0, "write", 2))


def test_a_group_that_is_gone_uses_nothing(tmp_path: Path) -> None:
    for version in (1, 2):
        usage = read_usage(group(tmp_path, version), "/gone")
        assert usage.cpu.total_ns == usage.memory.usage == usage.pids.current == 0


def test_system_cpu_counts_user_to_softirq() -> None:
    text = "cpu  1 2 3 4 5 6 7 100 100 100\ncpu0 1 1 1 1 1 1 1 0 0 0\ncpu1 0 0 0 0 0 0 0 0 0 0\nintr 5\n"
    assert system_cpu(text) == (280_000_000, 2)


def test_interfaces_without_the_loopback() -> None:
    text = (
        "Inter-|   Receive                                                |  Transmit\n"
        " face |bytes    packets errs drop fifo frame compressed multicast|bytes packets errs drop fifo\n"
        "    lo:  9 9 0 0 0 0 0 0  9 9 0 0 0 0 0 0\n"
        "  eth0: 100 2 3 4 0 0 0 0  500 6 7 8 0 0 0 0\n"
    )
    (name, counters), *rest = interface_counters(1, text).items()
    assert (name, rest) == ("eth0", [])
    assert msgspec.structs.astuple(counters) == (100, 2, 3, 4, 500, 6, 7, 8)
    assert interface_counters(-1) == {}


def test_os_release(tmp_path: Path) -> None:
    file = tmp_path / "os-release"
    file.write_text('NAME="X"\nPRETTY_NAME="X Linux 1 (one)"\nVERSION_ID=1\n')
    assert os_release((str(tmp_path / "none"), str(file))) == ("X Linux 1 (one)", "1")
    assert os_release(()) == ("Linux", "")


def registered(registry: Registry, phase: str) -> Entry:
    record = Container(
        id="a" * 64,
        name="web",
        created_ns=1,
        image_id="",
        image_ref="",
        path="sh",
        args=[],
        config=ContainerConfig(),
        host=HostConfig(network_mode="bridge"),
        networks={"bridge": EndpointConfig()},
        mounts=[],
        layer_ids=[],
    )
    run = RunRecord(cgroup_path="/g") if phase == "running" else None
    entry = Entry(record, Life(phase=phase, exit=ExitRecord(), pid=1 if run else 0), run)  # type: ignore[arg-type]
    registry.insert(entry)
    return entry


async def test_a_sample_of_a_stopped_container_says_who_it_is(tmp_path: Path) -> None:
    registry = Registry()
    registered(registry, "exited")
    sample = await Stats(registry, group(tmp_path, 1)).sample("web")
    shown = msgspec.json.decode(msgspec.json.encode(sample))
    assert (shown["name"], shown["read"]) == ("/web", "0001-01-01T00:00:00Z")
    assert shown["memory_stats"] == shown["pids_stats"] == {}
    assert "system_cpu_usage" not in shown["cpu_stats"]


async def test_followers_share_a_sampler_and_see_the_former_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stats_module, "INTERVAL_S", 0.01)
    registry = Registry()
    entry = registered(registry, "running")
    stats = Stats(registry, group(tmp_path, 1))
    one, two = stats.stream("web"), stats.stream("a" * 12)
    async with asyncio.timeout(10):
        first = await anext(one)
        await anext(two)
        second = await anext(one)
        assert len(stats._samplers) == 1
        assert second.preread == first.read != second.read
        assert second.precpu_stats == first.cpu_stats
        assert second.memory_stats.stats["rss"] == 200
        assert "unknown_key" not in second.memory_stats.stats
        registry.delete(entry)
        one_rest = [sample async for sample in one]  # both end with the container
        two_rest = [sample async for sample in two]
    assert len(one_rest) <= 1
    assert len(two_rest) <= 1
    assert not stats._samplers
