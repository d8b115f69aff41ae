"""The daemon's end of an attached client's stream."""

from __future__ import annotations

import asyncio
import socket
from typing import Protocol


class Attachment(Protocol):
    """A client that waits for a start; the engine's own Attachment is one (layers above are not imported)."""

    stdin: bool
    stdout: bool
    stderr: bool

    def connected(self, stream: SocketStream) -> None: ...


class SocketStream:
    """A stream socket to a monitor (engine.ports.ByteStream)."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._loop = asyncio.get_running_loop()

    async def read(self, limit: int = 65536) -> bytes:
        """Output; b"" is the end."""
        try:
            return await self._loop.sock_recv(self._socket, limit)
        except (ConnectionResetError, OSError) as error:
            if isinstance(error, ConnectionResetError) or self._socket.fileno() < 0:
                return b""
            raise

    async def write(self, data: bytes) -> None:
        """Input; waits while nobody reads it. What comes after the process's end is dropped."""
        try:
            await self._loop.sock_sendall(self._socket, data)
        except (BrokenPipeError, ConnectionResetError):
            return

    def write_eof(self) -> None:
        """No more input from here."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            return  # the other side has closed already

    def close(self) -> None:
        """Detach."""
        self._socket.close()


def stream_pair() -> tuple[socket.socket, socket.socket]:
    """For an attached client: the engine's end and the monitor's."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
