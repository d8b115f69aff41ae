"""A registry as its process puts it together from settings, in a thread of the test."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import bcrypt
import uvloop

from sampan.daemon.registry.house import House
from sampan.daemon.registry.listeners import Listeners
from sampan.daemon.registry.settings import decode
from sampan.front.registry.server import make_server

T = TypeVar("T")


def basic(name: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


def users_file(path: Path, **passwords: str) -> str:
    """With bcrypt at its cheapest."""
    lines = [
        f"{name}:{bcrypt.hashpw(word.encode(), bcrypt.gensalt(4)).decode()}\n"
        for name, word in passwords.items()
    ]
    path.write_text("".join(lines))
    return str(path)


class RegistryHouse:
    """``with RegistryHouse(tmp_path, auth={...}) as house``: serves at ``port`` and ``socket``."""

    def __init__(self, root: Path, **content: Any) -> None:
        """``content``: as in the settings file, with underscores for hyphens at the top."""
        self.socket = str(root / "admin.sock")
        self._content: dict[str, object] = {
            "listen": "127.0.0.1:0",
            "root": str(root / "registry"),
            "admin-socket": self.socket,
            **{name.replace("_", "-"): value for name, value in content.items()},
        }
        self._ready = threading.Event()
        self._ended: asyncio.Event | None = None
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="registry", daemon=True)
        self.loop: asyncio.AbstractEventLoop
        self.house: House
        """Of the loop in the thread: use it through :meth:`call`."""
        self.port = 0

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._serve())
        except BaseException as error:
            self._failure = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        settings = decode(self._content, "settings")
        listeners = Listeners(settings)
        house = await House.open(settings)
        try:
            self.loop, self._ended, self.house = asyncio.get_running_loop(), asyncio.Event(), house
            servers = [make_server(handle) for handle in house.handlers()]
            await listeners.open(servers[0], servers[1], {})
            house.start()
            self.port = int(listeners.addresses[0].rpartition(":")[2])
            self._ready.set()
            await self._ended.wait()
            await listeners.close()
            for server in servers:
                await server.shutdown(5)
        finally:
            await house.close()

    def __enter__(self) -> RegistryHouse:
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            raise self._failure
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._ended is not None
        self.loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def call(self, do: Callable[[House], T]) -> T:
        """In the loop's thread."""

        async def done() -> T:
            return do(self.house)

        return asyncio.run_coroutine_threadsafe(done(), self.loop).result()

    def reload(self, **content: Any) -> list[str]:
        """As SIGHUP does with another file."""
        changed = {**self._content, **{name.replace("_", "-"): value for name, value in content.items()}}
        return self.call(lambda house: house.reload(decode(changed, "settings")))
