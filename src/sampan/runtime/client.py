"""The daemon's side of the runtime: starts processes through monitors, and finds them again."""

from __future__ import annotations

import asyncio
import marshal
import os
import socket
import time
from collections.abc import Sequence

import msgspec

from sampan.base.errors import Conflict
from sampan.kernel import capabilities
from sampan.kernel.cgroup import layout, steps
from sampan.model.launch import ExecRequest, ExitStatus, LaunchRequest

from . import monitor, planner
from .errors import MonitorLost, StartFailed
from .monitors import Spawner
from .streams import Attachment, SocketStream, stream_pair
from .supervised import SupervisedProcess

_BEFORE = ("cgroup_steps", "parent_namespaces", "time_offsets", "cgroup_into", "id_maps", "links")
_AFTER = ("run_dir", "log", "clients", "oom_path", "cgroup_dirs")
_PLAIN = 2
"""The version of marshal whose strings are not interned by the reader: that looks each up in a large table,
and copies its pages in every new process."""
_DYING_S = 1.0
_MOST_CLIENTS = 200
"""That are there from the first byte on: a message carries at most 253 descriptors (SCM_MAX_FD)."""


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
        pairs = [stream_pair() for _ in attachments]
        try:
            process = self._request(process_id, run_dir, program, attachments, pairs)
        except BaseException:
            for pair in pairs:
                for end in pair:
                    end.close()
            raise
        for attachment, (ours, _) in zip(attachments, pairs, strict=True):
            attachment.connected(SocketStream(ours))
        forker = self._spawner.pid
        try:
            try:
                await self._started(process)
            except MonitorLost:
                has_begun = await asyncio.to_thread(_remove_groups, program["cgroup_dirs"])
                if has_begun or not await self._is_ended(forker):
                    raise
                # the spawner was killed before it had forked for the request
                process = self._request(process_id, run_dir, program, attachments, pairs)
                await self._started(process)
        finally:
            for _, end in pairs:
                end.close()
        return process

    def _request(
        self,
        process_id: str,
        run_dir: str,
        program: planner.Program,
        attachments: Sequence[Attachment],
        pairs: list[tuple[socket.socket, socket.socket]],
    ) -> SupervisedProcess:
        """Ask a monitor for the process; nothing is known of it yet."""
        wishes = [[a.stdin, a.stdout, a.stderr] for a in attachments]
        program["clients"] = wishes[:_MOST_CLIENTS]
        listener = _listen(run_dir)
        sync = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        passed = [listener, *sync, *(pair[1] for pair in pairs[:_MOST_CLIENTS])]
        try:
            control = self._spawner.request(_encode(program), [end.fileno() for end in passed])
        finally:
            for end in (listener, *sync):
                end.close()
        process = SupervisedProcess(process_id, control, self._spawner.keep)
        try:
            for wish, (_, end) in zip(wishes[_MOST_CLIENTS:], pairs[_MOST_CLIENTS:], strict=True):
                process.send(("attach", *wish), [end.fileno()])
        except Conflict as error:
            raise MonitorLost("the monitor ended before the process was started", 125) from error
        self._remember(process)
        return process

    async def _is_ended(self, spawner_pid: int) -> bool:
        """A process that dies closes its descriptors one after the other: what it had received may be seen
        to end before the spawner itself is."""
        deadline = time.monotonic() + _DYING_S
        while not self._spawner.is_gone(spawner_pid):
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.01)
        return True

    async def _started(self, process: SupervisedProcess) -> None:
        """Raises StartFailed."""
        try:
            await asyncio.shield(process.started)
        except asyncio.CancelledError:
            process.discard()
            raise

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

    def close(self) -> None:
        """Let go of all processes, which go on. Nothing is heard of them here any more."""
        for process in list(self._last.values()):
            process.let_go()
        self._last.clear()

    def stop(self) -> None:
        """Let go of everything and end the spawner; what it started goes on."""
        self.close()
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
    first = marshal.dumps(before, _PLAIN) if any(before.values()) else b""
    later = marshal.dumps({key: program[key] for key in _AFTER}, _PLAIN)
    header = monitor.REQUEST_HEADER.pack(program["clone_flags"], bits, len(first), len(later))
    return b"".join((header, first, later, marshal.dumps(program["operations"], _PLAIN)))


def _remove_groups(dirs: list[str]) -> bool:
    """What a lost monitor left behind. Whether its process had come as far as a group of its own, or has
    none and might have come anywhere (an exec)."""
    has_begun = not dirs or any(os.path.exists(path) for path in dirs)
    steps.remove(dirs, kill=True)
    return has_begun


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
