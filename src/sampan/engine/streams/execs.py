"""``exec``: more processes in running containers. Records live in memory only, as in Docker."""

from __future__ import annotations

import asyncio
import shutil
import signal
import time

import msgspec

from sampan.base.crashpoints import crash_point
from sampan.base.errors import Conflict, InvalidArgument, NotFound, SampanError, SystemFailure
from sampan.base.ids import new_id
from sampan.engine.collaborators import SpecSource
from sampan.engine.container.health import Probed
from sampan.engine.container.ledger import Ledger
from sampan.engine.container.lifecycle import NotRunning, restarting_conflict
from sampan.engine.container.registry import Entry
from sampan.engine.container.views import ExecConfig, ExecView
from sampan.engine.files.trees import remove_tree
from sampan.engine.ports import Runtime, Supervised
from sampan.engine.tasks import Tasks
from sampan.formats.stdcopy import HEADER_BYTES, STDOUT, frame
from sampan.model.launch import ExitStatus
from sampan.runtime.errors import StartFailed

from .attach import AttachSession
from .detach import parse_detach_keys

KEPT_S = 300.0
"""How long an ended exec can still be inspected."""
EXIT_PATIENCE_S = 1.0


class NoSuchExec(NotFound):
    def __init__(self, exec_id: str) -> None:
        super().__init__(f"No such exec instance: {exec_id}")


class ExecRejected(InvalidArgument):
    """The command cannot be run."""


class Exec:
    """One exec from create until some minutes after its end."""

    __slots__ = (
        "_ended",
        "config",
        "ended_s",
        "entry",
        "exit_code",
        "id",
        "keys",
        "process",
        "running",
    )

    def __init__(self, entry: Entry, config: ExecConfig, keys: bytes) -> None:
        self.id = new_id()
        self.entry = entry
        self.config = config
        self.keys = keys
        self.process: Supervised | None = None
        self.running = False
        self.exit_code: int | None = None
        self.ended_s = 0.0
        self._ended = asyncio.Event()

    def end(self, exit_code: int) -> None:
        self.running = False
        self.exit_code = exit_code
        self.process = None
        self.ended_s = time.monotonic()
        self._ended.set()

    async def wait_ended(self) -> None:
        """Shortly: a client that has read the end of the output asks for the exit code next, and both come
        to us in either order. A process can also have closed its output long before its end."""
        try:
            async with asyncio.timeout(EXIT_PATIENCE_S):
                await self._ended.wait()
        except TimeoutError:
            return

    @property
    def command(self) -> str:
        return " ".join(self.config.cmd or ())


