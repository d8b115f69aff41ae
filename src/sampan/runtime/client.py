"""The daemon's side of the runtime: one spawner, and a connection to the monitor of each live process."""

from __future__ import annotations

import asyncio
import marshal
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from sampan.base.errors import Conflict
from sampan.kernel import capabilities, mount
from sampan.kernel import process as proc
from sampan.kernel.cgroup import layout, steps
from sampan.model.launch import ExecRequest, ExitStatus, LaunchRequest

from . import monitor, planner
from .errors import MonitorLost, SpawnerLost, StartFailed
from .spawner import LARGEST_MESSAGE
from .streams import Attachment, SocketStream

_MESSAGE = 65536
_BEFORE = ("cgroup_steps", "parent_namespaces", "time_offsets", "cgroup_into", "id_maps", "links")
_AFTER = ("run_dir", "log", "clients", "oom_path", "cgroup_dirs")
_UNKNOWN_EXIT = 137
_MOST_CLIENTS = 200
"""That are there from the first byte on: a message carries at most 253 descriptors (SCM_MAX_FD)."""
_BOOT = "import sys; sys.path.insert(0, {path!r}); from sampan.runtime.spawner import main; main({fd})"


class Spawner:
    """The process that forks. Started before the daemon has threads or large imports."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self.pid = 0

    def start(self) -> None:
        """Fork and exec it; returns when it is ready. Costs about 60 ms once."""
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
        if ours.recv(16) != b"ready":
            raise SpawnerLost("the spawner did not start: see the daemon's standard error")
        ours.setblocking(False)
        self._socket = ours

    def send(self, program: bytes, fds: list[int]) -> None:
        """Ask for a monitor. Raises SpawnerLost when no spawner can be started."""
        if len(program) > LARGEST_MESSAGE:
            with os.fdopen(os.memfd_create("program"), "wb", buffering=0) as file:
                file.write(program)
                self._send(b"F", [*fds, file.fileno()])
        else:
            self._send(program, fds)

    def _send(self, message: bytes, fds: list[int]) -> None:
        if self._socket is None:
            self.start()
        assert self._socket is not None
        try:
            socket.send_fds(self._socket, [message], fds)
        except (BrokenPipeError, ConnectionResetError):
            self._reap()
            self.start()
            socket.send_fds(self._socket, [message], fds)

    def _reap(self) -> None:
        assert self._socket is not None
        self._socket.close()
        self._socket = None
        os.waitpid(self.pid, 0)

    def stop(self) -> None:
        """End the spawner. Monitors and containers go on."""
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


class SupervisedProcess:
    """A live process with a monitor (engine.ports.Supervised)."""

    def __init__(self, process_id: str, control: socket.socket) -> None:
        self.id = process_id
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
        """After the end: the monitor has removed the control groups and its socket, and is gone."""
        await asyncio.shield(self._gone)

    async def attach(self, *, stdin: bool, stdout: bool, stderr: bool) -> SocketStream:
        """A stream to and from the process. Raises Conflict when it has ended."""
        ours, theirs = _stream_pair()
        try:
            self._send(("attach", stdin, stdout, stderr), [theirs.fileno()])
        except Conflict:
            ours.close()
            raise
        finally:
            theirs.close()
        return SocketStream(ours)

    async def resize(self, height: int, width: int) -> None:
        """The size of the terminal; nothing happens without one."""
        self._send(("resize", height, width))

    async def reopen_log(self) -> None:
        self._send(("reopen",))

    def kill(self, signal_number: int) -> None:
        """Through a pidfd. Raises Conflict when the process has ended."""
        if self._pidfd < 0:
            raise Conflict(f"process of {self.id} is not running")
        try:
            signal.pidfd_send_signal(self._pidfd, signal_number)
        except ProcessLookupError:
            raise Conflict(f"process of {self.id} is not running") from None

    def _send(self, message: tuple[Any, ...], fds: Sequence[int] = ()) -> None:
        try:
            socket.send_fds(self._control, [marshal.dumps(message)], list(fds))
        except (OSError, ValueError) as error:
            raise Conflict(f"process of {self.id} is not running") from error


class RuntimeClient:
    """Starts processes and finds them again (engine.ports.Runtime)."""

    def __init__(self, spawner: Spawner, host: planner.Host | None = None) -> None:
        self._spawner = spawner
        self._host = host or planner.Host(
            layout=layout.detect(), last_capability=capabilities.last_capability()
        )
        self._last: dict[str, SupervisedProcess] = {}
        """By id: a new run of a container waits until the monitor of the last one has cleaned up."""

    async def launch(
        self, request: LaunchRequest, attachments: Sequence[Attachment] = ()
    ) -> SupervisedProcess:
        """Returns when execve has succeeded. Raises StartFailed."""
        return await self._start(request.id, request.run_dir, self.plan(request), attachments)

    async def exec(self, request: ExecRequest, attachments: Sequence[Attachment] = ()) -> SupervisedProcess:
        """One more process in a running container."""
        program = planner.plan_exec(request, self._host)
        return await self._start(request.id, request.run_dir, program, attachments)

    def plan(self, request: LaunchRequest) -> planner.Program:
        """What a launch would do; ``sampan debug explain`` shows it."""
        return planner.plan_launch(request, self._host)

    async def _start(
        self,
        process_id: str,
        run_dir: str,
        program: planner.Program,
        attachments: Sequence[Attachment],
    ) -> SupervisedProcess:
        before = self._last.get(process_id)
        if before is not None:
            await before.released()
        os.makedirs(run_dir, mode=0o700, exist_ok=True)
        _forget_exit(run_dir)
        control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener = _listen(run_dir)
        sync = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pairs = [_stream_pair() for _ in attachments]
        wishes = [[a.stdin, a.stdout, a.stderr] for a in attachments]
        program["clients"] = wishes[:_MOST_CLIENTS]
        passed = [theirs, listener, *sync, *(pair[1] for pair in pairs)]
        try:
            self._spawner.send(_encode(program), [end.fileno() for end in passed[: 4 + _MOST_CLIENTS]])
            for wish, (_, end) in zip(wishes[_MOST_CLIENTS:], pairs[_MOST_CLIENTS:], strict=True):
                socket.send_fds(control, [marshal.dumps(("attach", *wish))], [end.fileno()])
        except BaseException:
            control.close()
            for ours, _ in pairs:
                ours.close()
            raise
        finally:
            for end in passed:
                end.close()
        process = SupervisedProcess(process_id, control)
        for attachment, (ours, _) in zip(attachments, pairs, strict=True):
            attachment.connected(SocketStream(ours))
        self._remember(process)
        try:
            await asyncio.shield(process.started)
        except MonitorLost:
            await asyncio.to_thread(steps.remove, program["cgroup_dirs"], kill=True)
            raise
        except asyncio.CancelledError:
            process.discard()
            raise
        return process

    def _remember(self, process: SupervisedProcess) -> None:
        self._last[process.id] = process

        def forget(_: asyncio.Future[None]) -> None:
            if self._last.get(process.id) is process:
                del self._last[process.id]

        process._gone.add_done_callback(forget)

    async def recover(self, process_id: str, run_dir: str) -> SupervisedProcess | ExitStatus | None:
        """After a restart of the daemon: the live process, how it ended meanwhile, or None."""
        control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            directory = os.open(run_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            control.close()
            return None
        try:
            control.connect(f"/proc/self/fd/{directory}/monitor.sock")
        except (FileNotFoundError, ConnectionRefusedError):
            control.close()
            return read_exit(run_dir)
        finally:
            os.close(directory)
        process = SupervisedProcess(process_id, control)
        try:
            await process.started
        except StartFailed:
            return read_exit(run_dir)
        self._remember(process)
        return process

    def stop(self) -> None:
        """End the spawner; what it started goes on."""
        self._spawner.stop()


def read_exit(run_dir: str) -> ExitStatus | None:
    """What the monitor left behind, or None."""
    try:
        with open(f"{run_dir}/exit.json", "rb") as file:
            return msgspec.json.decode(file.read(), type=ExitStatus)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None


def _encode(program: planner.Program) -> bytes:
    """As monitor.Request reads it."""
    bits = (
        (monitor.TTY if program["tty"] else 0)
        | (monitor.OPEN_STDIN if program["open_stdin"] else 0)
        | (monitor.STDIN_ONCE if program["stdin_once"] else 0)
    )
    before = {key: program[key] for key in _BEFORE}
    first = marshal.dumps(before) if any(before.values()) else b""
    later = marshal.dumps({key: program[key] for key in _AFTER})
    header = monitor.REQUEST_HEADER.pack(program["clone_flags"], bits, len(first), len(later))
    return b"".join((header, first, later, marshal.dumps(program["operations"])))


def _forget_exit(run_dir: str) -> None:
    try:
        os.unlink(f"{run_dir}/exit.json")
    except FileNotFoundError:
        return


def _listen(run_dir: str) -> socket.socket:
    """The socket by which a later daemon finds the monitor; made here, since it costs a monitor memory."""
    path = f"{run_dir}/monitor.sock"
    if os.path.lexists(path):
        os.unlink(path)
    # the name of a socket holds 108 bytes: reach a deep directory through its descriptor
    directory = os.open(run_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        listener.bind(f"/proc/self/fd/{directory}/monitor.sock")
        listener.listen(4)
        return listener
    except BaseException:
        listener.close()
        raise
    finally:
        os.close(directory)


def _stream_pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
