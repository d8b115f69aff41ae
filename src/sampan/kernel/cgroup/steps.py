"""Make, enter and remove a control group from a plan of primitive steps.

The plan is made of lists of strings only, so that it crosses any codec:

- ``steps``: ``["mkdir", dir]``, ``["write", file, text, ...]`` (one write(2) per text),
  ``["write-optional", file, text, ...]`` (skipped where the kernel lacks the file),
  ``["write-either", file, text, other file, text]`` (the first that the kernel has),
  ``["inherit", dir]`` (v1 cpuset: cpus and mems of the parents, an empty cpuset cannot be entered),
  ``["controllers", dir, "cpu memory ..."]`` (v2: enable them from the mount point down to the parent
  of ``dir``), ``["filter", dir, hex]`` (v2: attach an eBPF device filter).
- ``enter``: the files a process writes ``0`` to, to enter itself.
- ``dirs``: the directories to remove when the container has ended.

Usage: ``create(steps)`` by any process with the rights; ``enter(files)`` by the new process itself while it
has one thread and before it unshares its cgroup namespace; ``remove(dirs)`` after the last process has ended.

The enter file on v1 is ``tasks`` and not ``cgroup.procs``: a thread that moves only itself skips the
global ``cgroup_threadgroup_rwsem``, whose first taking waits for an RCU grace period of up to 10 ms
(cgroup_attach_lock in kernel/cgroup/cgroup.c).
"""

from __future__ import annotations

import errno
import os
import time

Step = list[str]


def create(steps: list[Step]) -> None:
    """Carry out the steps in order. Raises OSError whose filename is the file that refused."""
    for step in steps:
        kind = step[0]
        if kind == "write":
            write(step[1], *step[2:])
        elif kind == "mkdir":
            _make_directory(step[1])
        elif kind == "write-optional":
            if os.path.exists(step[1]):
                write(step[1], *step[2:])
        elif kind == "write-either":
            write(*(step[1:3] if os.path.exists(step[1]) else step[3:5]))
        elif kind == "inherit":
            inherit_cpuset(step[1])
        elif kind == "controllers":
            enable_controllers(step[1], step[2].split())
        elif kind == "filter":
            from .devicefilter import attach

            attach(step[1], bytes.fromhex(step[2]))
        else:
            raise ValueError(f"unknown cgroup step {kind!r}")


def enter(files: list[str], *, missing_ok: bool = False) -> None:
    """Move the calling thread into the groups. ``missing_ok`` skips hierarchies without the group, as
    an exec needs it: a container joins only the hierarchies that its limits ask for."""
    for path in files:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            if missing_ok:
                continue
            raise
        try:
            os.write(descriptor, b"0")
        except OSError as error:
            error.filename = path
            raise
        finally:
            os.close(descriptor)


def remove(dirs: list[str], timeout_s: float = 2.0, *, kill: bool = False) -> None:
    """Remove groups with what is below them. Idempotent.

    ``kill``: what still lives in them is killed, as the children of a container's first process are that
    run in the host's or another container's pid namespace.

    A group stays busy for moments after its last member was reaped; waits up to ``timeout_s`` for all of
    them together. Raises OSError (EBUSY) when something still lives in one.
    """
    deadline = 0.0
    for path in dirs:
        pause_s = 0.001
        while True:
            try:
                os.rmdir(path)
                break
            except FileNotFoundError:
                break
            except OSError as error:
                if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
                    raise
                if kill:
                    _kill_members(path)
                _remove_children(path)
                now = time.monotonic()
                deadline = deadline or now + timeout_s
                if now > deadline:
                    raise
                time.sleep(pause_s)
                pause_s = min(pause_s * 2, 0.05)


def _kill_members(path: str) -> None:
    for directory, _, _ in os.walk(path):
        try:
            pids = read(f"{directory}/cgroup.procs").split()
        except FileNotFoundError:
            continue  # removed meanwhile
        for pid in pids:
            try:
                os.kill(int(pid), 9)
            except ProcessLookupError:
                continue


def write(path: str, *texts: str) -> None:
    """Write each text with a write(2) of its own, as control files want it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        for text in texts:
            os.write(descriptor, text.encode())
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(descriptor)


def read(path: str) -> str:
    """A control file's whole text."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.read(descriptor, 65536)
        if len(data) == 65536:
            while more := os.read(descriptor, 1 << 20):
                data += more
    finally:
        os.close(descriptor)
    return data.decode()


def inherit_cpuset(directory: str) -> None:
    """Fill empty ``cpuset.cpus`` and ``cpuset.mems`` from the parent, and the parent from its own first."""
    for name in ("/cpuset.cpus", "/cpuset.mems"):
        path = directory + name
        if read(path).strip():
            continue
        parent = os.path.dirname(directory)
        if not read(parent + name).strip():
            inherit_cpuset(parent)
        write(path, read(parent + name).strip())


def enable_controllers(directory: str, controllers: list[str]) -> None:
    """v2: let the group ``directory`` have these controllers, those of them that the host has.

    A controller appears in a group when every group above lists it in ``cgroup.subtree_control``
    (cgroup-v2.rst, "Enabling and Disabling").
    """
    chain = []
    current = os.path.dirname(directory)
    while os.path.exists(current + "/cgroup.subtree_control"):
        chain.append(current)
        current = os.path.dirname(current)
    for group in reversed(chain):
        missing = _missing_controllers(group, controllers)
        if missing:
            write(group + "/cgroup.subtree_control", " ".join("+" + name for name in missing))


def _missing_controllers(group: str, controllers: list[str]) -> list[str]:
    enabled = read(group + "/cgroup.subtree_control").split()
    wanted = [name for name in controllers if name not in enabled]
    if not wanted:
        return []
    available = read(group + "/cgroup.controllers").split()
    return [name for name in wanted if name in available]


def _make_directory(path: str) -> None:
    try:
        os.mkdir(path, 0o755)
    except FileExistsError:
        pass
    except FileNotFoundError:
        os.makedirs(path, 0o755, exist_ok=True)


def _remove_children(path: str) -> None:
    """Best effort: what is still busy is met again by the caller's rmdir, which reports it."""
    for directory, _, _ in os.walk(path, topdown=False):
        if directory != path:
            try:
                os.rmdir(directory)
            except OSError as error:
                if error.errno not in (errno.EBUSY, errno.ENOTEMPTY, errno.ENOENT):
                    raise
