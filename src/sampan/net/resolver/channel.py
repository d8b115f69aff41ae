"""What is said to the name server, in order and without waiting for it."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections import deque
from collections.abc import Callable

from .messages import LARGEST, Message, decode, encode

log = logging.getLogger(__name__)


class Channel:
    """Owns a connection. Used from the event loop's thread."""

    def __init__(self, connection: socket.socket, ended: Callable[[], None]) -> None:
        """``ended`` is called once when the other end is gone."""
        self._connection = connection
        self._ended = ended
        self._outgoing: deque[tuple[bytes, int]] = deque()
        self._loop = asyncio.get_running_loop()
        connection.setblocking(False)
        self._loop.add_reader(connection.fileno(), self._readable)

    def send(self, message: Message, fd: int = -1) -> None:
        """``fd`` goes with it and is closed here."""
        self._outgoing.append((encode(message), fd))
        if len(self._outgoing) == 1:
            self._flush()

    def _flush(self) -> None:
        while self._outgoing:
            data, fd = self._outgoing[0]
            try:
                socket.send_fds(self._connection, [data], [fd] if fd >= 0 else [])
            except BlockingIOError:
                self._loop.add_writer(self._connection.fileno(), self._flush)
                return
            except OSError as error:
                if error.errno != errno.EMSGSIZE:
                    return  # it has died: the reader is told, too
                log.error("name server: a message of %d bytes is too long", len(data))
            self._outgoing.popleft()
            if fd >= 0:
                os.close(fd)
        self._loop.remove_writer(self._connection.fileno())

    def _readable(self) -> None:
        try:
            data = self._connection.recv(LARGEST)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.detach().close()
            self._ended()
            return
        error = decode(data).get("error")
        if error:
            log.warning("name server: %s", error)

    def detach(self) -> socket.socket:
        """The connection, which is nobody's business here any more. What was not sent is not."""
        self._loop.remove_reader(self._connection.fileno())
        self._loop.remove_writer(self._connection.fileno())
        for _, fd in self._outgoing:
            if fd >= 0:
                os.close(fd)
        self._outgoing.clear()
        return self._connection
