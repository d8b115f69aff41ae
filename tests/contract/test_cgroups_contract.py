"""What every implementation of engine.ports.Cgroups does, on the control groups of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator

import pytest

from sampan.engine.ports import Cgroups
from sampan.kernel.cgroup import layout, steps
from sampan.model.oci import CPULimits, DeviceRule, MemoryLimits, PidsLimit, Resources
from sampan.runtime.cgroups import CgroupPlan, cgroups_of, enter_files, plan_cgroup

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

HOST = layout.detect()
RULES = [DeviceRule(allow=False, access="rwm"), DeviceRule(allow=True, type="c", major=1, minor=3)]


class Group:
    """A group of this test alone, and processes in it."""

    def __init__(self, resources: Resources) -> None:
        self.path = f"/sampan-test-{uuid.uuid4().hex[:12]}/one"
        self.plan: CgroupPlan = plan_cgroup(HOST, self.path, resources)
        steps.create(self.plan.steps)
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            command, preexec_fn=lambda: steps.enter(self.plan.enter), stderr=subprocess.PIPE
        )
        self.processes.append(process)
        return process

    def read(self, controller: str, file: str) -> str:
        return steps.read(f"{HOST.directory(controller, self.path)}/{file}").strip()

    def close(self) -> None:
        for process in self.processes:
            process.kill()
        cgroups_of(HOST).thaw(self.path)
        for process in self.processes:
            process.wait(timeout=10)
            if process.stderr:
                process.stderr.close()
        steps.remove(HOST.directories(self.path))
        steps.remove(HOST.directories(os.path.dirname(self.path)))


@pytest.fixture
def groups() -> Cgroups:
    return cgroups_of(HOST)


@pytest.fixture
def group() -> Iterator[Group]:
    group = Group(Resources(devices=RULES, memory=MemoryLimits(limit=64 << 20), pids=PidsLimit(limit=50)))
    yield group
    group.close()
    left = [path for path in HOST.directories(os.path.dirname(group.path)) if os.path.exists(path)]
    assert left == []


def memory_file() -> str:
    return "memory.limit_in_bytes" if HOST.version == 1 else "memory.max"


def test_limits_are_in_force(group: Group) -> None:
    assert group.read("memory", memory_file()) == str(64 << 20)
    assert group.read("pids", "pids.max") == "50"


def test_members_are_listed_and_devices_filtered(group: Group, groups: Cgroups) -> None:
    sleeper = group.start("sleep", "100")
    assert groups.processes(group.path) == [sleeper.pid]
    reader = group.start("head", "-c1", "/dev/zero")
    assert reader.wait(timeout=10) != 0
    assert group.start("head", "-c1", "/dev/null").wait(timeout=10) == 0


def test_a_second_process_enters_by_the_path_alone(group: Group, groups: Cgroups) -> None:
    files = enter_files(HOST, group.path)
    process = subprocess.Popen(["sleep", "100"], preexec_fn=lambda: steps.enter(files, missing_ok=True))
    group.processes.append(process)
    assert process.pid in groups.processes(group.path)


def test_frozen_processes_stand_still(group: Group, groups: Cgroups) -> None:
    process = group.start("sh", "-c", "while :; do :; done")
    groups.freeze(group.path)
    before = cpu_ticks(process.pid)
    time.sleep(0.05)  # long enough for several ticks of a process that were not frozen
    assert cpu_ticks(process.pid) == before
    groups.thaw(group.path)
    deadline = time.monotonic() + 10
    while cpu_ticks(process.pid) == before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert cpu_ticks(process.pid) > before


def cpu_ticks(pid: int) -> int:
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(") ")[2].split()
    return int(fields[11]) + int(fields[12])


def test_kill_reaches_frozen_processes_and_their_children(group: Group, groups: Cgroups) -> None:
    process = group.start("sh", "-c", "sleep 100 & sleep 100")
    deadline = time.monotonic() + 10
    while len(groups.processes(group.path)) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    groups.freeze(group.path)
    groups.kill(group.path)
    assert process.wait(timeout=10) == -signal.SIGKILL


def test_update_changes_limits_and_joins_what_they_need(group: Group, groups: Cgroups) -> None:
    process = group.start("sleep", "100")
    groups.update(
        group.path,
        Resources(
            memory=MemoryLimits(limit=128 << 20),
            pids=PidsLimit(limit=-1),
            cpu=CPULimits(shares=512, cpus="0"),
        ),
    )
    assert group.read("memory", memory_file()) == str(128 << 20)
    assert group.read("pids", "pids.max") == "max"
    assert group.read("cpuset", "cpuset.cpus") == "0"
    assert os.sched_getaffinity(process.pid) == {0}


def test_memory_and_swap_grow_and_shrink_together(group: Group, groups: Cgroups) -> None:
    for size in (256 << 20, 32 << 20):
        groups.update(group.path, Resources(memory=MemoryLimits(limit=size, swap=2 * size)))
        assert group.read("memory", memory_file()) == str(size)


def test_oom_kills_are_counted(group: Group, groups: Cgroups) -> None:
    groups.update(group.path, Resources(memory=MemoryLimits(limit=16 << 20, swap=16 << 20)))
    assert groups.oom_kills(group.path) == 0
    eater = group.start("python3", "-c", "b = bytearray(64 << 20); print(len(b))")
    assert eater.wait(timeout=30) == -signal.SIGKILL
    assert groups.oom_kills(group.path) >= 1


def test_removing_is_idempotent_and_takes_groups_below_along(group: Group, groups: Cgroups) -> None:
    inner = HOST.directory("memory", group.path) + "/inner"
    os.mkdir(inner)
    groups.remove(group.path)
    groups.remove(group.path)
    assert not os.path.exists(inner)
    assert groups.processes(group.path) == []
    assert groups.oom_kills(group.path) == 0


def test_a_living_group_is_not_removed(group: Group, groups: Cgroups) -> None:
    group.start("sleep", "100")
    with pytest.raises(OSError, match="busy"):
        groups.remove(group.path)
