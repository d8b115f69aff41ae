"""cgroup v1 and v2 behind one face: the plan of a new group, and the engine's ``Cgroups`` port."""

from __future__ import annotations

import os

import msgspec

from sampan.kernel.cgroup import devicefilter, layout
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
    steps: list[list[str]] = []
    for controller, mount in host.mounts.items():
        directory = mount + path
        wanted = controller in V1_ALWAYS or controller in asked
        if directory in dirs or not (wanted or (parent != "/" and os.path.isdir(mount + parent))):
            continue
        dirs.append(directory)
        steps.append(["mkdir", directory])
    if host.mounts.get("cpuset", "-") + path in dirs:
        steps.append(["inherit", host.mounts["cpuset"] + path])
    steps += [_write_step(host.mounts[w.controller] + path, w) for w in limits if w.controller in host.mounts]
    return CgroupPlan(steps, [directory + "/tasks" for directory in dirs], dirs)


def _plan_v2(host: layout.Layout, path: str, resources: Resources) -> CgroupPlan:
    limits = writes(2, resources)
    directory = host.directory("", path)
    controllers = dict.fromkeys((*V2_ALWAYS, *(write.controller for write in limits if write.controller)))
    steps = [["mkdir", directory], ["controllers", directory, " ".join(controllers)]]
    steps += [_write_step(directory, write) for write in limits]
    program = devicefilter.program([(r.allow, r.type, r.major, r.minor, r.access) for r in resources.devices])
    if program:
        steps.append(["filter", directory, program.hex()])
    return CgroupPlan(steps, [directory + "/cgroup.procs"], [directory])


def enter_files(host: layout.Layout, path: str) -> list[str]:
    """For one more process in a running container: with ``steps.enter(files, missing_ok=True)``."""
    name = "/tasks" if host.version == 1 else "/cgroup.procs"
    return [directory + name for directory in host.directories(path)]


def _write_step(directory: str, write: Write) -> list[str]:
    file = f"{directory}/{write.file}"
    if write.fallback:
        return ["write-either", file, write.texts[0], f"{directory}/{write.fallback[0]}", write.fallback[1]]
    return ["write-optional" if write.optional else "write", file, *write.texts]
