"""Starts a container's process as a child of the caller, without spawner and monitor: for ``sampan-oci``.

The program is the planner's, with what the OCI lifecycle adds: hooks, and a pause between create and start.
The child inherits the caller's standard streams.
"""

from __future__ import annotations

import array
import marshal
import os
import signal
import socket
from collections.abc import Callable

from sampan.base.errors import SystemFailure
from sampan.kernel import mount as mnt
from sampan.kernel import process as proc
from sampan.kernel.cgroup import steps as cgroup

from . import hooks, lifecycle_operations, monitor, sandbox
from .planner import Program
from .sandbox import Operation

_CHUNK = 65536


class ProcessFailed(SystemFailure):
    """The process could not be started; ``exit_code`` is 125, 126 or 127."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Additions:
    """What the OCI lifecycle adds to a plan of the engine's."""

    def __init__(self) -> None:
        self.hooks: dict[str, list[hooks.Hook]] = {}
        """By OCI name; those of the child are ``createContainer`` and ``startContainer``."""
        self.hook_outputs = ("", "")
        self.state = ""
        """JSON for the child's hooks."""
        self.fifo_fd = -1
        """Wait at this FIFO before execve; -1: go on at once."""
        self.keyring = True
        self.keep_groups = False
        """The caller's supplementary groups in place of the specification's."""
        self.preserved_fds = 0
        """How many descriptors from 3 on the process keeps."""
        self.process: list[Operation] = []
        """Scheduling, NUMA policy and the like, done while there are privileges."""
        self.binds: dict[str, Operation] = {}
        """By destination: binds that the caller prepared, in place of the planner's."""


def extend(operations: list[Operation], additions: Additions) -> list[Operation]:
    """The child's program with hooks and the pause in their places."""
    result: list[Operation] = []
    execute = operations[-1]
    for operation in operations:
        name = operation[0]
        if name == "keyring" and not additions.keyring:
            continue
        if name == "propagation" and additions.hooks.get("createRuntime"):
            result.append(["ask", "hooks"])
        elif name == "pivot":
            # while the root can still be written to, whatever it will be
            result.append(["directory", execute[3], 0o755])
            result += _hooks("createContainer", additions)
        elif name == "credentials":
            result += additions.process
            result.append(["find-command", execute[1], execute[2]])
            if additions.fifo_fd >= 0:
                result.append(["await-start", additions.fifo_fd])
            result += _hooks("startContainer", additions)
        result.append(_changed(operation, additions))
    return result


def _hooks(point: str, additions: Additions) -> list[Operation]:
    entries = additions.hooks.get(point)
    return [["hooks", entries, additions.state, additions.hook_outputs]] if entries else []


def _changed(operation: Operation, additions: Additions) -> Operation:
    name = operation[0]
    if name == "execute":
        return [*operation, False, 3 + additions.preserved_fds]
    if name == "user":
        uid, gid, groups = operation[3:6]
        return ["exact-user", uid, gid, os.getgroups() if additions.keep_groups else groups]
    if name == "bind" and operation[2] in additions.binds:
        return additions.binds[operation[2]]
    if name == "propagation" and operation[1] & mnt.MS_UNBINDABLE:
        # the root could not be bound any more; it becomes unbindable after the pivot
        return [name, mnt.MS_PRIVATE | mnt.MS_REC]
    return operation


class Child:
    """A process on its way."""

    def __init__(self, pid: int, pidfd: int, sync: socket.socket) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.master_fd = -1
        self.listener_fd = -1
        """Of a seccomp filter with SCMP_ACT_NOTIFY."""
        self._sync = sync

    def wait_ready(self) -> None:
        """Until it waits for its start, or has become the command. Raises ProcessFailed."""
        while True:
            data, ancillary, _, _ = self._sync.recvmsg(_CHUNK, socket.CMSG_SPACE(4))
            if not data or data == b"ready":
                self._sync.close()
                return
            if data in (b"tty", b"listener"):
                numbers = array.array("i")
                numbers.frombytes(ancillary[0][2])
                if data == b"tty":
                    self.master_fd = numbers[0]
                else:
                    self.listener_fd = numbers[0]
            elif data[:1] == b"E":
                message, code = marshal.loads(data[1:])  # noqa: S302 - from our own child
                os.waitpid(self.pid, 0)
                raise ProcessFailed(message, code)

    def kill(self) -> None:
        try:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            return


def spawn(program: Program, operations: list[Operation], before_root: Callable[[int], None] | None) -> Child:
    """Clone and help the child along. ``before_root`` gets the pid when the child has its namespaces and
    waits for the hooks of the caller. Raises ProcessFailed, HookFailed, OSError; then nothing is left."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    lifecycle_operations.register()
    payload = memoryview(marshal.dumps(operations))
    group_fd = monitor._prepare(program)
    pid, pidfd = proc.clone3(program["clone_flags"], group_fd)
    if pid == 0:
        ours.close()
        if group_fd >= 0:
            os.close(group_fd)
        # closed to the container's processes until execve, as below the spawner
        proc.set_dumpable(False)
        sandbox.become(theirs.detach(), (0, 1, 2), payload, keep_fds=True)
    theirs.close()
    if group_fd >= 0:
        os.close(group_fd)
    child = Child(pid, pidfd, ours)
    try:
        for file, text in program["id_maps"]:
            monitor._write(f"/proc/{pid}/{file}", text)
        if program["id_maps"]:
            ours.send(b"maps")
        if any(operation[0] == "ask" for operation in operations):
            _answer(child, ours, before_root)
        child.wait_ready()
    except BaseException:
        child.kill()
        cgroup.remove(program["cgroup_dirs"])
        raise
    return child


def _answer(child: Child, sync: socket.socket, before_root: Callable[[int], None] | None) -> None:
    data: bytes = sync.recv(_CHUNK)
    if data[:1] == b"E" and data != b"hooks":
        message, code = marshal.loads(data[1:])  # noqa: S302 - from our own child
        raise ProcessFailed(message, code)
    if before_root is not None:
        before_root(child.pid)
    sync.send(b"hooks")


def exit_code(pid: int) -> int:
    """Reap a child; 128 + n after signal n."""
    while True:
        try:
            _, status = os.waitpid(pid, 0)
        except InterruptedError:
            continue
        return proc.exit_code(status)
