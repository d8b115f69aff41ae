"""Questions for names that are not ours, passed on to other name servers.

One socket for each question in flight, so that its port is as hard to guess as its id (RFC 5452). Equal
questions share one. A server that is silent delays its own questions only.

Standard library only.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress

from .cache import AnswerCache
from .poller import WRITABLE, Poller, Timer
from .wire import LARGEST_UDP_BYTES, SERVER_FAILURE, Question, is_truncated, with_id

TRY_S = 2.0
ROUNDS = 2
_PORT = 53
_PASSED_ON = {SERVER_FAILURE, 5}  # SERVFAIL, REFUSED: the next server may know better

Space = Callable[[], AbstractContextManager[None]]
"""Sockets that are made within belong to that network namespace."""
Done = Callable[[bytes | None], None]
"""Gets the answer with the id of the asker, None when nobody has answered."""


class Forwarder:
    """Asks the servers in order, over UDP and, where an answer does not fit, over TCP."""

    def __init__(self, poller: Poller, cache: AnswerCache, most: int = 2000) -> None:
        self._poller = poller
        self._cache = cache
        self._most = most
        self._asked: dict[tuple[object, ...], _Asked] = {}

    def ask(
        self, query: bytes, question: Question, servers: Sequence[str], space: Space | None, done: Done
    ) -> None:
        """``servers`` are addresses. ``space`` is where they are asked from; None: where this process is."""
        key = (tuple(servers), space, query[2:12], question.text.lower(), query[12 + len(question.text) :])
        kept = self._cache.find(key, self._poller.now_s)
        if kept is not None:
            done(_as_asked(kept, question))
            return
        waiting = self._asked.get(key)
        if waiting is None:
            if not servers or len(self._asked) >= self._most:
                done(None)
                return
            waiting = self._asked[key] = _Asked(self._poller, query, question, servers, space)
            waiting.waiters.append((question, done))
            waiting.start(lambda data: self._finish(key, data))
            return
        waiting.waiters.append((question, done))

    def _finish(self, key: tuple[object, ...], data: bytes | None) -> None:
        asked = self._asked.pop(key)
        if data is not None and not is_truncated(data):
            self._cache.keep(key, data, self._poller.now_s)
        for question, done in asked.waiters:
            done(_as_asked(data, question) if data is not None else None)


def _as_asked(data: bytes, question: Question) -> bytes:
    """With the asker's id, and its own spelling of the name."""
    text = question.text
    return question.id.to_bytes(2, "big") + data[2:12] + text + data[12 + len(text) :]


class _Asked:
    """One question in flight."""

    def __init__(
        self, poller: Poller, query: bytes, question: Question, servers: Sequence[str], space: Space | None
    ) -> None:
        self.waiters: list[tuple[Question, Done]] = []
        self._poller = poller
        self._query = query
        self._text = question.text.lower()
        self._servers = servers
        self._space = space
        self._attempt = 0
        self._socket: socket.socket | None = None
        self._timer: Timer | None = None
        self._sent = b""
        self._buffer = b""
        self._finished: Callable[[bytes | None], None]
        self._best: bytes | None = None
        """A refusal, or an answer that is cut short: better than nothing."""

    def start(self, finished: Callable[[bytes | None], None]) -> None:
        self._finished = finished
        self._next()

    def _next(self) -> None:
        """The next server, over UDP."""
        self._drop()
        while self._attempt < len(self._servers) * ROUNDS:
            server = self._servers[self._attempt % len(self._servers)]
            self._attempt += 1
            if self._send(server):
                return
        self._end(self._best)

    def _send(self, server: str) -> bool:
        self._sent = with_id(self._query, int.from_bytes(os.urandom(2), "big"))
        try:
            made = self._connect(server, socket.SOCK_DGRAM)
            made.send(self._sent)
        except OSError:
            self._drop()
            return False  # no route, or no port there: the next one
        self._poller.watch(made.fileno(), lambda: self._datagram(server))
        self._timer = self._poller.later(TRY_S, self._next)
        return True

    def _connect(self, server: str, kind: int) -> socket.socket:
        family = socket.AF_INET6 if ":" in server else socket.AF_INET
        if self._space is None:
            made = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        else:
            with self._space():
                made = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self._socket = made
        with suppress(BlockingIOError):
            made.connect((server, _PORT))
        return made

    def _datagram(self, server: str) -> None:
        assert self._socket is not None
        try:
            data = self._socket.recv(LARGEST_UDP_BYTES + 1)
        except BlockingIOError:
            return
        except OSError:  # ICMP: nobody listens there
            self._next()
            return
        if not self._is_answer(data):
            return
        if is_truncated(data):
            self._best = data
            self._over_tcp(server)
        elif data[3] & 0xF in _PASSED_ON and self._attempt < len(self._servers):
            self._best = data
            self._next()
        else:
            self._end(data)

    def _is_answer(self, data: bytes) -> bool:
        return (
            len(data) >= 12 + len(self._text)
            and data[:2] == self._sent[:2]
            and bool(data[2] & 0x80)
            and data[12 : 12 + len(self._text)].lower() == self._text
        )

    def _over_tcp(self, server: str) -> None:
        self._drop()
        self._buffer = b""
        try:
            made = self._connect(server, socket.SOCK_STREAM)
        except OSError:
            self._next()
            return
        self._timer = self._poller.later(TRY_S, self._next)
        self._poller.watch(made.fileno(), self._connected, WRITABLE)

    def _connected(self) -> None:
        assert self._socket is not None
        failed = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if failed and failed != errno.EINPROGRESS:
            self._next()
            return
        try:
            # a query fits into any send buffer
            self._socket.send(len(self._sent).to_bytes(2, "big") + self._sent)
        except OSError:
            self._next()
            return
        self._poller.watch(self._socket.fileno(), self._stream)

    def _stream(self) -> None:
        assert self._socket is not None
        try:
            data = self._socket.recv(65537)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._buffer += data
        if not data:
            self._next()
            return
        if len(self._buffer) >= 2:
            length = int.from_bytes(self._buffer[:2], "big")
            if len(self._buffer) >= 2 + length:
                answered = self._buffer[2 : 2 + length]
                if self._is_answer(answered):
                    self._end(answered)
                else:
                    self._next()

    def _end(self, data: bytes | None) -> None:
        self._drop()
        self._finished(data)

    def _drop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._socket is not None:
            self._poller.forget(self._socket.fileno())
            self._socket.close()
            self._socket = None
