"""aiohttp's low-level server, with what Docker's protocol needs beyond it.

``web.Application`` is not used: its router, signals and middlewares cost more than the rest of a request.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler
from aiohttp.web_request import BaseRequest

Handler = Callable[[BaseRequest], Awaitable[web.StreamResponse]]
_HIJACKING = re.compile(rb"POST (?:/v[0-9.]+)?/(?:containers/[^/ ?]+/attach|exec/[^/ ?]+/start)[ ?]")
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)\r\n", re.IGNORECASE)
HELD_LIMIT_BYTES = 1 << 20


class Connection(RequestHandler):
    """One client connection."""

    __slots__ = ("_held", "_watchers")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._watchers: set[asyncio.Task[Any]] = set()
        self._held: bytes | None = None
        """Input behind a request that asks for the connection itself; None: there is no such request."""

    @property
    def _idle(self) -> bool:
        """No request has come that is not answered yet."""
        waiter = self._waiter
        return not self._request_count if waiter is None else not waiter.done()

    def data_received(self, data: bytes) -> None:
        """What follows a request to attach is not HTTP: it must not reach the parser.

        (aiohttp stops parsing for WebSocket alone; Docker's ``Upgrade: tcp`` it reads over.)
        """
        if self._held is not None:
            self._held += data
            if len(self._held) > HELD_LIMIT_BYTES and self.transport is not None:
                self.transport.pause_reading()
            return
        if _HIJACKING.match(data):
            end = data.find(b"\r\n\r\n") + 4
            length = _LENGTH.search(data, 0, end)
            stop = end + (int(length[1]) if length else 0)
            if end > 4 and len(data) >= stop:
                self._held = data[stop:]
                data = data[:stop]
        super().data_received(data)

    async def finish_response(
        self, request: BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        answer = await super().finish_response(request, resp, start_time)
        held, self._held = self._held, None
        if held and self.transport is not None:
            # The connection was not taken over after all: it is HTTP again.
            self.transport.resume_reading()
            self.data_received(held)
        return answer

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
        if self._idle:
            return None
        if self._watchers:
            return None
        request = self._current_request
        if request is not None and not request.content.is_eof():
            return None  # the rest of the body will never come: who waits for it is told by the end
        self._close = True
        return True

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self.cut_endless()

    def cut_endless(self) -> None:
        """The daemon stops: end the answers that would go on."""
        for task in self._watchers:
            task.cancel()
        self._watchers.clear()

    async def drain(self) -> None:
        """Wait until the client has taken enough of what was written."""
        if self._paused:
            await self._drain_helper()

    def take_tail(self) -> bytes:
        """Input that came behind the request and was not parsed."""
        tail, self._held = self._held or b"", None
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
