"""What is mounted where in this process's mount namespace (proc_pid_mountinfo(5))."""

from __future__ import annotations

import os
from typing import NamedTuple


class MountEntry(NamedTuple):
    target: str
    shared: bool
    slave: bool
    fstype: str


def mounts() -> list[MountEntry]:
    """In the order of the table, in which later mounts cover earlier ones."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return [_parse(line) for line in file]


def targets() -> list[str]:
    return [entry.target for entry in mounts()]


def containing_mount(path: str) -> MountEntry:
    """The mount that holds ``path``, an absolute path without symbolic links."""
    best = MountEntry("/", False, False, "")
    for entry in mounts():
        prefix = entry.target.rstrip("/")
        if (path == entry.target or path.startswith(prefix + "/")) and len(entry.target) >= len(best.target):
            best = entry
    return best


def file_system_type(path: str) -> str:
    """``ext4``, ``xfs``, …: of the mount that holds ``path``."""
    return containing_mount(os.path.realpath(path)).fstype


def _parse(line: str) -> MountEntry:
    fields = line.split(" ")
    separator = fields.index("-", 6)
    optional = fields[6:separator]
    return MountEntry(
        target=unescape(fields[4]),
        shared=any(word.startswith("shared:") for word in optional),
        slave=any(word.startswith("master:") for word in optional),
        fstype=fields[separator + 1],
    )


def unescape(text: str) -> str:
    r"""Space, tab, newline and backslash come as ``\040`` and so on."""
    head, *rest = text.split("\\")
    return head + "".join(chr(int(part[:3], 8)) + part[3:] for part in rest)
