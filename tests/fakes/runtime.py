"""A runtime without processes: tests decide when and how each one ends. Implements engine.ports.Runtime."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable, Sequence

from sampan.base.errors import Conflict
from sampan.engine.ports import Attachment
from sampan.model.launch import ExecRequest, ExitStatus, LaunchRequest
from sampan.runtime.errors import StartFailed

_pids = itertools.count(4_000_000)
SIGTERM, SIGKILL = 15, 9


class FakeStream:
    """One client's end; the test is the process at the other."""

    def __init__(self) -> None:
        self._output: asyncio.Queue[bytes] = asyncio.Queue()
        self._ended = False
        self.received = b""
        self.eof = False
        self.closed = False

    def emit(self, data: bytes) -> None:
        self._output.put_nowait(data)

    def end(self) -> None:
        self._output.put_nowait(b"")

    async def read(self, limit: int = 65536) -> bytes:
        if self._ended:
            return b""
        data = await self._output.get()
        self._ended = not data
        return data

    async def write(self, data: bytes) -> None:
        self.received += data

    def write_eof(self) -> None:
        self.eof = True

    def close(self) -> None:
        self.closed = True


class FakeProcess:
    """Implements engine.ports.Supervised."""

    def __init__(self, process_id: str, world: FakeWorld) -> None:
        self.id = process_id
        self.pid = next(_pids)
        self.started_ns = world.now()
        self.signals: list[int] = []
        self.size: tuple[int, int] | None = None
        self.streams: list[FakeStream] = []
        self.status: ExitStatus | None = None
        self._world = world
        self._done = asyncio.Event()

    def exit(self, code: int = 0, *, oom_killed: bool = False) -> None:
        """The process ends by itself."""
        if self.status is not None:
            return
        self.status = ExitStatus(exit_code=code, finished_ns=self._world.now(), oom_killed=oom_killed)
        self.pid = 0
        for stream in self.streams:
            stream.end()
        self._done.set()

    async def wait(self) -> ExitStatus:
        await self._done.wait()
        assert self.status is not None
        return self.status

    async def released(self) -> None:
        await self._done.wait()

    async def attach(self, *, stdin: bool, stdout: bool, stderr: bool) -> FakeStream:
        if self.status is not None:
            raise Conflict(f"process of {self.id} is not running")
        stream = FakeStream()
        self.streams.append(stream)
        return stream

    async def resize(self, height: int, width: int) -> None:
        self.size = (height, width)

    def kill(self, signal: int) -> None:
        if self.status is not None:
            raise Conflict(f"process of {self.id} is not running")
        self.signals.append(signal)
        if signal == SIGKILL or signal in self._world.fatal:
            self.exit(128 + signal)

    async def reopen_log(self) -> None:
        return None


class FakeWorld:
    """What exists outside the daemon: processes go on when a test throws the daemon away."""

    def __init__(self, now: Callable[[], int]) -> None:
        self.now = now
        self.processes: dict[str, FakeProcess] = {}
        self.fatal = {SIGTERM}
        """Signals that end a process; SIGKILL always does."""


class FakeRuntime:
    def __init__(self, world: FakeWorld) -> None:
        self.world = world
        self.launches: list[LaunchRequest] = []
        self.execs: list[ExecRequest] = []
        self.failure: StartFailed | None = None
        """Raised by every start while it is set."""
        self.on_exec: Callable[[FakeProcess], None] = lambda process: None

    async def launch(self, request: LaunchRequest, attachments: Sequence[Attachment] = ()) -> FakeProcess:
        self.launches.append(request)
        return self._start(request.id, request.run_dir, attachments)

    async def exec(self, request: ExecRequest, attachments: Sequence[Attachment] = ()) -> FakeProcess:
        self.execs.append(request)
        process = self._start(request.id, request.run_dir, attachments)
        self.on_exec(process)
        return process

    def _start(self, process_id: str, run_dir: str, attachments: Sequence[Attachment]) -> FakeProcess:
        os.makedirs(run_dir, exist_ok=True)
        process = FakeProcess(process_id, self.world)
        for attachment in attachments:
            stream = FakeStream()
            process.streams.append(stream)
            attachment.connected(stream)
        if self.failure is not None:
            for stream in process.streams:
                stream.end()
            raise self.failure
        self.world.processes[process_id] = process
        return process

    async def recover(self, process_id: str, run_dir: str) -> FakeProcess | ExitStatus | None:
        process = self.world.processes.get(process_id)
        if process is None or not os.path.isdir(run_dir):
            return None
        return process if process.status is None else process.status
