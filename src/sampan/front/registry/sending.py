"""A blob's bytes to the socket, without their passing through this process where that can be had.

uvloop has no sendfile of its own, and a call in the loop's thread would wait for the disk. So a small pool of
threads makes calls that never wait for the client, and the loop waits between them for room in the socket.
"""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from aiohttp import web
from aiohttp.web_request import BaseRequest
from multidict import CIMultiDict

if TYPE_CHECKING:
    from aiohttp.abc import AbstractStreamWriter

    from .server import Connection

THREADS = 4
CALL_BYTES = 4 << 20
"""The most that one turn in a thread sends, so that many clients get their share."""
BUFFERED_BYTES = 64 << 10
"""An answer up to this size is left to the transport."""
STALL_S = 60.0
"""For so long a client may take nothing."""
_threads = ThreadPoolExecutor(THREADS, "registry-send")


class FileResponse(web.StreamResponse):
    """``count`` bytes of an open file from ``offset`` on. Closes it."""

    def __init__(
        self, status: int, headers: CIMultiDict[str], source: io.FileIO, offset: int, count: int
    ) -> None:
        super().__init__(status=status, headers=headers)
        self.content_length = count
        self._source = source
        self._offset = offset
        self._count = count

    async def prepare(self, request: BaseRequest) -> AbstractStreamWriter | None:
        """The head by way of the transport, the rest past it."""
        try:
            transport = request.transport
            connection: Connection = request.protocol  # type: ignore[assignment]
            if transport is None:
                raise ConnectionResetError("the client has gone")
            # the head has to be in the socket before the first byte that goes past the transport
            transport.set_write_buffer_limits(high=0)
            writer = await super().prepare(request)
            await connection.drain()
            transport.set_write_buffer_limits()
            if self._count:
                socket_fd = os.dup(transport.get_extra_info("socket").fileno())
                try:
                    await self._send(transport, socket_fd)
                finally:
                    os.close(socket_fd)
            return writer
        except BaseException:
            # the length was promised: only the connection's end can say that it is not kept
            if request.transport is not None:
                request.transport.abort()
            raise
        finally:
            self._source.close()

    async def _send(self, transport: asyncio.WriteTransport, socket_fd: int) -> None:
        loop = asyncio.get_running_loop()
        position, left = self._offset, self._count
        while left:
            if transport.is_closing():
                raise ConnectionResetError("the client has gone")
            sent = await _in_thread(_send_some, socket_fd, self._source.fileno(), position, left)
            position += sent
            left -= sent
            if left:
                await _room(loop, socket_fd)


async def _in_thread(call: Callable[..., int], *arguments: int) -> int:
    """The descriptors stay ours until the thread is done with them, also when the caller is cancelled."""
    job = asyncio.get_running_loop().run_in_executor(_threads, call, *arguments)
    try:
        return await asyncio.shield(job)
    except asyncio.CancelledError:
        await asyncio.wait({job})
        raise


def _send_some(socket_fd: int, fd: int, position: int, count: int) -> int:
    """As much as the socket takes now, up to :data:`CALL_BYTES`; 0: it is full."""
    sent = 0
    limit = min(count, CALL_BYTES)
    while sent < limit:
        try:
            step = os.sendfile(socket_fd, fd, position + sent, limit - sent)
        except BlockingIOError:
            break
        if step == 0:
            raise ConnectionResetError("the blob's file is shorter than it was")
        sent += step
    return sent


async def _room(loop: asyncio.AbstractEventLoop, socket_fd: int) -> None:
    ready = asyncio.Event()
    loop.add_writer(socket_fd, ready.set)
    try:
        async with asyncio.timeout(STALL_S):
            await ready.wait()
    except TimeoutError:
        raise ConnectionResetError(f"the client took nothing for {STALL_S:g} s") from None
    finally:
        loop.remove_writer(socket_fd)


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body


def timed(answer: web.StreamResponse, method: str) -> web.StreamResponse:
    """The same answer; one that fills the buffers on the way gives up on a client that takes nothing."""
    body = answer.body if isinstance(answer, web.Response) else None
    if not isinstance(body, bytes) or len(body) <= BUFFERED_BYTES or method == "HEAD":
        return answer
    return PiecesResponse(answer.status, answer.headers, _once(body), len(body))


class PiecesResponse(web.StreamResponse):
    """``count`` bytes from an iterator, through this process: TLS, and storages that are no files."""

    def __init__(
        self, status: int, headers: CIMultiDict[str], pieces: AsyncIterator[bytes], count: int
    ) -> None:
        super().__init__(status=status, headers=headers)
        self.content_length = count
        self._pieces = pieces

    async def prepare(self, request: BaseRequest) -> AbstractStreamWriter | None:
        try:
            writer = await super().prepare(request)
            async for piece in self._pieces:
                async with asyncio.timeout(STALL_S):
                    await self.write(piece)
            return writer
        except BaseException as error:
            # the length was promised: only the connection's end can say that it is not kept
            if request.transport is not None:
                request.transport.abort()
            if isinstance(error, TimeoutError):
                raise ConnectionResetError(f"the client took nothing for {STALL_S:g} s") from None
            raise
        finally:
            if isinstance(self._pieces, AsyncGenerator):
                await self._pieces.aclose()
