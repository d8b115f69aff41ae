"""The monitor: one small process for each container and each exec.

It owns the process's standard streams, writes the log, reaps the process and keeps its exit status, so that
none of this depends on the daemon being alive. It is forked from the spawner, shares the spawner's memory,
and is careful not to touch much of it. Standard library only, single-threaded.

Towards the daemon it speaks messages of ``marshal`` (same interpreter at both ends) on a SOCK_SEQPACKET
socket: the one it was born with, and any that connects to ``<run_dir>/monitor.sock`` later.

to the daemon    ``("started", pid, started_ns)``, ``("failed", message, exit_code)``,
                 ``("exited", exit_code, finished_ns, oom_killed)``, ``("released", spare)`` when the control
                 groups are removed: the monitor ends now, or is spare and waits for another request
from the daemon  ``("attach", stdin, stdout, stderr)`` with one stream socket, ``("resize", height, width)``,
                 ``("reopen",)``
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _socket
import fcntl
import marshal
import os
import select
import struct
import termios
import time

from sampan.kernel import process as proc
from sampan.kernel.cgroup import steps as cgroup
from sampan.kernel.logfile import JsonFileWriter
from sampan.kernel.netlink import create_interface
from sampan.runtime import sandbox

TYPE_CHECKING = False
if TYPE_CHECKING:  # the typing module is 1.6 MB of heap that every fork would carry page tables for
    from typing import Any

    Program = dict[str, Any]

_CHUNK = 65536
_HIGH_WATER = 1 << 20
"""Bytes kept for a slow client before its container's output waits for it (as in Docker's bytespipe)."""
_HEADER = struct.Struct(">BxxxL")
_DRAIN_S = 5.0
"""How long the last output may take to reach slow clients after the end of the process."""
_MOST_FDS = 4
_NOTHING = memoryview(b"")
MOST_REQUEST_FDS = 253
"""SCM_MAX_FD of the kernel."""
LARGEST_REQUEST = 1 << 18
MOST_LIVES = 256
"""How many processes a monitor serves: what its heap loses to fragments ends with it."""

IN_MESSAGE, IN_FILE = b"P", b"F"
"""The first byte of a request: the program follows, or is in a file, the last of the descriptors. No other
message starts like that (marshal's tuples do not), so what came too late for the last process is told."""
REQUEST_HEADER = struct.Struct("=QBII")
"""Flags of clone3, bits, and the sizes of the marshalled ``before`` and ``after``; the operations follow."""
TTY, OPEN_STDIN, STDIN_ONCE = 1, 2, 4


class Monitor:
    """The event loop of one supervised process. Everything is a plain descriptor: an object of the socket
    module costs a child of a frozen process 300 KB of pages that were shared."""

    __slots__ = (
        "clients",
        "control_fd",
        "control_fds",
        "input",
        "input_ends",
        "input_fd",
        "listener_fd",
        "log",
        "master_fd",
        "outputs",
        "pid",
        "pidfd",
        "request",
        "started_ns",
        "stdin_once",
        "tty",
    )

    def __init__(self, request: Request, control_fd: int, listener_fd: int) -> None:
        self.request = request
        self.tty = bool(request.bits & TTY)
        self.stdin_once = bool(request.bits & STDIN_ONCE)
        self.control_fd = control_fd
        self.control_fds = [control_fd]
        self.listener_fd = listener_fd
        self.clients: list[Client] = []
        self.outputs: dict[int, int] = {}
        """Read ends by descriptor: 1 for stdout (or the terminal), 2 for stderr."""
        self.input_fd = -1
        self.input = b""
        self.input_ends = False
        self.master_fd = -1
        self.pid = 0
        self.pidfd = -1
        self.started_ns = 0
        self.log: JsonFileWriter | None = None

    # --- birth --------------------------------------------------------------------------------------------

    def start(self, sync_fd: int, child_sync_fd: int) -> bool:
        """Make the process. False when it could not be started; the daemon has been told why."""
        request = self.request
        try:
            child_ends, own_ends = self._standard_streams()
            before = request.before()
            cgroup_fd = _prepare(before) if before else -1
            self.pid, self.pidfd = proc.clone3(request.clone_flags, cgroup_fd)
            if self.pid == 0:
                sandbox.become(child_sync_fd, child_ends, request.operations)
            request.operations = _NOTHING
            for fd in {cgroup_fd, child_sync_fd, *child_ends} - {-1}:
                os.close(fd)
            if before and before["id_maps"]:
                self._help_child(sync_fd, before)
            failure = self._await_exec(sync_fd)
        except OSError as error:
            failure = (f"{error.filename or 'start'}: {(error.strerror or str(error)).lower()}", 125)
        if failure is not None:
            self._abandon(failure)
            return False
        os.close(sync_fd)
        for fd, stream in own_ends:
            if stream == 0:
                self.input_fd = fd
            else:
                self.outputs[fd] = stream
        if self.tty:
            self.outputs = {self.master_fd: 1}
            self.input_fd = self.master_fd
        return True

    def _standard_streams(self) -> tuple[tuple[int, ...], list[tuple[int, int]]]:
        """The child's three descriptors (a terminal replaces them later) and our ends as (fd, stream)."""
        if self.tty:
            return (os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC),) * 3, []
        own: list[tuple[int, int]] = []
        if self.request.bits & OPEN_STDIN:
            child_in, write_end = os.pipe2(os.O_CLOEXEC)
            own.append((write_end, 0))
        else:
            child_in = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        out_read, child_out = os.pipe2(os.O_CLOEXEC)
        err_read, child_err = os.pipe2(os.O_CLOEXEC)
        own += [(out_read, 1), (err_read, 2)]
        return (child_in, child_out, child_err), own

    def _help_child(self, sync_fd: int, before: Program) -> None:
        """What a process in a user namespace cannot do itself: its id maps, and its links."""
        for file, text in before["id_maps"]:
            _write(f"/proc/{self.pid}/{file}", text)
        os.write(sync_fd, b"maps")
        for spec in before["links"]:
            create_interface(*spec[:7], parent_index=_socket.if_nametoindex(spec[1]), pid=self.pid)
        if before["links"]:
            os.write(sync_fd, b"links")

    def _await_exec(self, sync_fd: int) -> tuple[str, int] | None:
        """None once execve has succeeded (the child's end closed), else what went wrong."""
        while True:
            if self.tty:
                data, fds = _receive(sync_fd)
            else:
                data, fds = os.read(sync_fd, _CHUNK), []
            if not data:
                return None
            if data == b"tty":
                self.master_fd = fds[0]
            elif data[:1] == b"E":
                message, code = marshal.loads(data[1:])  # noqa: S302 - from our own child
                return message, code

    def _abandon(self, failure: tuple[str, int]) -> None:
        if self.pid:
            _signal.pidfd_send_signal(self.pidfd, 9)
            os.waitpid(self.pid, 0)
        after = self.request.after()
        cgroup.remove(after["cgroup_dirs"], kill=True)
        self._remove_socket(after["run_dir"])
        self.tell(("failed", *failure))

    # --- life ---------------------------------------------------------------------------------------------

    def announce(self, client_fds: list[int]) -> None:
        """From here on the container is running and its clients are connected."""
        self.started_ns = time.time_ns()
        for fd in self.outputs:
            os.set_blocking(fd, False)
        if self.input_fd >= 0:
            os.set_blocking(self.input_fd, False)
        if client_fds:
            wishes = self.request.after()["clients"]
            self.clients = [Client(fd, *wish) for fd, wish in zip(client_fds, wishes, strict=True)]
        self.tell(("started", self.pid, self.started_ns))

    def run(self) -> int:
        """Until the process has ended. Returns its exit code."""
        while True:
            ready = self._wait()
            for fd in ready:
                self._serve(fd)
            if self.pidfd in ready:
                _, status = os.waitpid(self.pid, 0)
                return proc.exit_code(status)

    def _wait(self) -> list[int]:
        """Descriptors that are ready. The set is small, so it is built anew: what is wanted changes with
        every buffer."""
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        if self.listener_fd >= 0:
            poll.register(self.listener_fd, select.POLLIN)
        for fd in self.control_fds:
            poll.register(fd, select.POLLIN)
        wanted: dict[int, int] = {}
        if not any(len(client.buffer) > _HIGH_WATER for client in self.clients):
            for fd in self.outputs:
                wanted[fd] = select.POLLIN
        if self.input and self.input_fd >= 0:
            wanted[self.input_fd] = wanted.get(self.input_fd, 0) | select.POLLOUT
        for client in self.clients:
            wanted[client.fd] = client.wanted(len(self.input) < _CHUNK)
        for fd, events in wanted.items():
            poll.register(fd, events)
        return [fd for fd, _ in poll.poll()]

    def _serve(self, fd: int) -> None:
        if fd in self.outputs:
            self._read_output(fd)
            if fd == self.input_fd and self.input:
                self._write_input()
        elif fd == self.input_fd:
            self._write_input()
        elif fd == self.listener_fd:
            self._accept()
        elif fd in self.control_fds:
            self._serve_control(fd)
        else:
            for client in self.clients:
                if client.fd == fd:
                    self._serve_client(client)
                    return

    def _read_output(self, fd: int) -> bool:
        """One piece of output to the log and to every client. False at its end."""
        try:
            chunk = os.read(fd, _CHUNK)
        except BlockingIOError:
            return True
        except OSError:
            chunk = b""  # EIO: the last slave of the terminal is closed
        if not chunk:
            del self.outputs[fd]
            if fd != self.master_fd:
                os.close(fd)
            return False
        stream = self.outputs[fd]
        self._log(chunk, "stdout" if stream == 1 else "stderr")
        if self.clients:
            data = chunk if self.tty else _HEADER.pack(stream, len(chunk)) + chunk
            for client in list(self.clients):
                if client.streams >> stream & 1 and not client.send(data):
                    self._drop_client(client)
        return True

    def _log(self, chunk: bytes, stream: str) -> None:
        """The log is opened with the first output: a silent process needs none of its memory."""
        if self.log is None:
            wish = self.request.after()["log"]
            if not wish:
                return
            self.log = JsonFileWriter(**wish)
        self.log.write(chunk, stream)

    def _serve_client(self, client: Client) -> None:
        if client.buffer and not client.flush():
            self._drop_client(client)
            return
        if not client.reads:
            # nothing is expected from it; only a hang-up can have woken us
            if client.hung_up():
                self._drop_client(client)
            return
        try:
            data = os.read(client.fd, _CHUNK)
        except BlockingIOError:
            return
        except OSError:
            self._drop_client(client)
            return
        if data:
            if self.input_fd >= 0:
                self.input += data
                self._write_input()
            return
        client.reads = False
        self._end_input()

    def _drop_client(self, client: Client) -> None:
        if client in self.clients:
            self.clients.remove(client)
            os.close(client.fd)
        if client.reads:
            self._end_input()

    def _end_input(self) -> None:
        """The first client that stops giving input ends it for good, where that was asked for. A terminal
        has no half-close: its programs see the end-of-file character."""
        if self.stdin_once and not self.tty:
            self.input_ends = True
            self._write_input()

    def _write_input(self) -> None:
        if self.input_fd < 0:
            self.input = b""
            return
        try:
            while self.input:
                self.input = self.input[os.write(self.input_fd, self.input[:_CHUNK]) :]
        except BlockingIOError:
            return
        except OSError:
            # the process has closed its end: what is sent to it is lost, as with any pipe
            self.input = b""
            self.input_ends = not self.tty
        if self.input_ends and self.input_fd >= 0:
            os.close(self.input_fd)
            self.input_fd = -1

    # --- the daemon ---------------------------------------------------------------------------------------

    def tell(self, message: tuple[Any, ...]) -> None:
        """To every daemon that listens. The socket takes hundreds of messages before it is full."""
        data = marshal.dumps(message)
        for fd in self.control_fds:
            try:
                os.write(fd, data)
            except OSError:
                continue  # its hang-up is noticed when it is polled

    def _accept(self) -> None:
        listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, self.listener_fd)
        try:
            control_fd, _ = listener._accept()  # type: ignore[attr-defined]
        finally:
            listener.detach()
        os.set_blocking(control_fd, False)
        self.control_fds.append(control_fd)
        os.write(control_fd, marshal.dumps(("started", self.pid, self.started_ns)))

    def _serve_control(self, fd: int) -> None:
        try:
            data, fds = _receive(fd)
        except BlockingIOError:
            return
        except OSError:
            data, fds = b"", []
        if not data:
            self.control_fds.remove(fd)
            os.close(fd)
            return
        message = marshal.loads(data)  # noqa: S302 - the socket is root's own
        kind = message[0]
        if kind == "attach" and fds:
            self.clients.append(Client(fds[0], *message[1:]))
        elif kind == "resize" and self.master_fd >= 0:
            size = struct.pack("HHHH", message[1], message[2], 0, 0)
            fcntl.ioctl(self.master_fd, termios.TIOCSWINSZ, size)
        elif kind == "reopen" and self.log is not None:
            self.log.reopen()

    # --- death --------------------------------------------------------------------------------------------

    def finish(self, code: int, *, is_last: bool = False) -> bool:
        """Everything after the end: last output, exit status on disk, daemon told, groups removed. Whether
        the monitor is free for another process, as the daemon was told; never after the last one."""
        finished_ns = time.time_ns()
        for fd in list(self.outputs):
            self._drain(fd)
        if self.log is not None:
            self.log.close()
        after = self.request.after()
        oom_killed = bool(after["oom_path"]) and _oom_kills(after["oom_path"]) > 0
        _save_exit(after["run_dir"], code, finished_ns, oom_killed)
        self._flush_clients()
        self.tell(("exited", code, finished_ns, oom_killed))
        self._remove_socket(after["run_dir"])
        cgroup.remove(after["cgroup_dirs"], kill=True)
        spare = self._let_go() and not is_last
        if spare:
            proc.set_name("sampan-spare")
        self.tell(("released", spare))
        return spare

    def _let_go(self) -> bool:
        """Close what belongs to this process, come back from its pid namespace. Whether another process can
        have this monitor: the daemon of its birth listens, and it is in the namespaces of its birth."""
        ends = {self.pidfd, self.input_fd, self.master_fd, *self.outputs}
        ends.update(client.fd for client in self.clients)
        ends.update(self.control_fds)
        for fd in ends - {-1, self.control_fd}:
            os.close(fd)
        if self.control_fd not in self.control_fds:
            return False
        self.control_fds = [self.control_fd]
        before = self.request.before()
        if before and before["parent_namespaces"]:
            # allowed to whoever lives there still (pid_namespaces(7))
            sandbox.enter_namespace("/proc/self/ns/pid", proc.CLONE_NEWPID)
        return not (before and before["time_offsets"])

    def _drain(self, fd: int) -> None:
        """What is in the pipe now. Whoever still holds its other end is not waited for."""
        while fd in self.outputs:
            if not select.select([fd], [], [], 0)[0] or not self._read_output(fd):
                return
            if any(len(client.buffer) > _HIGH_WATER for client in self.clients):
                self._flush_clients()

    def _flush_clients(self) -> None:
        deadline = time.monotonic() + _DRAIN_S
        for client in list(self.clients):
            while client.buffer and time.monotonic() < deadline:
                select.select([], [client.fd], [], 0.1)
                if not client.flush():
                    self._drop_client(client)
                    break

    def _remove_socket(self, run_dir: str) -> None:
        os.close(self.listener_fd)
        self.listener_fd = -1
        try:
            os.unlink(f"{run_dir}/monitor.sock")
        except FileNotFoundError:
            return


