"""cgroup v1 and v2 behind one face: the plan of a new group, and the engine's ``Cgroups`` port."""

from __future__ import annotations

import errno
import os
import signal
import time

import msgspec

from sampan.kernel.cgroup import devicefilter, layout, steps
from sampan.model.oci import Resources

from .resources import Write, writes

V1_ALWAYS = ("memory", "pids", "cpu", "cpuacct", "devices", "freezer", "blkio")
"""What every container joins: for its limits, its share beside others, its statistics and for pausing.
Entering a hierarchy costs 0.1 ms CPU over a container's life, so the others are joined when asked for."""

V2_ALWAYS = ("cpu", "memory", "pids", "io")


class CgroupPlan(msgspec.Struct, frozen=True):
    """What :mod:`sampan.kernel.cgroup.steps` carries out. Lists of strings only."""

    steps: list[list[str]]
    enter: list[str]
    """Files the new process writes ``0`` to."""
    dirs: list[str]
    """To be removed when the container has ended."""


def plan_cgroup(host: layout.Layout, path: str, resources: Resources) -> CgroupPlan:
    """The group ``path`` (OCI cgroupsPath, absolute within the hierarchies) with its limits.

    Looks only at whether the parent exists in hierarchies that are not always joined, so that a container
    below a parent with, say, a cpuset is subject to it.
    """
    return _plan_v1(host, path, resources) if host.version == 1 else _plan_v2(host, path, resources)


def _plan_v1(host: layout.Layout, path: str, resources: Resources) -> CgroupPlan:
    limits = writes(1, resources)
    asked = {write.controller for write in limits if not write.optional}
    missing = asked - host.mounts.keys()
    if missing:
        raise FileNotFoundError(f"cgroup controller {min(missing)} is not mounted on this host")
    parent = os.path.dirname(path)
    dirs = []
    plan: list[list[str]] = []
    for controller, mount in host.mounts.items():
        directory = mount + path
        wanted = controller in V1_ALWAYS or controller in asked
        if directory in dirs or not (wanted or (parent != "/" and os.path.isdir(mount + parent))):
            continue
        dirs.append(directory)
        plan.append(["mkdir", directory])
    if host.mounts.get("cpuset", "-") + path in dirs:
        plan.append(["inherit", host.mounts["cpuset"] + path])
    plan += [_write_step(host.mounts[w.controller] + path, w) for w in limits if w.controller in host.mounts]
    return CgroupPlan(plan, [directory + "/tasks" for directory in dirs], dirs)


def _plan_v2(host: layout.Layout, path: str, resources: Resources) -> CgroupPlan:
    limits = writes(2, resources)
    directory = host.directory("", path)
    controllers = dict.fromkeys((*V2_ALWAYS, *(write.controller for write in limits if write.controller)))
    plan = [["mkdir", directory], ["controllers", directory, " ".join(controllers)]]
    plan += [_write_step(directory, write) for write in limits]
    program = devicefilter.program([(r.allow, r.type, r.major, r.minor, r.access) for r in resources.devices])
    if program:
        plan.append(["filter", directory, program.hex()])
    return CgroupPlan(plan, [directory + "/cgroup.procs"], [directory])


def enter_files(host: layout.Layout, path: str) -> list[str]:
    """For one more process in a running container: with ``steps.enter(files, missing_ok=True)``."""
    name = "/tasks" if host.version == 1 else "/cgroup.procs"
    return [directory + name for directory in host.directories(path)]


def _write_step(directory: str, write: Write) -> list[str]:
    file = f"{directory}/{write.file}"
    if write.fallback:
        return ["write-either", file, write.texts[0], f"{directory}/{write.fallback[0]}", write.fallback[1]]
    return ["write-optional" if write.optional else "write", file, *write.texts]


def cgroups_of(host: layout.Layout) -> Groups:
    """The engine's ``Cgroups`` port for this host."""
    return GroupsV1(host) if host.version == 1 else GroupsV2(host)


class Groups:
    """What v1 and v2 have in common: groups are directories and members are in ``cgroup.procs``."""

    version = 0
    _processes_controller = ""

    def __init__(self, host: layout.Layout) -> None:
        self._host = host

    def update(self, path: str, resources: Resources) -> None:
        raise NotImplementedError

    def freeze(self, path: str) -> None:
        raise NotImplementedError

    def thaw(self, path: str) -> None:
        raise NotImplementedError

    def oom_kills(self, path: str) -> int:
        raise NotImplementedError

    def processes(self, path: str) -> list[int]:
        """Every pid in the group and below it, as the host counts; empty when the group is gone."""
        pids: list[int] = []
        top = self._host.directory(self._processes_controller, path)
        for directory, _, _ in os.walk(top):
            try:
                pids += [int(line) for line in steps.read(directory + "/cgroup.procs").split()]
            except FileNotFoundError:
                continue  # removed by its own members between the listing and the look
        return pids

    def kill(self, path: str) -> None:
        """SIGKILL to everything in the group, frozen or not. Forks that race with it are met again."""
        for _ in range(20):
            pids = [pid for pid in self.processes(path) if pid]
            if not pids:
                return
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            self.thaw(path)
            time.sleep(0.001)

    def remove(self, path: str) -> None:
        """Idempotent; waits shortly for the kernel to let go of dying members. Raises OSError (EBUSY)."""
        steps.remove(self._host.directories(path), timeout_s=0.5)

    def exists(self, path: str) -> bool:
        return os.path.isdir(self._host.directory(self._processes_controller, path))


