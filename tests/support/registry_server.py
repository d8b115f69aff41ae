"""The real registry server on a loopback port: in a thread of the test, or as a process to be killed."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import uvloop

from sampan.base.crashpoints import VARIABLE
from sampan.front.registry.app import RegistryApi
from sampan.front.registry.server import Server, make_server
from sampan.registry.ports import Authenticator
from sampan.registry.service import Registry
from sampan.registry.storage.files import FileBlobStorage
from sampan.store.registry.index import RegistryIndex

T = TypeVar("T")


def open_registry(root: Path) -> Registry:
    """On files under ``root``."""
    root.mkdir(parents=True, exist_ok=True)
    return Registry(RegistryIndex(str(root / "registry.db")), FileBlobStorage(str(root)))


class RegistryServer:
    """``with RegistryServer(tmp_path) as server``: serves at ``server.host``, in a thread of its own."""

    def __init__(
        self,
        root: Path,
        *,
        authenticator: Authenticator | None = None,
        connect: Callable[[Registry], None] | None = None,
    ) -> None:
        """``connect`` is called with the registry before it serves, in the thread of its loop."""
        self._root = root
        self._authenticator = authenticator
        self._connect = connect
        self._ready = threading.Event()
        self._ended: asyncio.Event | None = None
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="registry", daemon=True)
        self.loop: asyncio.AbstractEventLoop
        self.server: Server
        self.registry: Registry
        """Of the loop in the thread: use it through :meth:`call`."""
        self.port = 0

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def __enter__(self) -> RegistryServer:
        self._thread.start()
        assert self._ready.wait(20), "the registry does not start"
        if self._failure is not None:
            raise self._failure
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ended is not None:
            self.loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(20)
        assert not self._thread.is_alive(), "the registry does not end"

    def call(self, function: Callable[[Registry], T]) -> T:
        """``function(registry)`` in the thread of the registry's loop."""

        async def run() -> T:
            return function(self.registry)

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(20)

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._serve())
        except BaseException as error:
            self._failure = error
            self._ready.set()
            raise

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.registry = open_registry(self._root)
        if self._connect is not None:
            self._connect(self.registry)
        self.server = make_server(RegistryApi(self.registry, self._authenticator).handle)
        await serve(self.registry, self.server, self._started)

    def _started(self, port: int, ended: asyncio.Event) -> None:
        self.port, self._ended = port, ended
        self._ready.set()


async def serve(registry: Registry, server: Server, started: Callable[[int, asyncio.Event], None]) -> None:
    """Until the event that ``started`` is given is set."""
    ended = asyncio.Event()
    listener = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    started(listener.sockets[0].getsockname()[1], ended)
    await ended.wait()
    listener.close()
    await server.shutdown(1)
    await registry.close()


class RegistryProcess:
    """The same as a process of its own, for what a process that dies leaves behind."""

    def __init__(self, root: Path, *, crash_at: str = "", disk: str = "") -> None:
        """``crash_at`` names a crash point, as ``SAMPAN_CRASH_AT`` does. ``disk``, such as 8m, is the size of
        a disk of its own that only the process sees, and :attr:`seen_root`; that needs root."""
        command = [sys.executable, "-m", "tests.support.registry_server", str(root)]
        if disk:
            mounting = f'mount -t tmpfs -o size={disk} registry "$0" && exec "$@"'
            command = ["unshare", "--mount", "sh", "-c", mounting, str(root), *command]
        self._root = root.absolute()
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            env={**os.environ, VARIABLE: crash_at},
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the registry does not start"
        self.port = int(line)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def seen_root(self) -> Path:
        """The root as the process sees it."""
        return Path(f"/proc/{self.process.pid}/root{self._root}")

    def kill(self) -> None:
        """As with a power cut; nothing happens when it is dead already."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def __enter__(self) -> RegistryProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


def main() -> None:
    async def run() -> None:
        registry = open_registry(Path(sys.argv[1]))
        server = make_server(RegistryApi(registry).handle)
        await serve(registry, server, lambda port, ended: print(port, flush=True))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


if __name__ == "__main__":
    main()
