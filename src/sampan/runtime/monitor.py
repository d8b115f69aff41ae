"""The monitor: one small process for each container and each exec.

It owns the process's standard streams, writes the log, reaps the process and keeps its exit status, so that
none of this depends on the daemon being alive. It is forked from the spawner, shares the spawner's memory,
and is careful not to touch much of it. Standard library only, single-threaded.

Towards the daemon it speaks messages of ``marshal`` (same interpreter at both ends) on a SOCK_SEQPACKET
socket: the one it was born with, and any that connects to ``<run_dir>/monitor.sock`` later.

to the daemon    ``("started", pid, started_ns)``, ``("failed", message, exit_code)``,
                 ``("exited", exit_code, finished_ns, oom_killed)``
from the daemon  ``("attach", stdin, stdout, stderr)`` with one stream socket, ``("resize", height, width)``,
                 ``("reopen",)``, ``("close-stdin",)``
"""

from __future__ import annotations

import fcntl
import marshal
import os
import select
import signal
import socket
import struct
import termios
import time
from typing import Any

from sampan.kernel import process as proc
from sampan.kernel.cgroup import steps as cgroup
from sampan.kernel.logfile import JsonFileWriter
from sampan.kernel.netlink import create_veth
from sampan.runtime import sandbox

Program = dict[str, Any]

_CHUNK = 65536
_HIGH_WATER = 1 << 20
"""Bytes kept for a slow client before its container's output waits for it (as in Docker's bytespipe)."""
_HEADER = struct.Struct(">BxxxL")
_DRAIN_S = 5.0
"""How long the last output may take to reach slow clients after the end of the process."""