class GroupsV1(Groups):
    version = 1

    def __init__(self, host: layout.Layout) -> None:
        super().__init__(host)
        self._processes_controller = next(name for name in V1_ALWAYS if name in host.mounts)

    def update(self, path: str, resources: Resources) -> None:
        """Raises OSError with the file that refused, FileNotFoundError when the container is gone."""
        limits = _writes_for_update(1, resources)
        for controller in dict.fromkeys(limit.controller for limit in limits):
            self._join(controller, path)
        for limit in limits:
            _carry_out(self._host.directory(limit.controller, path), limit, limits)

    def _join(self, controller: str, path: str) -> None:
        """A hierarchy that the container had no need of until now: make its group and move everybody."""
        directory = self._host.directory(controller, path)
        if os.path.isdir(directory):
            return
        if not self.exists(path):
            raise FileNotFoundError(2, "the container has no cgroup", path)
        steps.create([["mkdir", directory]])
        if controller == "cpuset":
            steps.inherit_cpuset(directory)
        moved: set[int] = set()
        while waiting := set(self.processes(path)) - moved:
            for pid in waiting:
                moved.add(pid)
                try:
                    steps.write(directory + "/cgroup.procs", str(pid))
                except ProcessLookupError:
                    continue

    def freeze(self, path: str) -> None:
        """A group that keeps forking may need a second push; see freezer-subsystem.rst, FREEZING."""
        state = self._host.directory("freezer", path) + "/freezer.state"
        for attempt in range(500):
            steps.write(state, "FROZEN")
            if steps.read(state).strip() == "FROZEN":
                return
            if attempt % 50 == 49:
                steps.write(state, "THAWED")
            time.sleep(0.0002 if attempt < 50 else 0.002)
        steps.write(state, "THAWED")
        raise TimeoutError(f"cgroup {path} does not freeze")

    def thaw(self, path: str) -> None:
        try:
            steps.write(self._host.directory("freezer", path) + "/freezer.state", "THAWED")
        except FileNotFoundError:
            return

    def oom_kills(self, path: str) -> int:
        return _counter(self._host.directory("memory", path) + "/memory.oom_control", "oom_kill")


class GroupsV2(Groups):
    version = 2

    def update(self, path: str, resources: Resources) -> None:
        directory = self._host.directory("", path)
        limits = _writes_for_update(2, resources)
        steps.enable_controllers(directory, [limit.controller for limit in limits if limit.controller])
        for limit in limits:
            _carry_out(directory, limit, limits)

    def freeze(self, path: str) -> None:
        self._set_frozen(path, 1)

    def thaw(self, path: str) -> None:
        try:
            self._set_frozen(path, 0)
        except FileNotFoundError:
            return

    def _set_frozen(self, path: str, value: int) -> None:
        directory = self._host.directory("", path)
        steps.write(directory + "/cgroup.freeze", str(value))
        for attempt in range(1000):
            if _counter(directory + "/cgroup.events", "frozen") == value:
                return
            time.sleep(0.0002 if attempt < 50 else 0.002)
        raise TimeoutError(f"cgroup {path} does not {'freeze' if value else 'thaw'}")

    def kill(self, path: str) -> None:
        try:
            steps.write(self._host.directory("", path) + "/cgroup.kill", "1")
        except FileNotFoundError:
            super().kill(path)  # before kernel 5.14

    def oom_kills(self, path: str) -> int:
        return _counter(self._host.directory("", path) + "/memory.events", "oom_kill")


def _writes_for_update(version: int, resources: Resources) -> list[Write]:
    without_devices = msgspec.structs.replace(resources, devices=[])
    return writes(version, without_devices)


def _carry_out(directory: str, limit: Write, others: list[Write]) -> None:
    """One write. Two limits that bound each other (memory and memory+swap, quota and period) are refused in
    one order when both grow and in the other when both shrink; then its partner goes first."""
    step = _write_step(directory, limit)
    try:
        steps.create([step])
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBUSY):
            raise
        partner = _PARTNERS.get(limit.file)
        other = next((candidate for candidate in others if candidate.file == partner), None)
        if other is None:
            raise
        steps.create([_write_step(directory, other), step])


_PARTNERS = {
    "memory.limit_in_bytes": "memory.memsw.limit_in_bytes",
    "cpu.cfs_period_us": "cpu.cfs_quota_us",
    "cpu.rt_period_us": "cpu.rt_runtime_us",
}


def _counter(file: str, name: str) -> int:
    """The value beside a name in a flat keyed file; 0 when the file or the name is not there."""
    try:
        lines = steps.read(file).splitlines()
    except FileNotFoundError:
        return 0
    for line in lines:
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0