class Request:
    """What the daemon asks for. Only the header is decoded at once; the rest waits, as bytes, until it is
    needed (``after`` by most processes at their end), because decoding costs memory for a whole life."""

    __slots__ = ("_after", "_before", "bits", "clone_flags", "operations")

    def __init__(self, message: bytes | memoryview) -> None:
        self.clone_flags, self.bits, before_size, after_size = REQUEST_HEADER.unpack_from(message)
        start = REQUEST_HEADER.size
        self._before = bytes(message[start : start + before_size])
        start += before_size
        self._after = bytes(message[start : start + after_size])
        self.operations = memoryview(message)[start + after_size :]
        """For the new process, which decodes them itself; valid until the spawner's next request."""

    def before(self) -> Program:
        """What is to be done before and just after the clone; empty for most."""
        decoded: Program = marshal.loads(self._before) if self._before else {}  # noqa: S302 - from our daemon
        return decoded

    def after(self) -> Program:
        """run_dir, log, clients, oom_path, cgroup_dirs."""
        decoded: Program = marshal.loads(self._after)  # noqa: S302 - from our own daemon
        return decoded


class Client:
    """An attached stream: output that it has not taken yet, and whether it gives input."""

    __slots__ = ("buffer", "fd", "reads", "streams")

    def __init__(self, fd: int, stdin: bool, stdout: bool, stderr: bool) -> None:
        self.fd = fd
        self.reads = stdin
        self.streams = stdout << 1 | stderr << 2
        self.buffer = bytearray()
        os.set_blocking(fd, False)

    def wanted(self, room: bool) -> int:
        """The poll events that matter now; a hang-up always does."""
        events = select.POLLIN if self.reads and room else 0
        return events | select.POLLOUT if self.buffer else events

    def send(self, data: bytes) -> bool:
        """Queue and try. False when the client has gone."""
        self.buffer += data
        return self.flush()

    def flush(self) -> bool:
        try:
            while self.buffer:
                del self.buffer[: os.write(self.fd, self.buffer[: 4 * _CHUNK])]
        except BlockingIOError:
            return True
        except OSError:
            return False
        return True

    def hung_up(self) -> bool:
        poll = select.poll()
        poll.register(self.fd, 0)
        return bool(poll.poll(0))


