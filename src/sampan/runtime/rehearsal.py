"""Whole lives of containers, played in the spawner before it freezes its heap.

The interpreter specialises code on its first runs and caches where attributes were found, and writes both
into its own memory (PEP 659, the type cache). Done here once, those pages stay shared by all monitors and by
every process on its way to execve; done in each of them they would be copied (1.8 us a page, measured).

What is played is real, in namespaces of the spawner's own which it leaves again: mounts on a scratch tmpfs,
a pair of links, a monitor whose process ends at once. Left out is what cannot be taken back: groups,
credentials, seccomp, execve. Nothing depends on it: where the kernel forbids a part, starts are slower.
Standard library only.
"""

from __future__ import annotations

import _socket
import marshal
import os
import stat

from sampan.kernel import mount as mnt
from sampan.kernel import netlink
from sampan.kernel import process as proc
from sampan.runtime import monitor, sandbox
from sampan.runtime.accounts import resolve_user

TYPE_CHECKING = False
if TYPE_CHECKING:  # the typing module is 1.6 MB of heap that every fork would carry page tables for
    from typing import Any

_TIMES = 10
"""Code is specialised from its ninth run on."""
_SCRATCH = "/sys"
"""Every host has it, and nothing that is played needs what it holds."""
_NAMESPACES = ("mnt", "uts", "ipc", "net")
_ALL = proc.CLONE_NEWNS | proc.CLONE_NEWUTS | proc.CLONE_NEWIPC | proc.CLONE_NEWNET
_USERS = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
_GROUPS = "root:x:0:root\ndaemon:x:1:\nwheel:x:10:root\n"


def rehearse() -> None:
    """Play everything. The process is where it was before, also when something was refused."""
    open_before = os.listdir("/proc/self/fd")
    homes = [os.open(f"/proc/self/ns/{name}", os.O_RDONLY | os.O_CLOEXEC) for name in _NAMESPACES]
    try:
        for _ in range(_TIMES):
            proc.unshare(_ALL)
            try:
                _play()
            finally:
                for fd in homes:
                    proc.setns(fd, 0)
    except (PermissionError, FileNotFoundError, sandbox.SandboxError):
        return  # a kernel or an outer container without one of them
    finally:
        for name in set(os.listdir("/proc/self/fd")) - set(open_before):
            try:
                os.close(int(name))
            except OSError:
                continue  # the listing's own


def _play() -> None:
    mnt.mount("", "/", "", mnt.MS_PRIVATE | mnt.MS_REC)
    mnt.mount("tmpfs", _SCRATCH, "tmpfs", 0, "")
    for name in ("lower", "lower/etc", "lower/proc", "lower/sys", "lower/dev", "upper", "work", "run"):
        os.mkdir(f"{_SCRATCH}/{name}")
    _write("lower/etc/passwd", _USERS)
    _write("lower/etc/group", _GROUPS)
    _write("hosts", "")
    _live(f"{_SCRATCH}/run")
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    theirs.close()
    box = sandbox.Sandbox(ours)
    box.run(marshal.loads(marshal.dumps(_operations())))  # noqa: S302 - our own, a line above
    netlink.create_veth("play0", "eth0", mtu=1500, peer_mac="02:00:00:00:00:01", peer_pid=os.getpid())
    netlink.configure_inside("eth0", ["192.0.2.2/24"], "192.0.2.1")
    resolve_user("", [])
    proc.drop_bounding(-1, 40)
    for fd in (box.root_fd, box.null_fd):
        if fd >= 0:
            os.close(fd)
    ours.close()


def _operations() -> list[list[Any]]:
    nodes = [
        [f"/dev/{name}", stat.S_IFCHR | 0o666, 1, number, 0, 0] for number, name in enumerate("abcdef", 3)
    ]
    quiet = mnt.MS_NOSUID | mnt.MS_NODEV | mnt.MS_NOEXEC
    scratch = _SCRATCH
    return [
        ["overlay", [f"{scratch}/lower"], f"{scratch}/upper", f"{scratch}/work", "", f"{scratch}/run"],
        ["mount", "proc", "/proc", "proc", quiet, "", 0],
        ["mount", "tmpfs", "/dev", "tmpfs", mnt.MS_NOSUID, "mode=755,size=65536k", 0],
        ["devices", nodes],
        ["symlinks", [["/proc/self/fd", "/dev/fd"], ["pts/ptmx", "/dev/ptmx"]]],
        [
            "mount",
            "devpts",
            "/dev/pts",
            "devpts",
            quiet & ~mnt.MS_NODEV,
            "newinstance,ptmxmode=0666,mode=0620",
            0,
        ],
        ["mount", "sysfs", "/sys", "sysfs", quiet | mnt.MS_RDONLY, "", 0],
        ["mount", "tmpfs", "/sys/fs/cgroup", "tmpfs", quiet, "mode=755", 0],
        [
            "cgroup-views",
            "/sys/fs/cgroup",
            [["/proc", "a"], ["/proc", "b"]],
            [["a", "c"]],
            mnt.MOUNT_ATTR_RDONLY,
        ],
        ["bind", f"{scratch}/hosts", "/etc/hosts", True, 0, 0, 0, False, ""],
        ["hostname", "play"],
        ["read-only", "/proc/bus"],
        ["read-only", "/proc/sys"],
        ["mask", "/proc/acpi"],
        ["mask", "/proc/kcore"],
        ["mask", "/proc/no-such-file"],
        ["pivot", False, 0],
        ["working-directory", "/"],
    ]


def _live(run_dir: str) -> None:
    """One life of a monitor, whose process ends before it has become anything."""
    ours, control = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    listener, other = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    sync, child_sync = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    after = {
        "run_dir": run_dir,
        "log": None,
        "clients": [],
        "oom_path": "",
        "cgroup_dirs": [f"{run_dir}/group"],
    }
    sync.send(b"end")  # not what it waits for
    program = marshal.dumps(after)
    header = monitor.REQUEST_HEADER.pack(0, 0, 0, len(program))
    message = header + program + marshal.dumps([["await", "nothing"]])
    life = monitor.Monitor(monitor.Request(message), control.fileno(), listener.detach())
    if life.start(sync.detach(), child_sync.detach()):
        life.announce([])
        life.finish(life.run())
    for end in (ours, control, other):
        end.close()


def _write(name: str, text: str) -> None:
    monitor._write(f"{_SCRATCH}/{name}", text)
