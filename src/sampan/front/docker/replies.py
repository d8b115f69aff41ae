"""Answers, written straight to the transport: head and body in one piece.

aiohttp's own response classes build a header dictionary and serialise it for every answer; Docker's answers
have a fixed head but for two or three fields.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web
from aiohttp.web_request import BaseRequest

from .versions import API_VERSION, SERVER_VERSION

if TYPE_CHECKING:
    from aiohttp.abc import AbstractStreamWriter

    from .server import Connection

JSON = "application/json"
encode = msgspec.json.Encoder(enc_hook=str).encode

COMMON_HEAD = (
    f"Api-Version: {API_VERSION}\r\nDocker-Experimental: false\r\nOstype: linux\r\n"
    f"Server: Docker/{SERVER_VERSION} (linux)\r\n"
)
_REASONS = {status.value: status.phrase for status in HTTPStatus} | {499: "Client Closed Request"}
_status_lines = {
    status: f"HTTP/1.1 {status} {reason}\r\n{COMMON_HEAD}Date: " for status, reason in _REASONS.items()
}
_date: tuple[int, str] = (0, "")


def http_date() -> str:
    """RFC 9110's date, made once a second."""
    global _date
    now = int(time.time())
    if _date[0] != now:
        _date = (now, formatdate(now, usegmt=True))
    return _date[1]


class Reply(web.StreamResponse):
    """A complete answer. ``content_type`` "" and an empty body: the answer has no body (201, 204, 304)."""

    def __init__(
        self, status: int, body: bytes = b"", content_type: str = "", headers: dict[str, str] | None = None
    ) -> None:
        self._status = status
        self._reason = _REASONS.get(status, "")
        self._answer = body
        self._answer_type = content_type
        self._extra = headers
        self._keep_alive = True

    def __bool__(self) -> bool:
        return True

    async def prepare(self, request: BaseRequest) -> AbstractStreamWriter | None:
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has gone")
        self._keep_alive = request.keep_alive
        head = [_status_lines[self._status], http_date(), "\r\n"]
        if self._answer_type:
            head.append(f"Content-Type: {self._answer_type}\r\n")
        if self._status not in (204, 304) and self._status >= 200:
            head.append(f"Content-Length: {len(self._answer)}\r\n")
        if self._extra is not None:
            head.extend(f"{name}: {value}\r\n" for name, value in self._extra.items())
        if not self._keep_alive:
            head.append("Connection: close\r\n")
        elif request.version.minor == 0:
            head.append("Connection: keep-alive\r\n")
        head.append("\r\n")
        data = "".join(head).encode("latin-1", "replace")
        if self._answer and request.method != "HEAD":
            data += self._answer
        transport.write(data)
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Everything went out with the head."""


class Stream(web.StreamResponse):
    """An answer of unknown length: chunked for HTTP/1.1, ended by closing for HTTP/1.0."""

    def __init__(
        self, content_type: str, headers: dict[str, str] | None = None, *, status: int = 200
    ) -> None:
        self._status = status
        self._reason = _REASONS.get(status, "")
        self._answer_type = content_type
        self._extra = headers
        self._keep_alive = True
        self._connection: Connection | None = None
        self._transport: Any = None
        self._ended = False
        self._chunks = True

    def __bool__(self) -> bool:
        return True

    @property
    def started(self) -> bool:
        return self._connection is not None

    async def prepare(self, request: BaseRequest) -> AbstractStreamWriter | None:
        if self._connection is not None:
            return None
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has gone")
        self._chunks = request.version.minor > 0
        self._keep_alive = request.keep_alive and self._chunks
        head = [_status_lines[self._status], http_date(), f"\r\nContent-Type: {self._answer_type}\r\n"]
        if self._chunks:
            head.append("Transfer-Encoding: chunked\r\n")
        if self._extra is not None:
            head.extend(f"{name}: {value}\r\n" for name, value in self._extra.items())
        if not self._keep_alive:
            head.append("Connection: close\r\n")
        head.append("\r\n")
        self._transport = transport
        self._connection = request.protocol  # type: ignore[assignment]
        transport.write("".join(head).encode("latin-1", "replace"))
        return None

    async def send(self, data: bytes) -> None:
        """One chunk. Waits while the client is slow; raises ConnectionResetError when it has gone."""
        if not data:
            return
        transport = self._transport
        if self._chunks:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        if transport.is_closing():
            raise ConnectionResetError("the client has gone")
        transport.write(data)
        if self._connection is not None:
            await self._connection.drain()

    async def write_eof(self, data: bytes = b"") -> None:
        if self._ended or self._transport is None:
            return
        self._ended = True
        if self._chunks and not self._transport.is_closing():
            self._transport.write(b"0\r\n\r\n")

    def abort(self) -> None:
        """End the answer so that the client sees that it is cut short."""
        self._ended = True
        self._keep_alive = False
        if self._transport is not None:
            self._transport.close()


def json_reply(value: Any, status: int = 200) -> Reply:
    """``value`` as JSON with the line feed that Go's encoder adds."""
    return Reply(status, encode(value) + b"\n", JSON)


def raw_json(body: bytes, status: int = 200) -> Reply:
    return Reply(status, body, JSON)


def empty(status: int = 204) -> Reply:
    return Reply(status)


class ErrorBody(msgspec.Struct, frozen=True):
    message: str


def error_reply(status: int, message: str) -> Reply:
    if status == 304:
        return Reply(304)
    return json_reply(ErrorBody(message), status)


async def close_iterator(source: AsyncIterator[Any]) -> None:
    """Let a generator run its ``finally`` now instead of at some later collection."""
    close = getattr(source, "aclose", None)
    if close is not None:
        await close()
