"""Limits become the right writes in the right order, for both versions of control groups."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.base.errors import InvalidArgument
from sampan.kernel.cgroup import devicefilter, layout
from sampan.model.oci import (
    BlockIO,
    CPULimits,
    DeviceRule,
    HugepageLimit,
    MemoryLimits,
    PidsLimit,
    Resources,
    ThrottleRule,
)
from sampan.runtime.cgroups import enter_files, plan_cgroup
from sampan.runtime.resources import cpu_weight, writes

V1 = layout.Layout(
    1,
    {
        name: f"/cg/{mount}"
        for name, mount in (
            ("blkio", "blkio"),
            ("cpu", "cpu,cpuacct"),
            ("cpuacct", "cpu,cpuacct"),
            ("cpuset", "cpuset"),
            ("devices", "devices"),
            ("freezer", "freezer"),
            ("memory", "memory"),
            ("pids", "pids"),
        )
    },
)
V2 = layout.Layout(2, {"": "/cg"})

MOUNTINFO_V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n"
MOUNTINFO_HYBRID = (
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "33 31 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n"
    "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
)


def texts(version: int, resources: Resources) -> list[tuple[str, str]]:
    return [(write.file, text) for write in writes(version, resources) for text in write.texts]


def test_layouts_are_told_apart() -> None:
    assert layout.detect(MOUNTINFO_V2).version == 2
    hybrid = layout.detect(MOUNTINFO_HYBRID)
    assert hybrid.version == 1
    assert hybrid.directory("cpuacct", "/x") == "/sys/fs/cgroup/cpu,cpuacct/x"
    assert hybrid.hierarchies() == ["/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/memory"]
    with pytest.raises(FileNotFoundError):
        layout.detect("31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n")


def test_v1_sets_memory_before_memory_and_swap() -> None:
    resources = Resources(memory=MemoryLimits(limit=1 << 25, swap=1 << 26, disable_oom_killer=True))
    assert texts(1, resources) == [
        ("memory.limit_in_bytes", str(1 << 25)),
        ("memory.memsw.limit_in_bytes", str(1 << 26)),
        ("memory.oom_control", "1"),
    ]


def test_v2_counts_swap_alone() -> None:
    limits = MemoryLimits(limit=1 << 25, swap=1 << 26, reservation=1 << 24)
    assert texts(2, Resources(memory=limits)) == [
        ("memory.swap.max", str((1 << 26) - (1 << 25))),
        ("memory.max", str(1 << 25)),
        ("memory.low", str(1 << 24)),
    ]
    assert texts(2, Resources(memory=MemoryLimits(limit=-1, swap=-1)))[0] == ("memory.swap.max", "max")
    assert texts(2, Resources(memory=MemoryLimits(swap=0))) == [("memory.swap.max", "0")]
    for bad in (MemoryLimits(swap=1 << 26), MemoryLimits(limit=1 << 26, swap=1 << 25)):
        with pytest.raises(InvalidArgument):
            writes(2, Resources(memory=bad))


def test_cpu_limits_of_both_versions() -> None:
    cpu = CPULimits(shares=1024, quota=50_000, period=100_000, cpus="0-1", mems="0")
    assert texts(1, Resources(cpu=cpu)) == [
        ("cpu.shares", "1024"),
        ("cpu.cfs_period_us", "100000"),
        ("cpu.cfs_quota_us", "50000"),
        ("cpuset.cpus", "0-1"),
        ("cpuset.mems", "0"),
    ]
    assert texts(2, Resources(cpu=cpu)) == [
        ("cpu.weight", "100"),
        ("cpu.max", "50000 100000"),
        ("cpuset.cpus", "0-1"),
        ("cpuset.mems", "0"),
    ]
    assert texts(2, Resources(cpu=CPULimits(quota=-1)))[0] == ("cpu.max", "max 100000")


def test_default_shares_are_the_default_weight() -> None:
    assert [cpu_weight(shares) for shares in (2, 1024, 262144)] == [1, 100, 10000]
    weights = [cpu_weight(shares) for shares in range(2, 262145, 997)]
    assert weights == sorted(weights)


def test_pids_hugepages_and_throttles() -> None:
    resources = Resources(
        pids=PidsLimit(limit=-1),
        hugepage_limits=[HugepageLimit(page_size="2MB", limit=4)],
        block_io=BlockIO(weight=500, throttle_read_bps_device=[ThrottleRule(major=8, minor=0, rate=1000)]),
    )
    v1 = texts(1, resources)
    assert ("pids.max", "max") in v1
    assert ("hugetlb.2MB.limit_in_bytes", "4") in v1
    assert ("blkio.throttle.read_bps_device", "8:0 1000") in v1
    v2 = texts(2, resources)
    assert ("io.max", "8:0 rbps=1000") in v2
    weight = next(write for write in writes(2, resources) if write.file == "io.bfq.weight")
    assert weight.fallback == ("io.weight", "4950")


def test_unified_keys_are_file_names() -> None:
    assert texts(2, Resources(unified={"memory.high": "5\n"})) == [("memory.high", "5")]
    with pytest.raises(InvalidArgument):
        writes(2, Resources(unified={"../memory.high": "5"}))


def test_plan_joins_few_hierarchies_and_each_mount_once() -> None:
    plan = plan_cgroup(V1, "/docker/x", Resources())
    assert plan.dirs == [
        f"/cg/{name}/docker/x" for name in ("blkio", "cpu,cpuacct", "devices", "freezer", "memory", "pids")
    ]
    assert plan.enter == [f"{directory}/tasks" for directory in plan.dirs]
    assert ["mkdir", "/cg/memory/docker/x"] in plan.steps


def test_plan_joins_cpuset_when_asked_and_fills_it_before_its_limit() -> None:
    plan = plan_cgroup(V1, "/docker/x", Resources(cpu=CPULimits(cpus="1")))
    directory = "/cg/cpuset/docker/x"
    steps = [step for step in plan.steps if directory in step[1]]
    assert steps == [
        ["mkdir", directory],
        ["inherit", directory],
        ["write", f"{directory}/cpuset.cpus", "1"],
    ]


def test_plan_refuses_what_is_not_mounted() -> None:
    with pytest.raises(FileNotFoundError, match="hugetlb"):
        plan_cgroup(V1, "/x", Resources(hugepage_limits=[HugepageLimit(page_size="2MB", limit=1)]))


def test_v2_plan_enables_controllers_and_filters_devices() -> None:
    rules = [DeviceRule(allow=False, access="rwm"), DeviceRule(allow=True, type="c", major=1, minor=3)]
    plan = plan_cgroup(V2, "/docker/x", Resources(devices=rules, cpu=CPULimits(cpus="0")))
    assert plan.steps[0] == ["mkdir", "/cg/docker/x"]
    assert plan.steps[1] == ["controllers", "/cg/docker/x", "cpu memory pids io cpuset"]
    assert plan.steps[-1][:2] == ["filter", "/cg/docker/x"]
    assert plan.enter == ["/cg/docker/x/cgroup.procs"] == enter_files(V2, "/docker/x")


def test_v1_device_rules_share_descriptors_and_keep_their_order() -> None:
    rules = [
        DeviceRule(allow=False, access="rwm"),
        DeviceRule(allow=True, type="c", major=1, minor=3, access="rwm"),
        DeviceRule(allow=True, type="c", access="m"),
        DeviceRule(allow=False, type="c", major=10, minor=229, access="rwm"),
    ]
    found = [(write.file, write.texts) for write in writes(1, Resources(devices=rules))]
    assert found == [
        ("devices.deny", ("a",)),
        ("devices.allow", ("c 1:3 rwm", "c *:* m")),
        ("devices.deny", ("c 10:229 rwm",)),
    ]


def test_everything_allowed_writes_nothing() -> None:
    assert writes(1, Resources(devices=[DeviceRule(allow=True, access="rwm")])) == []
    assert devicefilter.program([(True, "a", None, None, "rwm")]) == b""


# --- the device filter of v2 ------------------------------------------------------------------------------


def run_filter(program: bytes, kind: str, major: int, minor: int, access: str) -> bool:
    """A machine for the instructions that device filters use."""
    if not program:
        return True
    bits = sum(devicefilter.ACCESS_BITS[letter] for letter in access)
    context = {0: bits << 16 | devicefilter.TYPE_NUMBERS[kind], 4: major, 8: minor}
    registers = [0] * 11
    code = list(struct.iter_unpack("<BBhi", program))
    position = 0
    while True:
        operation, operands, offset, immediate = code[position]
        to, source = operands & 15, operands >> 4
        position += 1
        if operation == 0x95:
            return bool(registers[0])
        if operation == 0x61:
            registers[to] = context[offset]
        elif operation == 0xB7:
            registers[to] = immediate
        elif operation == 0xBF:
            registers[to] = registers[source]
        elif operation == 0x57:
            registers[to] &= immediate
        elif operation == 0x77:
            registers[to] >>= immediate
        elif operation in (0x55, 0x15):
            position += offset if (registers[to] == immediate) == (operation == 0x15) else 0
        elif operation == 0x5D:
            position += offset if registers[to] != registers[source] else 0
        else:
            raise AssertionError(f"unknown instruction {operation:#x}")


accesses = st.sets(st.sampled_from("rwm"), min_size=1).map("".join)
numbers = st.one_of(st.none(), st.integers(0, 3))
device_rules = st.tuples(st.booleans(), st.sampled_from("abc"), numbers, numbers, accesses)


@given(
    st.lists(device_rules, max_size=6), st.sampled_from("bc"), st.integers(0, 3), st.integers(0, 3), accesses
)
def test_the_last_matching_rule_decides(
    rules: list[devicefilter.Rule], kind: str, major: int, minor: int, access: str
) -> None:
    allowed = True
    for allow, rule_kind, rule_major, rule_minor, rule_access in rules:
        if rule_kind == "a":
            allowed = allow
            continue
        same = rule_kind == kind and rule_major in (None, major) and rule_minor in (None, minor)
        covered = set(access) <= set(rule_access) if allow else bool(set(access) & set(rule_access))
        if same and covered:
            allowed = allow
    assert run_filter(devicefilter.program(rules), kind, major, minor, access) is allowed
