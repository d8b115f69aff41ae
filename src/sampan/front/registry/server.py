"""aiohttp's low-level server, with time limits for clients that do not finish what they begin."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestHandler
from aiohttp.web_request import BaseRequest

log = logging.getLogger(__name__)
Handler = Callable[[BaseRequest], Awaitable[web.StreamResponse]]
HEAD_S = 30.0
"""A request's head has to be here so long after its first byte, the first one after the connection."""
KEEPALIVE_S = 75.0
HEAD_LIMIT_BYTES = 32 << 10


class Connection(RequestHandler):
    """One client connection."""

    __slots__ = ("_head_timer",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._stop_timer()

    def data_received(self, data: bytes) -> None:
        waiting = self._waits_for_head
        if waiting and self._head_timer is None:
            self._expect_head()
        super().data_received(data)
        if self._messages:
            self._stop_timer()

    @property
    def _waits_for_head(self) -> bool:
        return self._current_request is None and not self._messages

    def _expect_head(self) -> None:
        self._head_timer = self._loop.call_later(HEAD_S, self._give_up)

    def _stop_timer(self) -> None:
        timer, self._head_timer = self._head_timer, None
        if timer is not None:
            timer.cancel()

    def _give_up(self) -> None:
        self._head_timer = None
        if self._waits_for_head:
            self.force_close()

    def log_exception(self, *args: Any, **kwargs: Any) -> None:
        """What is no HTTP is answered with 400 and is the client's affair, not the log's."""
        if isinstance(kwargs.get("exc_info"), HttpProcessingError):
            log.debug("not HTTP: %s", kwargs["exc_info"])
        else:
            super().log_exception(*args, **kwargs)

    async def drain(self) -> None:
        """Wait until the socket has taken what was written."""
        if self._paused:
            await self._drain_helper()


class Server(web.Server):
    """Makes a :class:`Connection` for each client."""

    def __call__(self) -> Connection:
        return Connection(self, loop=self._loop, **self._kwargs)


def make_server(handler: Handler, loop: asyncio.AbstractEventLoop | None = None) -> Server:
    """A protocol factory for ``loop.create_server``."""
    return Server(
        handler,
        loop=loop or asyncio.get_running_loop(),
        access_log=None,
        keepalive_timeout=KEEPALIVE_S,
        auto_decompress=False,
        tcp_keepalive=True,
        # a refused body is read for so long, so that the client gets to read the refusal
        lingering_time=5.0,
        max_line_size=HEAD_LIMIT_BYTES,
        max_field_size=HEAD_LIMIT_BYTES,
        read_bufsize=256 * 1024,
    )
