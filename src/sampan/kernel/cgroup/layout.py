"""Where the control group hierarchies are mounted: cgroups(7), proc(5) ``mountinfo``."""

from __future__ import annotations

import os

CGROUP2_SUPER_MAGIC = 0x63677270

V1_CONTROLLERS = (
    "blkio",
    "cpu",
    "cpuacct",
    "cpuset",
    "devices",
    "freezer",
    "hugetlb",
    "memory",
    "net_cls",
    "net_prio",
    "perf_event",
    "pids",
    "rdma",
)


class Layout:
    """The hierarchies of this host.

    ``version`` is 2 when /sys/fs/cgroup itself is the unified hierarchy, else 1 (a hybrid host counts
    as 1, its controllers being in v1 hierarchies). ``mounts`` maps a v1 controller to the mount point of
    its hierarchy; controllers that are mounted together share one. On v2 its only key is "".
    """

    __slots__ = ("mounts", "version")

    def __init__(self, version: int, mounts: dict[str, str]) -> None:
        self.version = version
        self.mounts = mounts

    def hierarchies(self) -> list[str]:
        """Distinct mount points, in the order of the controllers."""
        return list(dict.fromkeys(self.mounts.values()))

    def directory(self, controller: str, path: str) -> str:
        """The directory of the group ``path`` in a controller's hierarchy. KeyError: not mounted."""
        return self.mounts[controller if self.version == 1 else ""] + path

    def directories(self, path: str) -> list[str]:
        """The group's directory in every hierarchy, existing or not."""
        return [mount + path for mount in self.hierarchies()]


def detect(mountinfo: str | None = None) -> Layout:
    """Read the layout of the running host, or of a given ``mountinfo`` text.

    Raises FileNotFoundError when no cgroup file system is mounted at all.
    """
    if mountinfo is None:
        with open("/proc/self/mountinfo") as file:
            mountinfo = file.read()
    v1: dict[str, str] = {}
    v2 = ""
    for line in mountinfo.splitlines():
        head, _, tail = line.partition(" - ")
        fields = tail.split(" ")
        if fields[0] not in ("cgroup", "cgroup2"):
            continue
        point = head.split(" ")[4].replace("\\040", " ")
        if fields[0] == "cgroup2":
            if not v2 or point == "/sys/fs/cgroup":
                v2 = point
            continue
        for option in fields[-1].split(","):
            if option in V1_CONTROLLERS and option not in v1:
                v1[option] = point
    if v1:
        return Layout(1, {name: v1[name] for name in V1_CONTROLLERS if name in v1})
    if v2:
        return Layout(2, {"": v2})
    raise FileNotFoundError("no cgroup file system is mounted below /sys/fs/cgroup")


def children(directory: str) -> list[str]:
    """Child groups of a directory; empty when it does not exist."""
    try:
        with os.scandir(directory) as entries:
            return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []
