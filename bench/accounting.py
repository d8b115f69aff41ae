"""CPU time and memory of an engine, its containers and their helpers, from the kernel's own books.

Everything an engine starts is below one cgroup (see jail.sh). That group's counter includes groups that have
been removed since, so short-lived containers count in full, to the nanosecond. What the kernel does for an
engine in its worker threads (tearing down network namespaces, write-back) is in no group; machine_busy_s is
the coarse cross-check that has it too.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def _group_dirs(name: str) -> dict[str, Path]:
    """Controller to the group's folder; {"": folder} on cgroup v2."""
    if Path("/sys/fs/cgroup/cgroup.controllers").exists():
        return {"": Path("/sys/fs/cgroup") / name}
    found = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        mounted = Path("/sys/fs/cgroup") / controllers.removeprefix("name=")
        if controllers and mounted.is_dir():
            found[controllers] = mounted / path.strip("/") / name
    return found


class Group:
    """The cgroup of one engine."""

    def __init__(self, name: str) -> None:
        self._dirs = _group_dirs(name)

    def cpu_s(self) -> float:
        """CPU seconds of everything that ever ran in the group or below."""
        if "" in self._dirs:
            text = (self._dirs[""] / "cpu.stat").read_text()
            return int(text.split("usage_usec ", 1)[1].split(None, 1)[0]) / 1e6
        for controllers, folder in self._dirs.items():
            if "cpuacct" in controllers.split(","):
                return int((folder / "cpuacct.usage").read_text()) / 1e9
        raise SystemExit("this kernel has no cpuacct controller mounted")

    def pids(self) -> set[int]:
        """Every process in the group or below, as this namespace counts."""
        folder = next(iter(self._dirs.values()))
        found: set[int] = set()
        for path, _, files in os.walk(folder):
            if "cgroup.procs" in files:
                found.update(int(pid) for pid in (Path(path) / "cgroup.procs").read_text().split())
        return found

    def remove(self) -> None:
        """Remove the group and what containers left below it. Only after its processes have gone."""
        for top in self._dirs.values():
            for path, _, _ in os.walk(top, topdown=False):
                os.rmdir(path)


def engine_processes(group: Group, jail_init: int) -> Iterator[int]:
    """The engine's own processes: those which share the jail's pid namespace, without its pid 1."""
    own = os.readlink(f"/proc/{jail_init}/ns/pid")
    for pid in group.pids() - {jail_init}:
        try:
            if os.readlink(f"/proc/{pid}/ns/pid") == own:
                yield pid
        except FileNotFoundError:
            continue  # it ended between the list and the look


def pss_bytes(pids: Iterator[int]) -> int:
    """Proportional set size: shared pages divided among the processes that map them."""
    total = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended between the list and the look
        total += int(text.split("\nPss:", 1)[1].split(None, 1)[0]) * 1024
    return total


def machine_busy_s() -> float:
    """CPU seconds the whole machine was not idle, in clock ticks; only good when nothing else runs."""
    fields = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    return (sum(fields[:8]) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")
