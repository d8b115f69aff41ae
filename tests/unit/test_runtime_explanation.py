"""The words of ``sampan debug explain`` for each operation of the sandbox."""

from __future__ import annotations

from typing import Any

import pytest

from sampan.kernel import mount as mnt
from sampan.kernel import process
from sampan.runtime.explanation import describe


def words(*operations: list[Any]) -> list[str]:
    program = {"cgroup_steps": [], "clone_flags": 0, "links": [], "operations": list(operations)}
    first, *rest = describe(program)
    assert first == "monitor: clone3 with new namespaces: none of its own"
    return [line.removeprefix("init: ") for line in rest]


def test_what_the_monitor_does_comes_first() -> None:
    program = {
        "cgroup_steps": [["mkdir", "/cg/a"], ["write", "/cg/a/pids.max", "5"]],
        "clone_flags": process.NAMESPACE_FLAGS["pid"] | process.NAMESPACE_FLAGS["mount"],
        "links": [["veth", "br0", "veth1", "eth0", "", 1500, "", [], "", ""]],
        "operations": [],
    }
    assert list(describe(program)) == [
        "monitor: make the group /cg/a",
        "monitor: write 5 to /cg/a/pids.max",
        "monitor: clone3 with new namespaces: mount, pid",
        "monitor: veth veth1 of br0, eth0 inside",
    ]


@pytest.mark.parametrize(
    ("operation", "lines"),
    [
        (
            ["overlay", ["/l2", "/l1"], "/up", "/work", "", "/run"],
            ["mount the overlay root, written to /up", "    over /l2", "    over /l1"],
        ),
        (
            ["mount", "proc", "/proc", "proc", mnt.MS_NOSUID | mnt.MS_NODEV, "", 0],
            ["mount proc at /proc (nosuid,nodev)"],
        ),
        (
            ["bind", "/a", "/b", True, mnt.MS_RDONLY, 0, mnt.MS_PRIVATE | mnt.MS_REC, False, ""],
            ["bind /a to /b (recursive,ro,rprivate)"],
        ),
        (["devices", [["/dev/null", 0o020666, 1, 3, 0, 0]]], ["make the device /dev/null c 1:3 0666 of 0:0"]),
        (["symlinks", [["pts/ptmx", "/dev/ptmx"]]], ["link /dev/ptmx to pts/ptmx"]),
        (["network", "eth0", ["10.0.0.2/24"], "10.0.0.1", ""], ["set up eth0 with 10.0.0.2/24 via 10.0.0.1"]),
        (["user", None, ["audio"], 1000, 100, [5]], ["become 1000:100 with the groups audio, 5"]),
        (["user", "nobody", [], 0, 0, []], ["become 'nobody' of the image"]),
        (
            ["credentials", {"bounding": 0b11, "ambient": 0}, 40, True, bytes(16)],
            [
                "bounding capabilities: CAP_CHOWN CAP_DAC_OVERRIDE",
                "ambient capabilities: none",
                "no new privileges from now on",
                "seccomp filter of 2 instructions",
            ],
        ),
        (
            ["credentials", {"bounding": (1 << 41) - 1}, 40, False, b""],
            ["bounding capabilities: all", "no seccomp filter"],
        ),
        (["execute", ["sh", "-c", "x"], ["A=b"], "/", 18], ["environment A=b", "execute ['sh', '-c', 'x']"]),
        (["unknown-to-us", 1, b"ab"], ["unknown-to-us 1 <2 bytes>"]),
    ],
)
def test_operations_in_words(operation: list[Any], lines: list[str]) -> None:
    assert words(operation) == lines