def _prepare(before: Program) -> int:
    """What comes before the clone: groups, namespaces that only children enter. The answer is the group to
    be cloned into (v2), or -1."""
    cgroup.create(before["cgroup_steps"])
    for path, kind in before["parent_namespaces"]:
        sandbox.enter_namespace(path, kind)
    if before["time_offsets"]:
        proc.unshare(proc.CLONE_NEWTIME)
        _write("/proc/self/timens_offsets", before["time_offsets"])
    if before["cgroup_into"]:
        return os.open(before["cgroup_into"], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    return -1


def _save_exit(run_dir: str, code: int, finished_ns: int, oom_killed: bool) -> None:
    text = f'{{"exit_code":{code},"finished_ns":{finished_ns},"oom_killed":{str(oom_killed).lower()}}}'
    path = f"{run_dir}/exit.json"
    try:
        _write(f"{path}.new", text)
        os.rename(f"{path}.new", path)
    except OSError:
        # a full or vanished run root: the daemon, if it lives, is told over the socket all the same
        return


def _receive(fd: int, size: int = _CHUNK, fd_count: int = _MOST_FDS) -> tuple[bytes, list[int]]:
    """One message of a SOCK_SEQPACKET socket with its descriptors."""
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, fd)
    try:
        data, ancillary, _, _ = connection.recvmsg(
            size, _socket.CMSG_SPACE(4 * fd_count), _socket.MSG_CMSG_CLOEXEC
        )
    finally:
        connection.detach()
    fds: list[int] = []
    for level, kind, payload in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            fds += struct.unpack(f"{len(payload) // 4}i", payload)
    return data, fds


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _oom_kills(path: str) -> int:
    """The count in memory.events (v2) or memory.oom_control (v1)."""
    try:
        text = cgroup.read(path)
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith("oom_kill ")), 0)


