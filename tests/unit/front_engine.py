"""An engine for tests of the Docker front end: remembers what was asked, answers what it was given."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from sampan.base.errors import NotFound
from sampan.engine.container.views import ContainerView, EndpointView, StateView, WaitResult
from sampan.engine.events import Events
from sampan.front.docker.services import Engine
from sampan.model.container import (
    Container,
    ContainerConfig,
    Endpoint,
    EndpointConfig,
    HostConfig,
    PortBinding,
)

CREATED_NS = 1_700_000_000_123_456_789


def make_view(number: int = 1, *, running: bool = True, **changes: Any) -> ContainerView:
    container_id = f"{number:064x}"
    record = Container(
        id=container_id,
        name=f"box{number}",
        created_ns=CREATED_NS,
        image_id="sha256:" + "ab" * 32,
        image_ref="busybox",
        path="sh",
        args=["-c", "sleep 1"],
        config=ContainerConfig(
            hostname=container_id[:12],
            image="busybox",
            cmd=["sh"],
            exposed_ports={"80/tcp": {}, "81/udp": {}},
        ),
        host=HostConfig(network_mode="bridge", runtime="runc"),
        networks={"bridge": EndpointConfig()},
        mounts=[],
        layer_ids=[],
    )
    state = StateView(
        status="running" if running else "exited",
        running=running,
        pid=4242 if running else 0,
        started_ns=CREATED_NS + 1_000_000_000,
        finished_ns=0 if running else CREATED_NS + 2_000_000_000,
    )
    endpoint = EndpointView(
        config=EndpointConfig(), live=Endpoint(network_id="f" * 64, ip_address="172.17.0.2", ip_prefix_len=16)
    )
    values: dict[str, Any] = {
        "record": record,
        "state": state,
        "endpoints": {"bridge": endpoint},
        "ports": {"80/tcp": [PortBinding(host_ip="0.0.0.0", host_port="8080")]} if running else {},
        "restart_count": 0,
        "exec_ids": [],
        "revision": number,
    }
    return ContainerView(**{**values, **changes})


class FakeSession:
    """Echoes input as output, in upper case, and ends after the end of the input."""

    def __init__(self, tty: bool = True) -> None:
        self.tty = tty
        self.closed = False
        self.closed_event = asyncio.Event()
        self._output: asyncio.Queue[bytes] = asyncio.Queue()
        self.greet(b"hello\n")

    def greet(self, data: bytes) -> None:
        self._output.put_nowait(data)

    async def read(self, limit: int = 65536) -> bytes:
        return await self._output.get()

    async def write(self, data: bytes) -> None:
        self._output.put_nowait(data.upper())

    def write_eof(self) -> None:
        self._output.put_nowait(b"bye\n")
        self._output.put_nowait(b"")

    async def close(self) -> None:
        self.closed = True
        self.closed_event.set()


class FakeContainers:
    generation = 0

    def __init__(self) -> None:
        self.views: list[ContainerView] = []
        self.calls: list[tuple[Any, ...]] = []
        self.session = FakeSession()
        self.exit: asyncio.Future[WaitResult] | None = None
        self.error: Exception | None = None
        self.log_chunks: list[bytes] = []
        self.logs_ended = asyncio.Event()

    def _note(self, *call: Any) -> None:
        self.calls.append(call)
        if self.error is not None:
            raise self.error

    def _find(self, ref: str) -> ContainerView:
        for view in self.views:
            if ref in (view.record.id, view.record.name):
                return view
        raise NotFound(f"No such container: {ref}")

    async def create(self, *args: Any) -> tuple[str, list[str]]:
        self._note("create", *args)
        return "c" * 64, []

    async def inspect(self, ref: str, size: bool = False) -> ContainerView:
        self._note("inspect", ref, size)
        return self._find(ref)

    def list(
        self,
        all: bool,  # noqa: A002
        limit: int,
        size: bool,
        filters: Any,
    ) -> list[ContainerView]:
        self._note("list", all, limit, size, filters)
        return self.views

    async def wait(self, ref: str, condition: str) -> asyncio.Future[WaitResult]:
        self._note("wait", ref, condition)
        self.exit = asyncio.get_running_loop().create_future()
        return self.exit

    async def attach(self, ref: str, **options: Any) -> FakeSession:
        self._note("attach", ref, options)
        return self.session

    async def logs(self, ref: str, **options: Any) -> AsyncIterator[bytes]:
        self._note("logs", ref, options)
        try:
            for chunk in self.log_chunks:
                yield chunk
            if options["follow"]:
                await asyncio.Event().wait()
        finally:
            self.logs_ended.set()

    def __getattr__(self, name: str) -> Any:
        async def verb(*args: Any, **kwargs: Any) -> Any:
            self._note(name, *args, *kwargs.items())
            return []

        return verb


class FakeImages:
    def __init__(self) -> None:
        self.known: dict[str, str] = {}

    async def stands_for(self, ref: str, image_id: str) -> bool:
        return self.known.get(ref) == image_id


class Silent:
    """A service that no test of the file calls."""


def make_engine() -> Engine:
    silent: Any = Silent()
    return Engine(
        containers=FakeContainers(),
        execs=silent,
        archive=silent,
        images=FakeImages(),
        commits=silent,
        volumes=silent,
        networks=silent,
        system=silent,
        events=Events(),
        stats=silent,
    )
