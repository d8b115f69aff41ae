"""What a daemon has on the machine at one moment, by kind, to be compared with another moment."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
from pathlib import Path

from tests.support.daemon import Daemon
from tests.support.eventually import eventually

Snapshot = dict[str, set[str]]
# What is kept on purpose between containers: the database, the image store and their caches
_KEPT = re.compile(r"^(sampan\.db.*|image(/.*)?|layers(/.*)?|engine-id|.*\.lock|cache(/.*)?)$")
_COUNTERS = re.compile(r"counter packets \d+ bytes \d+")
_NAMESPACES = ("mnt", "net", "pid", "uts", "ipc", "cgroup", "user", "time")


def _mounts() -> set[str]:
    found = set()
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        words = line.split()
        found.add(f"{words[words.index('-') + 1]} {words[3]} on {words[4]}")
    return found


def _links() -> set[str]:
    listing = subprocess.run(["ip", "-o", "link"], check=True, capture_output=True, text=True).stdout
    return {line.split(":")[1].strip().split("@")[0] for line in listing.splitlines()}


def _rules() -> set[str]:
    listing = subprocess.run(["nft", "list", "ruleset"], check=True, capture_output=True, text=True).stdout
    found, table = set(), ""
    for line in _COUNTERS.sub("", listing).splitlines():
        if line.startswith("table"):
            table = line
        # one element of a map per line, however nft wraps them
        for part in re.split(r",\s*", line.strip()):
            found.add(f"{table}: {part}")
    return found


def _routes() -> set[str]:
    found = set()
    for family in ("-4", "-6"):
        words = ["ip", family, "route", "show", "table", "all"]
        found |= set(subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines())
    return {line.replace(" linkdown", "").strip() for line in found}


def host_network() -> str:
    """Links, addresses, routes and firewall rules of this network namespace, byte for byte, without what only
    counts packets or the time that is left."""
    commands = (
        ["ip", "-o", "link"],
        ["ip", "-o", "addr"],
        ["ip", "-4", "route", "show", "table", "all"],
        ["ip", "-6", "route", "show", "table", "all"],
        ["ip", "rule"],
        ["nft", "list", "ruleset"],
    )
    texts = (subprocess.run(one, check=True, capture_output=True, text=True).stdout for one in commands)
    return _COUNTERS.sub("", "\n".join(texts))


def _group_dirs(daemon: Daemon) -> list[Path]:
    top = Path("/sys/fs/cgroup")
    controllers = [top] if (top / "cgroup.controllers").exists() else sorted(top.iterdir())
    found = []
    for controller in controllers:
        found += [Path(path) for path, _, _ in os.walk(controller / daemon.cgroup_parent.strip("/"))]
    return found


def end_groups(daemon: Daemon) -> dict[str, list[int]]:
    """Remove the daemon's control groups for good. Processes that were still in one are ended and told."""
    left: dict[str, list[int]] = {}
    for folder in reversed(_group_dirs(daemon)):
        pids = [int(pid) for pid in (folder / "cgroup.procs").read_text().split()]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        if pids:
            left[str(folder)] = pids
        eventually(lambda folder=folder: _removed(folder), f"{folder} removed")
    return left


def _removed(folder: Path) -> bool:
    try:
        folder.rmdir()
    except OSError as error:
        return error.errno == errno.ENOENT
    return True


def _groups(daemon: Daemon) -> set[str]:
    # the parent itself may stay, as Docker's "docker" group does
    return {str(path) for path in _group_dirs(daemon) if path.name != daemon.cgroup_parent.strip("/")}


def _processes(daemon: Daemon) -> dict[int, str]:
    """Those in our mount namespace but this one and its other children, and those in the daemon's groups.

    Not the few monitors that the daemon keeps for its next processes: they end with it.
    """
    own = os.readlink("/proc/self/ns/mnt")
    grouped = set()
    for folder in _group_dirs(daemon):
        try:
            grouped.update(int(pid) for pid in (folder / "cgroup.procs").read_text().split())
        except FileNotFoundError:
            continue  # removed between the walk and the look
    found = {}
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            if int(name) in grouped or os.readlink(f"/proc/{name}/ns/mnt") == own:
                if Path(f"/proc/{name}/comm").read_text() == "sampan-spare\n" and int(name) not in grouped:
                    continue
                words = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
                found[int(name)] = b" ".join(words[:4]).decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it has ended
    return found


def _namespaces(pids: list[int]) -> set[str]:
    found = set()
    for pid in pids:
        for kind in _NAMESPACES:
            try:
                found.add(os.readlink(f"/proc/{pid}/ns/{kind}"))
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has ended
    return found


def _files(daemon: Daemon) -> set[str]:
    found = set()
    for root in (daemon.data_root, daemon.exec_root):
        for folder, folders, files in os.walk(root):
            for name in (*folders, *files):
                path = os.path.relpath(os.path.join(folder, name), root)
                if not _KEPT.match(path):
                    found.add(f"{root.name}/{path}")
    return found


def _descriptors(daemon: Daemon) -> set[str]:
    """Namespaces and mounts that open descriptors of the daemon and its children keep alive."""
    found = set()
    children = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()
    for pid in (str(daemon.pid), *children):
        try:
            for fd in os.listdir(f"/proc/{pid}/fd"):
                target = os.readlink(f"/proc/{pid}/fd/{fd}")
                if re.match(r"^(net|mnt|pid|ipc|uts|user|cgroup):\[", target):
                    found.add(f"fd of {pid}: {target}")
        except (FileNotFoundError, ProcessLookupError):
            continue  # closed or ended between the list and the look
    return found


def snapshot(daemon: Daemon) -> Snapshot:
    processes = _processes(daemon)
    return {
        "mounts": _mounts(),
        "links": _links(),
        "nft rules": _rules(),
        "routes": _routes(),
        "cgroups": _groups(daemon),
        "processes": {f"{pid} {command}" for pid, command in processes.items()},
        "namespaces": _namespaces(list(processes)),
        "files": _files(daemon),
        "descriptors": _descriptors(daemon),
    }


def added(before: Snapshot, after: Snapshot) -> dict[str, list[str]]:
    """What is there now and was not before; empty when nothing was left."""
    return {kind: sorted(after[kind] - before[kind]) for kind in after if after[kind] - before[kind]}