class Monitor:
    """The event loop of one supervised process."""

    def __init__(self, program: Program, control: socket.socket, clients: list[socket.socket]) -> None:
        self.program = program
        stdio = program["stdio"]
        self.tty: bool = stdio["tty"]
        self.stdin_once: bool = stdio["stdin_once"]
        self.controls: list[socket.socket] = [control]
        self.clients: list[Client] = []
        self.waiting = clients
        self.outputs: dict[int, int] = {}
        """Read ends by descriptor: 1 for stdout (or the terminal), 2 for stderr."""
        self.input_fd = -1
        self.input = bytearray()
        self.input_ends = False
        self.master_fd = -1
        self.pid = 0
        self.pidfd = -1
        self.started_ns = 0
        self.log: JsonFileWriter | None = None
        self.listener: socket.socket | None = None

    # --- birth --------------------------------------------------------------------------------------------

    def start(self) -> bool:
        """Make the process. False when it could not be started; the daemon has been told why."""
        program = self.program
        sync, child_sync = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            child_ends, own_ends = self._standard_streams()
            cgroup.create(program["cgroup_steps"])
            for path, kind in program["parent_namespaces"]:
                sandbox.enter_namespace(path, kind)
            self._prepare_time_namespace()
            cgroup_fd = -1
            if program["cgroup_into"]:
                cgroup_fd = os.open(program["cgroup_into"], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self.pid, self.pidfd = proc.clone3(program["clone_flags"], cgroup_fd)
            if self.pid == 0:
                sandbox.become(child_sync, child_ends, program["operations"])
            if cgroup_fd >= 0:
                os.close(cgroup_fd)
            child_sync.close()
            for fd in set(child_ends):
                os.close(fd)
            self._help_child(sync)
            failure = self._await_exec(sync)
        except OSError as error:
            failure = (f"{error.filename or 'start'}: {(error.strerror or str(error)).lower()}", 125)
        finally:
            sync.close()
        if failure is not None:
            self._abandon(failure)
            return False
        for fd, stream in own_ends:
            if stream == 0:
                self.input_fd = fd
            else:
                self.outputs[fd] = stream
        if self.tty:
            self.outputs = {self.master_fd: 1}
            self.input_fd = self.master_fd
        return True

    def _standard_streams(self) -> tuple[tuple[int, int, int], list[tuple[int, int]]]:
        """The child's three descriptors (-1: left for the terminal) and our ends as (fd, stream)."""
        stdio = self.program["stdio"]
        if stdio["tty"]:
            null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
            return (null, null, null), []
        own: list[tuple[int, int]] = []
        if stdio["open_stdin"]:
            child_in, write_end = os.pipe2(os.O_CLOEXEC)
            own.append((write_end, 0))
        else:
            child_in = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        out_read, child_out = os.pipe2(os.O_CLOEXEC)
        err_read, child_err = os.pipe2(os.O_CLOEXEC)
        own += [(out_read, 1), (err_read, 2)]
        return (child_in, child_out, child_err), own

    def _prepare_time_namespace(self) -> None:
        offsets: str = self.program["time_offsets"]
        if offsets:
            proc.unshare(proc.CLONE_NEWTIME)
            with open("/proc/self/timens_offsets", "w", encoding="ascii") as file:
                file.write(offsets)

    def _help_child(self, sync: socket.socket) -> None:
        """What a process in a user namespace cannot do itself: its id maps, and its links."""
        program = self.program
        for file, text in program["id_maps"]:
            with open(f"/proc/{self.pid}/{file}", "w", encoding="ascii") as maps:
                maps.write(text)
        if program["id_maps"]:
            sync.send(b"maps")
        for host_name, bridge, name, mac, mtu, *_ in program["links"]:
            index = socket.if_nametoindex(bridge)
            create_veth(host_name, name, master_index=index, mtu=mtu, peer_mac=mac, peer_pid=self.pid)
        if program["links"]:
            sync.send(b"links")

    def _await_exec(self, sync: socket.socket) -> tuple[str, int] | None:
        """None once execve has succeeded (the child's end closed), else what went wrong."""
        while True:
            data, fds, _, _ = socket.recv_fds(sync, _CHUNK, 1)
            if not data:
                return None
            if data == b"tty":
                self.master_fd = fds[0]
                os.set_inheritable(fds[0], False)
            elif data[:1] == b"E":
                message, code = marshal.loads(data[1:])  # noqa: S302 - from our own child
                return message, code

    def _abandon(self, failure: tuple[str, int]) -> None:
        if self.pid:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        cgroup.remove(self.program["cgroup_dirs"])
        self._remove_socket()
        self.tell(("failed", *failure))

    # --- life ---------------------------------------------------------------------------------------------

    def announce(self) -> None:
        """From here on the container is running: log, socket and clients are in place."""
        self.started_ns = time.time_ns()
        log = self.program["log"]
        if log:
            self.log = JsonFileWriter(**log)
        for fd in {*self.outputs, self.input_fd} - {-1}:
            os.set_blocking(fd, False)
        for client in self.waiting:
            self.clients.append(Client(client, *self.program["clients"][len(self.clients)]))
        self.waiting = []
        self._listen()
        self.tell(("started", self.pid, self.started_ns))

    def _listen(self) -> None:
        run_dir = self.program["run_dir"]
        # the path of a socket holds 108 bytes: reach a deep directory through its descriptor
        directory = os.open(run_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self.listener.bind(f"/proc/self/fd/{directory}/monitor.sock")
            os.chmod(f"{run_dir}/monitor.sock", 0o600)
            self.listener.listen(4)
        finally:
            os.close(directory)

    def run(self) -> int:
        """Until the process has ended. Returns its exit code."""
        while True:
            ready = self._wait(None)
            for fd in ready:
                self._serve(fd)
            if self.pidfd in ready:
                _, status = os.waitpid(self.pid, 0)
                return proc.exit_code(status)

    def _wait(self, timeout_ms: int | None) -> dict[int, int]:
        """Descriptors that are ready, with their poll events. The set is small, so it is built anew: what
        is wanted changes with every buffer."""
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        if self.listener is not None:
            poll.register(self.listener, select.POLLIN)
        for control in self.controls:
            poll.register(control, select.POLLIN)
        crowded = any(len(client.buffer) > _HIGH_WATER for client in self.clients)
        wanted: dict[int, int] = {}
        if not crowded:
            for fd in self.outputs:
                wanted[fd] = select.POLLIN
        if self.input and self.input_fd >= 0:
            wanted[self.input_fd] = wanted.get(self.input_fd, 0) | select.POLLOUT
        for client in self.clients:
            wanted[client.fd] = client.wanted(len(self.input) < _CHUNK)
        for fd, events in wanted.items():
            poll.register(fd, events)
        return dict(poll.poll(timeout_ms))

    def _serve(self, fd: int) -> None:
        if fd in self.outputs:
            self._read_output(fd)
            if fd == self.input_fd and self.input:
                self._write_input()
        elif fd == self.input_fd:
            self._write_input()
        elif self.listener is not None and fd == self.listener.fileno():
            self._accept()
        else:
            client = next((c for c in self.clients if c.fd == fd), None)
            if client is not None:
                self._serve_client(client)
                return
            control = next((c for c in self.controls if c.fileno() == fd), None)
            if control is not None:
                self._serve_control(control)

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
        if self.log is not None:
            self.log.write(chunk, "stdout" if stream == 1 else "stderr")
        if self.clients:
            data = chunk if self.tty else _HEADER.pack(stream, len(chunk)) + chunk
            for client in list(self.clients):
                if client.streams >> stream & 1 and not client.send(data):
                    self._drop_client(client)
        return True

    def _serve_client(self, client: Client) -> None:
        if client.buffer and not client.flush():
            self._drop_client(client)
            return
        if not client.reads:
            # nobody reads from it; a hang-up is noticed by its poll events
            if client.hung_up():
                self._drop_client(client)
            return
        try:
            data = client.socket.recv(_CHUNK)
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
        if self.stdin_once and not self.tty:
            self.input_ends = True
            self._write_input()

    def _drop_client(self, client: Client) -> None:
        if client in self.clients:
            self.clients.remove(client)
        client.socket.close()
        if client.gave_input and self.stdin_once and not self.tty:
            self.input_ends = True
            self._write_input()

    def _write_input(self) -> None:
        if self.input_fd < 0:
            self.input.clear()
            return
        try:
            while self.input:
                del self.input[: os.write(self.input_fd, memoryview(self.input)[:_CHUNK].tobytes())]
        except BlockingIOError:
            return
        except OSError:
            # the process has closed its end: what is sent to it is lost, as with any pipe
            self.input.clear()
            self.input_ends = True
        if self.input_ends and not self.input and self.input_fd not in (-1, self.master_fd):
            os.close(self.input_fd)
            self.input_fd = -1

    # --- the daemon ---------------------------------------------------------------------------------------

    def tell(self, message: tuple[Any, ...]) -> None:
        """To every daemon that listens; one that does not read is not waited for."""
        data = marshal.dumps(message)
        for control in self.controls:
            try:
                control.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except OSError:
                continue  # its hang-up is noticed when it is polled

    def _accept(self) -> None:
        assert self.listener is not None
        control, _ = self.listener.accept()
        self.controls.append(control)
        control.send(marshal.dumps(("started", self.pid, self.started_ns)), socket.MSG_NOSIGNAL)

    def _serve_control(self, control: socket.socket) -> None:
        try:
            data, fds, _, _ = socket.recv_fds(control, 4096, 4, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except OSError:
            data, fds = b"", []
        if not data:
            self.controls.remove(control)
            control.close()
            return
        message = marshal.loads(data)  # noqa: S302 - the socket is root's own
        kind = message[0]
        if kind == "attach" and fds:
            self.clients.append(Client(socket.socket(fileno=fds[0]), *message[1:]))
        elif kind == "resize":
            if self.master_fd >= 0:
                size = struct.pack("HHHH", message[1], message[2], 0, 0)
                fcntl.ioctl(self.master_fd, termios.TIOCSWINSZ, size)
        elif kind == "reopen" and self.log is not None:
            self.log.reopen()
        elif kind == "close-stdin":
            self.input_ends = True
            self._write_input()

    # --- death --------------------------------------------------------------------------------------------

    def finish(self, code: int) -> None:
        """Everything after the end: last output, exit status on disk, daemon told, groups removed."""
        finished_ns = time.time_ns()
        for fd in list(self.outputs):
            os.set_blocking(fd, False)
            self._drain(fd)
        if self.log is not None:
            self.log.close()
        oom_path = self.program["oom_path"]
        oom_killed = bool(oom_path) and _oom_kills(oom_path) > 0
        self._save_exit(code, finished_ns, oom_killed)
        self._flush_clients()
        self.tell(("exited", code, finished_ns, oom_killed))
        for client in self.clients:
            client.socket.close()
        self._remove_socket()
        if self.program["cgroup_dirs"]:
            cgroup.remove(self.program["cgroup_dirs"])

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
                select.select([], [client.socket], [], 0.1)
                if not client.flush():
                    self._drop_client(client)
                    break

    def _save_exit(self, code: int, finished_ns: int, oom_killed: bool) -> None:
        run_dir = self.program["run_dir"]
        text = f'{{"exit_code":{code},"finished_ns":{finished_ns},"oom_killed":{str(oom_killed).lower()}}}'
        path = f"{run_dir}/exit.json"
        try:
            fd = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            os.write(fd, text.encode())
            os.close(fd)
            os.rename(f"{path}.new", path)
        except OSError:
            # a full or vanished run root: the daemon, if it lives, is told over the socket all the same
            return

    def _remove_socket(self) -> None:
        if self.listener is not None:
            self.listener.close()
            self.listener = None
            try:
                os.unlink(f"{self.program['run_dir']}/monitor.sock")
            except FileNotFoundError:
                return


class Client:
    """An attached stream: output that it has not taken yet, and whether it gives input."""

    def __init__(self, connection: socket.socket, stdin: bool, stdout: bool, stderr: bool) -> None:
        self.socket = connection
        self.fd = connection.fileno()
        self.reads = stdin
        self.gave_input = stdin
        self.streams = stdout << 1 | stderr << 2
        self.buffer = bytearray()
        connection.setblocking(False)

    def wanted(self, room: bool) -> int:
        """The poll events that matter now."""
        events = select.POLLIN if self.reads and room else 0
        return events | select.POLLOUT if self.buffer else events

    def send(self, data: bytes) -> bool:
        """Queue and try. False when the client has gone."""
        self.buffer += data
        return self.flush()

    def flush(self) -> bool:
        try:
            while self.buffer:
                del self.buffer[: self.socket.send(self.buffer[: 4 * _CHUNK], socket.MSG_NOSIGNAL)]
        except BlockingIOError:
            return True
        except OSError:
            return False
        return True

    def hung_up(self) -> bool:
        poll = select.poll()
        poll.register(self.socket, 0)
        return any(events & (select.POLLHUP | select.POLLERR) for _, events in poll.poll(0))


def _oom_kills(path: str) -> int:
    """The count in memory.events (v2) or memory.oom_control (v1)."""
    try:
        text = cgroup.read(path)
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith("oom_kill ")), 0)


def main(program: Program, fds: list[int]) -> None:
    """The whole life of a monitor, in a process just forked from the spawner. Never returns."""
    status = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        proc.set_name("sampan-monitor")
        monitor = Monitor(program, socket.socket(fileno=fds[0]), [socket.socket(fileno=fd) for fd in fds[1:]])
        if monitor.start():
            del program["operations"]
            monitor.announce()
            monitor.finish(monitor.run())
            status = 0
    finally:
        os._exit(status)