class Execs:
    """``ref`` is a container, ``exec_id`` the full id of an exec."""

    def __init__(self, ledger: Ledger, runtime: Runtime, spec: SpecSource) -> None:
        self._ledger = ledger
        self._runtime = runtime
        self._spec = spec
        self._execs: dict[str, Exec] = {}
        self._tasks = Tasks("execs")

    async def create(self, ref: str, config: ExecConfig) -> str:
        """Raises NotFound, Conflict (not running, paused, restarting) or InvalidArgument."""
        entry = self._ledger.registry.require(ref)
        _require_active(entry, ref)
        if not config.cmd:
            raise InvalidArgument("No exec command specified")
        try:
            keys = parse_detach_keys(config.detach_keys)
        except ValueError:
            raise SystemFailure(f"Invalid escape keys ({config.detach_keys}) provided") from None
        self._forget_old()
        item = Exec(entry, config, keys)
        self._execs[item.id] = item
        self._publish(item, f"exec_create: {item.command}")
        return item.id

    async def start(
        self,
        exec_id: str,
        *,
        detach: bool,
        tty: bool = False,
        console_size: tuple[int, int] | None = None,
    ) -> AttachSession | None:
        """The session of the client that waits for it, or None when detached.

        A command that cannot be run raises ExecRejected when detached; a waiting client reads the error
        from its session, as from Docker, and finds 126 or 127 by inspecting. ``tty`` says what the client
        expects to read, which need not be what the exec was created with: then it is framed or unframed.
        """
        item = self._require(exec_id)
        _require_active(item.entry, item.entry.id)
        if item.exit_code is not None:
            raise Conflict(f"exec command {exec_id} has already run")
        if item.running:
            raise Conflict(f"exec command {exec_id} is already running")
        item.running = True
        self._publish(item, f"exec_start: {item.command}")
        if detach:
            await self.launch(item, [], console_size)
            return None
        session = self._session(item, tty=tty)
        # the client gets its answer's header before the first output: docker-py loses what comes with it
        self._tasks.spawn(self._launch_attached(item, session, console_size), f"start {exec_id}")
        return session

    async def _launch_attached(
        self, item: Exec, session: AttachSession, console_size: tuple[int, int] | None
    ) -> None:
        try:
            await self.launch(item, [session], console_size)
        except SampanError as error:
            session.connected(Farewell(f"{error.message}\r\n".encode(), framed=not item.config.tty))
        except BaseException:
            session.abandon()
            raise

    def _session(self, item: Exec, *, tty: bool) -> AttachSession:
        config = item.config
        session = AttachSession(
            tty=tty,
            stdin=config.attach_stdin,
            stdout=config.attach_stdout,
            stderr=config.attach_stderr,
            detach_keys=item.keys if config.tty else b"",
        )
        session.on_detach = lambda: self._publish(item, "exec_detach")
        session.before_end = item.wait_ended
        if config.tty and not tty:
            session.convert = Framer()
        elif tty and not config.tty:
            session.convert = Unframer()
        return session

    async def launch(
        self, item: Exec, sessions: list[AttachSession], console_size: tuple[int, int] | None = None
    ) -> Supervised:
        """Run it. Raises ExecRejected, NotRunning; then the exec has ended with 126 or 127."""
        entry = item.entry
        run_dir = self._ledger.layout.exec_dir(item.id)
        try:
            if entry.run is None or entry.process is None:
                raise NotRunning(f"container {entry.id} is not running")
            request = self._spec.exec(
                entry.record,
                _with_size(item.config, console_size),
                exec_id=item.id,
                run_dir=run_dir,
                pid=entry.process.pid,
                run=entry.run,
            )
            process = await self._runtime.exec(request, sessions)
        except StartFailed as failure:
            item.end(failure.exit_code if failure.exit_code in (126, 127) else 126)
            shutil.rmtree(run_dir, ignore_errors=True)
            raise ExecRejected(
                "OCI runtime exec failed: exec failed: unable to start container process: "
                f"{failure.message}: unknown"
            ) from failure
        except BaseException:
            item.end(126)
            shutil.rmtree(run_dir, ignore_errors=True)
            raise
        crash_point("exec.start.launched")
        item.process = process
        self._ledger.set_execs(entry, (*entry.exec_ids, item.id))
        self._tasks.spawn(self._watch(item, process), f"watch {item.id}")
        return process

    async def _watch(self, item: Exec, process: Supervised) -> None:
        status = await process.wait()
        item.end(status.exit_code)
        entry = item.entry
        self._ledger.set_execs(entry, tuple(id_ for id_ in entry.exec_ids if id_ != item.id))
        self._publish(item, "exec_die", {"exitCode": str(status.exit_code)})
        await process.released()
        await remove_tree(self._ledger.layout.exec_dir(item.id))

    async def inspect(self, exec_id: str) -> ExecView:
        item = self._require(exec_id)
        config = item.config
        command = config.cmd or [""]
        return ExecView(
            id=item.id,
            container_id=item.entry.id,
            running=item.running,
            exit_code=item.exit_code,
            pid=item.process.pid if item.process is not None else 0,
            open_stdin=config.attach_stdin,
            open_stdout=config.attach_stdout,
            open_stderr=config.attach_stderr,
            can_remove=False,
            entrypoint=command[0],
            arguments=command[1:],
            tty=config.tty,
            user=config.user or item.entry.record.config.user,
            privileged=config.privileged,
            detach_keys=item.keys.decode("latin-1") if config.detach_keys else "",
        )

    async def resize(self, exec_id: str, height: int, width: int) -> None:
        item = self._require(exec_id)
        _require_active(item.entry, item.entry.id)
        if item.process is None:
            raise InvalidArgument("exec process is not started")
        await item.process.resize(height, width)

    async def probe(self, entry: Entry, command: list[str], timeout_s: float, limit_bytes: int) -> Probed:
        """One health check. Raises ExecRejected, NotRunning and what else a start raises."""
        config = ExecConfig(cmd=command, attach_stdout=True, attach_stderr=True)
        item = Exec(entry, config, b"")
        self._execs[item.id] = item
        try:
            self._publish(item, f"exec_create: {item.command}")
            self._publish(item, f"exec_start: {item.command}")
            item.running = True
            session = self._session(item, tty=False)
            process = await self.launch(item, [session])
            try:
                return await self._probed(process, session, timeout_s, limit_bytes)
            finally:
                await session.close()
        finally:
            del self._execs[item.id]

    async def _probed(
        self, process: Supervised, session: AttachSession, timeout_s: float, limit_bytes: int
    ) -> Probed:
        output = ProbeOutput(limit_bytes)
        try:
            async with asyncio.timeout(timeout_s):
                while chunk := await session.read():
                    output.feed(chunk)
                status = await process.wait()
        except TimeoutError:
            kill_if_alive(process)
            return Probed(exit_code=None, output=output.text())
        except asyncio.CancelledError:
            kill_if_alive(process)
            raise
        return Probed(exit_code=status.exit_code, output=output.text())

    def _require(self, exec_id: str) -> Exec:
        item = self._execs.get(exec_id)
        if item is None or self._ledger.registry.find_id(item.entry.id) is not item.entry:
            raise NoSuchExec(exec_id)
        return item

    def _forget_old(self) -> None:
        """At most as often as execs are made: no timer has to look for them."""
        before_s = time.monotonic() - KEPT_S
        old = [i.id for i in self._execs.values() if i.exit_code is not None and i.ended_s < before_s]
        for exec_id in old:
            del self._execs[exec_id]

    def _publish(self, item: Exec, action: str, attributes: dict[str, str] | None = None) -> None:
        self._ledger.publish(item.entry, action, {"execID": item.id, **(attributes or {})})

    async def recover(self, exec_ids: list[str]) -> None:
        """After a restart: remove what ended execs left, watch the others until they can be removed."""
        for exec_id in exec_ids:
            run_dir = self._ledger.layout.exec_dir(exec_id)
            found = await self._runtime.recover(exec_id, run_dir)
            if found is None or isinstance(found, ExitStatus):
                shutil.rmtree(run_dir, ignore_errors=True)
            else:
                self._tasks.spawn(self._clear_later(found, run_dir), f"clear {exec_id}")

    async def _clear_later(self, process: Supervised, run_dir: str) -> None:
        await process.wait()
        await process.released()
        shutil.rmtree(run_dir, ignore_errors=True)

    async def close(self) -> None:
        await self._tasks.close()