def rehearse() -> None:
    """Run the code of an idle monitor in the spawner, before it freezes its heap.

    The interpreter specialises code on its first runs and writes to it (PEP 659). Done here once, those
    pages stay shared by all monitors; done in each of them they would be copied.
    """
    message = REQUEST_HEADER.pack(0, OPEN_STDIN, 0, 0)
    for _ in range(40):
        control, daemon = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        request = Request(message)
        monitor = Monitor(request, control.fileno(), daemon.fileno())
        child_ends, own_ends = monitor._standard_streams()
        monitor.outputs = {fd: stream for fd, stream in own_ends if stream}
        monitor.input_fd = own_ends[0][0]
        monitor.pidfd = monitor.input_fd
        monitor.announce([])
        monitor._wait()
        for fd in {*child_ends, *(fd for fd, _ in own_ends)}:
            os.close(fd)
        control.close()
        daemon.close()
        pid, pidfd = proc.clone3(0)
        if pid == 0:
            os._exit(0)
        os.close(pidfd)


def decode(message: memoryview, fds: list[int]) -> Request:
    """The request of a message; takes the file from ``fds`` when it is in one."""
    if message[:1] != IN_FILE:
        return Request(message[1:])
    fd = fds.pop()
    data = os.pread(fd, os.fstat(fd).st_size, 0)
    os.close(fd)
    return Request(data)


