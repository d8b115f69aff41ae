"""aiohttp's low-level server, with what Docker's protocol needs beyond it.

``web.Application`` is not used: its router, signals and middlewares cost more than the rest of a request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler
from aiohttp.web_request import BaseRequest

Handler = Callable[[BaseRequest], Awaitable[web.StreamResponse]]


class Connection(RequestHandler):
    """One client connection."""

    __slots__ = ("_watchers",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._watchers: set[asyncio.Task[Any]] = set()

    def watch(self, task: asyncio.Task[Any]) -> None:
        """Cancel ``task`` when the client goes away: for answers that may otherwise never end."""
        self._watchers.add(task)

    def unwatch(self, task: asyncio.Task[Any]) -> None:
        self._watchers.discard(task)

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """A half-closed client still gets the answer to the request it has sent.

        An answer without end is the exception: for it the end of the input is the only sign that the
        client has gone (net/http of Go cancels the request's context for the same reason).
        """
        if self._current_request is None and not self._messages:
            return None
        if self._watchers:
            return None
        self._close = True
        return True

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        for task in self._watchers:
            task.cancel()
        self._watchers.clear()

    async def drain(self) -> None:
        """Wait until the client has taken enough of what was written."""
        if self._paused:
            await self._drain_helper()

    def take_tail(self) -> bytes:
        """Input that came behind an upgrade request and was not parsed."""
        tail, self._message_tail = self._message_tail, b""
        return tail


class Server(web.Server):
    """Makes a :class:`Connection` for each client."""

    def __call__(self) -> Connection:
        return Connection(self, loop=self._loop, **self._kwargs)


def make_server(handler: Handler, loop: asyncio.AbstractEventLoop | None = None) -> Server:
    """A protocol factory for ``loop.create_server`` and ``loop.create_unix_server``."""
    return Server(
        handler,
        loop=loop or asyncio.get_running_loop(),
        access_log=None,
        # Idle connections stay: docker-py and compose pool theirs for longer than aiohttp's 75 s.
        keepalive_timeout=3600,
        auto_decompress=False,
        tcp_keepalive=True,
        lingering_time=2.0,
        max_line_size=64 * 1024,
        max_field_size=64 * 1024,
        read_bufsize=256 * 1024,
    )
