"""The daemon's view of one process: what its monitor tells, and what it is told."""

from __future__ import annotations

import asyncio
import marshal
import os
import signal
import socket
from collections.abc import Callable, Sequence
from typing import Any

from sampan.base.errors import Conflict
from sampan.kernel import process as proc
from sampan.model.launch import ExitStatus

from .errors import MonitorLost, StartFailed
from .streams import SocketStream, stream_pair

_MESSAGE = 65536
_UNKNOWN_EXIT = 137
_CLOSED = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
"""In place of a socket that was handed over: sending through it fails as after the monitor's end."""
_CLOSED.close()


class SupervisedProcess:
    """A live process with a monitor (engine.ports.Supervised)."""

    def __init__(
        self, process_id: str, control: socket.socket, keep: Callable[[socket.socket], None] | None = None
    ) -> None:
        """``keep`` takes the socket when the monitor is free for another process."""
        self.id = process_id
        self._keep = keep
        self.pid = 0
        self.started_ns = 0
        self._control = control
        self._pidfd = -1
        loop = asyncio.get_running_loop()
        self._loop = loop
        self.started: asyncio.Future[None] = loop.create_future()
        self._exit: asyncio.Future[ExitStatus] = loop.create_future()
        self._gone: asyncio.Future[None] = loop.create_future()
        self._ended: Callable[[], None] | None = None
        control.setblocking(False)
        loop.add_reader(control.fileno(), self._readable)

    def _readable(self) -> None:
        try:
            data = self._control.recv(_MESSAGE)
        except BlockingIOError:
            return
        except ConnectionResetError:
            self._last_words()
            return
        except OSError:
            data = b""
        self._take(data)

    def _last_words(self) -> None:
        """The monitor closed before it had read a message of ours, such as a resize. The error comes first
        (net/unix/af_unix.c, unix_release_sock), what it said before is still to be read; and all of it
        now, since uvloop calls no reader again after an error on its descriptor."""
        while self._control.fileno() >= 0:
            try:
                data = self._control.recv(_MESSAGE)
            except OSError:
                data = b""
            self._take(data)

    def _take(self, data: bytes) -> None:
        if not data:
            self._closed()
            return
        kind, *rest = marshal.loads(data)  # noqa: S302 - from our own monitor
        if kind == "started":
            self._on_started(*rest)
        elif kind == "failed":
            self.started.set_exception(StartFailed(*rest))
            self._closed()
        elif kind == "exited":
            self._on_exited(ExitStatus(exit_code=rest[0], finished_ns=rest[1], oom_killed=rest[2]))
        elif kind == "released":
            self._released(spare=rest[0])

    def _on_started(self, pid: int, started_ns: int) -> None:
        self.pid, self.started_ns = pid, started_ns
        try:
            self._pidfd = proc.pidfd_open(pid)
        except ProcessLookupError:
            self._pidfd = -1  # ended already; the monitor's next message says how
        if not self.started.done():
            self.started.set_result(None)

    def _on_exited(self, status: ExitStatus) -> None:
        self.pid = 0
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        if not self._exit.done():
            self._exit.set_result(status)

    def _released(self, *, spare: bool) -> None:
        """Everything is cleaned up; the monitor ends now, or waits for another process."""
        control = self._control
        self._loop.remove_reader(control.fileno())
        if spare and self._keep is not None:
            self._control = _CLOSED
            self._keep(control)
        else:
            control.close()
        if not self._gone.done():
            self._gone.set_result(None)

    def _closed(self) -> None:
        """The monitor's end is closed: after ``exited`` this is its normal end, otherwise it was killed,
        and the process with it (PR_SET_PDEATHSIG)."""
        if self._control.fileno() < 0:
            return
        self._loop.remove_reader(self._control.fileno())
        self._control.close()
        if not self.started.done():
            self.started.set_exception(MonitorLost("the monitor ended before the process was started", 125))
        elif not self._exit.done() and self.started.exception() is None:
            self._on_exited(ExitStatus(exit_code=_UNKNOWN_EXIT, finished_ns=0))
        if not self._gone.done():
            self._gone.set_result(None)

    def let_go(self) -> None:
        """Close what is held of it here. Idempotent."""
        if self._control.fileno() >= 0:
            self._loop.remove_reader(self._control.fileno())
            self._control.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def discard(self) -> None:
        """Nobody wants it any more: it is killed as soon as it runs."""

        def kill(started: asyncio.Future[None]) -> None:
            if not started.cancelled() and started.exception() is None and self.pid:
                self.kill(signal.SIGKILL)

        self.started.add_done_callback(kill)

    async def wait(self) -> ExitStatus:
        """How the process ended. Any number of waiters."""
        return await asyncio.shield(self._exit)

    async def released(self) -> None:
        """After the end: the monitor has removed the control groups and its socket, and let go of it all."""
        await asyncio.shield(self._gone)

    async def attach(self, *, stdin: bool, stdout: bool, stderr: bool) -> SocketStream:
        """A stream to and from the process. Raises Conflict when it has ended."""
        ours, theirs = stream_pair()
        try:
            self.send(("attach", stdin, stdout, stderr), [theirs.fileno()])
        except Conflict:
            ours.close()
            raise
        finally:
            theirs.close()
        return SocketStream(ours)

    async def resize(self, height: int, width: int) -> None:
        """The size of the terminal; nothing happens without one."""
        self.send(("resize", height, width))

    async def reopen_log(self) -> None:
        self.send(("reopen",))

    def kill(self, signal_number: int) -> None:
        """Through a pidfd. Raises Conflict when the process has ended."""
        if self._pidfd < 0:
            raise Conflict(f"process of {self.id} is not running")
        try:
            signal.pidfd_send_signal(self._pidfd, signal_number)
        except ProcessLookupError:
            raise Conflict(f"process of {self.id} is not running") from None

    def send(self, message: tuple[Any, ...], fds: Sequence[int] = ()) -> None:
        """To the monitor, with descriptors. Raises Conflict when it has let go of the process."""
        try:
            socket.send_fds(self._control, [marshal.dumps(message)], list(fds))
        except (OSError, ValueError) as error:
            raise Conflict(f"process of {self.id} is not running") from error
