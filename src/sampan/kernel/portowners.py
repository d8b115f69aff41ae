"""Which process has a port, from /proc (proc(5): /proc/net/tcp, /proc/<pid>/fd). Slow, and for texts only.

Standard library only.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import NamedTuple

_LISTEN = "0A"


class Owner(NamedTuple):
    pid: int
    name: str

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid})"


def find_owner(protocol: str, port: int) -> Owner | None:
    """A process of this network namespace that listens (tcp) or is bound (udp) at the port, at whatever
    address; None when nobody can be seen."""
    inodes = set()
    for name in (protocol, f"{protocol}6"):
        try:
            with open(f"/proc/self/net/{name}", encoding="ascii") as file:
                inodes |= _bound(file, port, protocol == "tcp")
        except FileNotFoundError:
            continue
    return _holder({f"socket:[{inode}]" for inode in inodes}) if inodes else None


def _bound(lines: Iterable[str], port: int, listening: bool) -> set[str]:
    wanted = f":{port:04X}"
    found = set()
    for line in lines:
        fields = line.split()
        if len(fields) > 9 and fields[1].endswith(wanted) and (not listening or fields[3] == _LISTEN):
            found.add(fields[9])
    return found


def _holder(links: set[str]) -> Owner | None:
    own = os.getpid()
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == own:
            continue
        try:
            for fd in os.listdir(f"/proc/{name}/fd"):
                if os.readlink(f"/proc/{name}/fd/{fd}") in links:
                    with open(f"/proc/{name}/comm", encoding="utf-8", errors="replace") as file:
                        return Owner(int(name), file.read().strip())
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it has ended meanwhile
    return None