class Farewell:
    """A stream that says one thing and ends: how a waiting client learns that its command cannot run."""

    def __init__(self, message: bytes, *, framed: bool) -> None:
        self._rest = frame(STDOUT, message) if framed else message

    async def read(self, limit: int = 65536) -> bytes:
        chunk, self._rest = self._rest[:limit], self._rest[limit:]
        return chunk

    async def write(self, data: bytes) -> None:
        """Nobody reads it."""

    def write_eof(self) -> None:
        """Nobody reads it."""

    def close(self) -> None:
        self._rest = b""


class Framer:
    """Raw output to frames of stdout."""

    def feed(self, data: bytes) -> bytes:
        return frame(STDOUT, data)


class Unframer:
    """Frames, cut anywhere, to what is in them."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> bytes:
        """b"" while nothing is complete."""
        self._buffer += data
        payload = bytearray()
        while len(self._buffer) >= HEADER_BYTES:
            end = HEADER_BYTES + int.from_bytes(self._buffer[4:HEADER_BYTES], "big")
            if len(self._buffer) < end:
                break
            payload += self._buffer[HEADER_BYTES:end]
            del self._buffer[:end]
        return bytes(payload)


class ProbeOutput:
    """The first bytes of both streams."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._unframer = Unframer()
        self._kept = b""
        self._lost = False

    def feed(self, data: bytes) -> None:
        payload = self._unframer.feed(data)
        room = self._limit - len(self._kept)
        self._kept += payload[:room]
        self._lost = self._lost or len(payload) > room

    def text(self) -> str:
        return self._kept.decode("utf-8", "replace") + ("..." if self._lost else "")


def kill_if_alive(process: Supervised) -> None:
    try:
        process.kill(int(signal.SIGKILL))
    except Conflict:
        return  # it has ended meanwhile


def _require_active(entry: Entry, ref: str) -> None:
    phase = entry.life.phase
    if phase == "paused":
        raise Conflict(f"Container {ref} is paused, unpause the container before exec")
    if phase == "restarting":
        raise restarting_conflict(entry.id)
    if phase != "running":
        raise NotRunning(f"container {entry.id} is not running")


def _with_size(config: ExecConfig, console_size: tuple[int, int] | None) -> ExecConfig:
    if console_size is None or not config.tty:
        return config
    return msgspec.structs.replace(config, console_size=console_size)
