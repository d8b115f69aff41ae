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
from sampan.kernel import process as proc
from sampan.kernel.cgroup import steps as cgroup

from . import hooks, monitor, sandbox
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
        self.state = ""
        """JSON for the child's hooks; its pid is the one place that the child fills in itself."""
        self.fifo = ""
        """Wait at this FIFO before execve; empty: go on at once."""
        self.keyring = True
        self.preserved_fds = 0
        """How many descriptors from 3 on the process keeps."""


def extend(operations: list[Operation], additions: Additions) -> list[Operation]:
    """The child's program with hooks and the pause in their places."""
    result: list[Operation] = []
    for operation in operations:
        name = operation[0]
        if name == "propagation" and additions.hooks.get("createRuntime"):
            result.append(["ask", "hooks"])
        if name == "pivot":
            if additions.hooks.get("createContainer"):
                result.append(["hooks", additions.hooks["createContainer"], additions.state])
            if additions.fifo:
                result.append(["open-fifo", additions.fifo])
        if name == "keyring" and not additions.keyring:
            continue
        if name == "credentials":
            execute = operations[-1]
            result.append(["find-command", execute[1], execute[2], execute[3]])
            if additions.fifo:
                result.append(["await-start"])
            if additions.hooks.get("startContainer"):
                result.append(["hooks", additions.hooks["startContainer"], additions.state])
        if name == "execute":
            operation = [*operation, False, 3 + additions.preserved_fds]
        result.append(operation)
    return result


class Child:
    """A process on its way."""

    def __init__(self, pid: int, pidfd: int, sync: socket.socket) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.master_fd = -1
        self._sync = sync

    def wait_ready(self) -> None:
        """Until it waits for its start, or has become the command. Raises ProcessFailed."""
        while True:
            data, ancillary, _, _ = self._sync.recvmsg(_CHUNK, socket.CMSG_SPACE(4))
            if not data or data == b"ready":
                self._sync.close()
                return
            if data == b"tty":
                numbers = array.array("i")
                numbers.frombytes(ancillary[0][2])
                self.master_fd = numbers[0]
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
    payload = memoryview(marshal.dumps(operations))
    group_fd = monitor._prepare(program)
    pid, pidfd = proc.clone3(program["clone_flags"], group_fd)
    if pid == 0:
        ours.close()
        sandbox.become(theirs.detach(), (0, 1, 2), payload)
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