def _next_request(control_fd: int) -> tuple[Request, list[int]] | None:
    """Wait for the daemon's next wish; None when the daemon has gone."""
    while True:
        try:
            data, fds = _receive(control_fd, LARGEST_REQUEST, MOST_REQUEST_FDS)
        except OSError:
            return None
        if not data:
            return None
        if data[:1] in (IN_MESSAGE, IN_FILE):
            proc.set_name("sampan-monitor")
            return decode(memoryview(data), fds), fds
        for fd in fds:  # meant for the process that has ended
            os.close(fd)


def main(request: Request, fds: list[int]) -> None:
    """The whole life of a monitor, in a process just forked from the spawner. Never returns.

    ``fds``: control socket, listening socket, both ends of the sync socket, then the clients' streams. Later
    requests come without the first.
    """
    status = 1
    try:
        _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
        os.setsid()
        control_fd = fds.pop(0)
        lives = MOST_LIVES
        while True:
            listener_fd, sync_fd, child_sync_fd, *client_fds = fds
            monitor = Monitor(request, control_fd, listener_fd)
            if not monitor.start(sync_fd, child_sync_fd):
                return
            monitor.announce(client_fds)
            lives -= 1
            spare = monitor.finish(monitor.run(), is_last=not lives)
            status = 0
            following = _next_request(control_fd) if spare else None
            if following is None:
                return
            request, fds = following
    finally:
        os._exit(status)
