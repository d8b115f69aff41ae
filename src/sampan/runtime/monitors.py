"""Where a process gets its monitor from: one that has served before, else a new fork of the spawner.

A monitor that has cleaned up after its process waits a moment for the next one instead of ending: forking
another, and the pages that it would have to copy, cost more than half of what an exec costs (ADR 20).
"""

from __future__ import annotations

import os
import select
import socket
import sys

from sampan.kernel import mount

from .errors import SpawnerLost
from .monitor import IN_FILE, IN_MESSAGE

LARGEST_MESSAGE = 1 << 17
"""What is larger (a container with a hundred kilobytes of variables) comes in a memory file."""
MOST_SPARE = 4
"""Each has about a megabyte of its own."""
_BOOT = "import sys; sys.path.insert(0, {path!r}); from sampan.runtime.spawner import main; main({fd})"


class Spawner:
    """The process that forks, and the monitors that are spare. Started before the daemon has threads or
    large imports."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._is_ready = False
        self._spare: list[socket.socket] = []
        self.pid = 0

    def start(self) -> None:
        """Fork and exec it. It needs about 0.1 s to be ready, which the first request waits for."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        path = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        os.set_inheritable(theirs.fileno(), True)
        boot = _BOOT.format(path=path, fd=theirs.fileno())
        arguments = [sys.executable, "-I", "-S", "-c", boot]
        program = _read_only_interpreter()
        try:
            path = sys.executable if program < 0 else f"/proc/self/fd/{program}"
            self.pid = os.posix_spawn(path, arguments, _environment())
        finally:
            theirs.close()
            if program >= 0:
                os.close(program)
        self._socket = ours
        self._is_ready = False

    def _await_ready(self) -> socket.socket:
        """Its socket. Starts one when there is none. Raises BrokenPipeError when it has ended."""
        if self._socket is None:
            self.start()
        assert self._socket is not None
        if not self._is_ready:
            if self._socket.recv(16) != b"ready":
                raise BrokenPipeError("the spawner ended before it was ready")
            self._socket.setblocking(False)
            self._is_ready = True
        return self._socket

    def request(self, program: bytes, fds: list[int]) -> socket.socket:
        """Have a monitor carry out a program; the answer is the daemon's end of its control socket, not
        blocking. Raises SpawnerLost when no spawner can be started."""
        if len(program) <= LARGEST_MESSAGE:
            return self._hand_over(IN_MESSAGE + program, fds)
        with os.fdopen(os.memfd_create("program"), "wb", buffering=0) as file:
            file.write(program)
            return self._hand_over(IN_FILE, [*fds, file.fileno()])

    def _hand_over(self, message: bytes, fds: list[int]) -> socket.socket:
        while self._spare:
            control = self._spare.pop()
            try:
                socket.send_fds(control, [message], fds)
                return control
            except OSError:
                control.close()  # it was killed while nobody needed it
        control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        control.setblocking(False)
        try:
            self._send(message, [theirs.fileno(), *fds])
        except BaseException:
            control.close()
            raise
        finally:
            theirs.close()
        return control

    def keep(self, control: socket.socket) -> None:
        """A monitor is free for another process. Those beyond what is worth keeping end with their
        socket."""
        if len(self._spare) < MOST_SPARE and self._socket is not None:
            self._spare.append(control)
        else:
            control.close()

    def is_gone(self, pid: int) -> bool:
        """Whether the spawner with this pid has ended."""
        if self._socket is None or pid != self.pid:
            return True
        poll = select.poll()
        poll.register(self._socket, 0)  # a hang-up alone
        return bool(poll.poll(0))

    def _send(self, message: bytes, fds: list[int]) -> None:
        try:
            socket.send_fds(self._await_ready(), [message], fds)
            return
        except (BrokenPipeError, ConnectionResetError):
            self._reap()
        try:
            socket.send_fds(self._await_ready(), [message], fds)
        except (BrokenPipeError, ConnectionResetError) as error:
            self._reap()
            raise SpawnerLost("the spawner does not start: see the daemon's standard error") from error

    def _reap(self) -> None:
        assert self._socket is not None
        self._socket.close()
        self._socket = None
        os.waitpid(self.pid, 0)

    def stop(self) -> None:
        """End the spawner and the spare monitors. Those with a process, and the processes, go on."""
        for control in self._spare:
            control.close()
        self._spare.clear()
        if self._socket is not None:
            self._reap()


def _read_only_interpreter() -> int:
    """A descriptor of the interpreter on a read-only mount of its own, -1 without the right to mount.

    An image whose command is /proc/self/exe runs it inside the container; opened for writing through
    /proc/<pid>/exe it is then on a read-only file system, whatever has become of "text file busy".
    """
    try:
        program = mount.clone_tree(os.path.realpath(sys.executable), False)
    except PermissionError:
        return -1
    mount.set_attributes(program, add=mount.MOUNT_ATTR_RDONLY)
    return program


def _environment() -> dict[str, str]:
    """Only what a start of Python needs: the daemon's variables are nobody's business further down."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"}
