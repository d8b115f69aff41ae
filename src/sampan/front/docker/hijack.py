"""Connections taken over from HTTP: after the head, bytes flow both ways until one side ends.

The client half-closes to say that its input ends; the answer goes on. A client that has gone altogether
looks the same on a socket until something is written, so the kernel is asked (POLLHUP).
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import fcntl
import select
import socket
import termios
import time
from typing import Any, cast

from aiohttp import web
from aiohttp.web_request import BaseRequest

from .replies import COMMON_HEAD
from .server import Connection
from .services import AttachSession

RAW = "application/vnd.docker.raw-stream"
MULTIPLEXED = "application/vnd.docker.multiplexed-stream"
INPUT_LIMIT_BYTES = 1 << 20
LINGER_S = 10.0
"""How long a client may take to close after the end of the output."""
HANGUP_CHECK_S = 5.0
HEAD_PATIENCE_S = 0.5
HEAD_CHECK_S = 0.001


class Hijacked(web.StreamResponse):
    """What a handler returns to aiohttp when everything has been said on the raw connection."""

    def __init__(self) -> None:
        self._keep_alive = False

    def __bool__(self) -> bool:
        return True

    async def prepare(self, request: BaseRequest) -> None:
        """Nothing is left to send."""

    async def write_eof(self, data: bytes = b"") -> None:
        """The connection is closed by the server loop."""


class HijackedClient(asyncio.Protocol):
    """The raw connection. Becomes the transport's protocol at once, so no byte passes through the parser."""

    def __init__(self, connection: Connection, transport: asyncio.Transport) -> None:
        self._connection = connection
        self._transport = transport
        self._input = bytearray()
        self._eof = False
        self._lost = asyncio.Event()
        self._readable = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._reading = True
        self._hangup_check: asyncio.TimerHandle | None = None
        self.buffers_head = False
        tail = connection.take_tail()
        transport.set_protocol(self)
        transport.resume_reading()
        if tail:
            self.data_received(tail)

    # what the transport calls

    def data_received(self, data: bytes) -> None:
        self._input += data
        self._readable.set()
        if self._reading and len(self._input) >= INPUT_LIMIT_BYTES:
            self._reading = False
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        self._eof = True
        self._readable.set()
        self._check_hangup()
        return True

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._hangup_check is not None:
            self._hangup_check.cancel()
        self._eof = True
        self._lost.set()
        self._readable.set()
        self._writable.set()
        self._connection.connection_lost(exc)

    def _check_hangup(self) -> None:
        """After the end of input: has the client closed its other half too?"""
        if self._lost.is_set():
            return
        sock: Any = self._transport.get_extra_info("socket")
        if sock is None:
            return
        poll = select.poll()
        with contextlib.suppress(ValueError, OSError):
            poll.register(sock.fileno(), 0)
            if any(events & select.POLLHUP for _, events in poll.poll(0)):
                self._lost.set()
                return
        loop = asyncio.get_running_loop()
        self._hangup_check = loop.call_later(HANGUP_CHECK_S, self._check_hangup)

    # what the pump calls

    async def read(self) -> bytes:
        """Input; b"" is the end."""
        while not self._input:
            if self._eof:
                return b""
            self._readable.clear()
            await self._readable.wait()
        data = bytes(self._input)
        self._input.clear()
        if not self._reading:
            self._reading = True
            if not self._transport.is_closing():
                self._transport.resume_reading()
        return data

    async def head_taken(self) -> None:
        """Wait, at most a moment, until the client has taken the head out of the socket.

        docker-py reads the head through a buffer that it then throws away, with any output that came
        along. The kernel tells what a unix socket's peer has not read yet (unix(7), SIOCOUTQ).
        """
        sock: Any = self._transport.get_extra_info("socket")
        if not self.buffers_head or sock is None or sock.family != socket.AF_UNIX:
            return
        deadline_s = time.monotonic() + HEAD_PATIENCE_S
        unread = array.array("i", [0])
        while not self._transport.is_closing() and time.monotonic() < deadline_s:
            fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, unread)
            if not unread[0]:
                return
            await asyncio.sleep(HEAD_CHECK_S)

    async def write(self, data: bytes) -> None:
        if self._lost.is_set() or self._transport.is_closing():
            raise ConnectionResetError("the client has gone")
        self._transport.write(data)
        if not self._writable.is_set():
            await self._writable.wait()

    async def wait_lost(self) -> None:
        await self._lost.wait()

    async def finish(self) -> None:
        """No more output. Input is thrown away until the client closes, so that it reads everything:
        closing over unread input would reset the connection."""
        if not self._lost.is_set() and not self._transport.is_closing():
            if self._transport.can_write_eof():
                self._transport.write_eof()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LINGER_S):
                    while await self.read():
                        pass
        if self._hangup_check is not None:
            self._hangup_check.cancel()
        self._transport.close()


def hijack(request: BaseRequest, content_type: str) -> HijackedClient:
    """Send the head and take the connection over.

    Raises ConnectionResetError when the client has gone.
    """
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the client has gone")
    upgrade = "Upgrade" in request.headers
    client = HijackedClient(cast("Connection", request.protocol), transport)
    if upgrade:
        head = (
            f"HTTP/1.1 101 UPGRADED\r\nContent-Type: {content_type}\r\nConnection: Upgrade\r\n"
            f"Upgrade: tcp\r\n{COMMON_HEAD}\r\n"
        )
    else:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {RAW}\r\n{COMMON_HEAD}\r\n"
    transport.write(head.encode())
    client.buffers_head = request.headers.get("User-Agent", "").startswith("docker-sdk-python")
    return client


async def pump(client: HijackedClient, session: AttachSession) -> Hijacked:
    """Carry bytes until the output ends or the client has gone."""
    output = asyncio.create_task(_copy_output(client, session))
    input_ = asyncio.create_task(_copy_input(client, session))
    lost = asyncio.create_task(client.wait_lost())
    try:
        await asyncio.wait({output, lost}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (output, input_, lost):
            task.cancel()
        results = await asyncio.gather(output, input_, lost, return_exceptions=True)
        await session.close()
    await client.finish()
    for result in results:
        expected = (asyncio.CancelledError, ConnectionError)
        if isinstance(result, BaseException) and not isinstance(result, expected):
            raise result
    return Hijacked()


async def _copy_output(client: HijackedClient, session: AttachSession) -> None:
    first = await session.read()
    if not first:
        return
    await client.head_taken()
    await client.write(first)
    while data := await session.read():
        await client.write(data)


async def _copy_input(client: HijackedClient, session: AttachSession) -> None:
    while data := await client.read():
        await session.write(data)
    session.write_eof()
