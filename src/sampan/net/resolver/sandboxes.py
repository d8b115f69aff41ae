"""The name server's sockets in the namespace of each container: 127.0.0.11, UDP and TCP.

They are bound to ports of their own and reached through a rule for port 53 in the container's namespace, so
that a container can be a name server itself on all of its addresses. They go when the container's first
process ends: a socket would keep the namespace, and with it the container's link.

Standard library only.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sampan.kernel.nftables import run_ruleset
from sampan.kernel.process import setns

from .poller import Poller, Timer
from .wire import LARGEST_UDP_BYTES

ADDRESS = "127.0.0.11"
_CLONE_NEWNET = 0x40000000
_PORT = 53
_AT_A_TURN = 16
"""Datagrams of one container before the next one's turn."""
_MOST_CONNECTIONS = 32
_IDLE_S = 10.0
_LARGEST_QUERY = 4096

_RULES = """
add table ip {table}
delete table ip {table}
table ip {table} {{
    chain output {{
        type nat hook output priority -100; policy accept;
        ip daddr {address} udp dport 53 dnat to {address}:{udp}
        ip daddr {address} tcp dport 53 dnat to {address}:{tcp}
    }}
}}
"""
_TABLE = "sampan-resolver"

Reply = Callable[[bytes], None]
Ask = Callable[["Sandbox", bytes, bool, Reply], None]
"""A container, its query, whether it came over TCP, and where the answer goes."""


@contextmanager
def inside(pidfd: int, home_fd: int) -> Iterator[None]:
    """In another process's network namespace, and back. This process has one thread."""
    setns(pidfd, _CLONE_NEWNET)
    try:
        yield
    finally:
        setns(home_fd, _CLONE_NEWNET)


class Sandbox:
    """One container's two sockets. Owns the ``pidfd`` it is given."""

    def __init__(self, container_id: str, pidfd: int, home_fd: int, poller: Poller) -> None:
        """Raises OSError when the namespace cannot be entered or the sockets not be made; ``pidfd`` is closed
        then."""
        self.container_id = container_id
        self.in_flight = 0
        """Questions that others are asked for it."""
        self._pidfd = pidfd
        self._home_fd = home_fd
        self._poller = poller
        self._sockets: list[socket.socket] = []
        self._connections: set[_Connection] = set()
        try:
            with inside(pidfd, home_fd):
                self._udp, self._tcp = self._bind()
        except OSError:
            self._close_all()
            raise

    def _bind(self) -> tuple[socket.socket, socket.socket]:
        udp = self._make(socket.SOCK_DGRAM, 0)
        tcp = self._make(socket.SOCK_STREAM, 0)
        rules = _RULES.format(
            table=_TABLE, address=ADDRESS, udp=udp.getsockname()[1], tcp=tcp.getsockname()[1]
        )
        try:
            run_ruleset(rules)
        except OSError:
            # without nf_tables the port itself is taken, which only a container that is a name server minds
            udp = self._make(socket.SOCK_DGRAM, _PORT)
            tcp = self._make(socket.SOCK_STREAM, _PORT)
        tcp.listen(64)
        return udp, tcp

    def _make(self, kind: int, port: int) -> socket.socket:
        made = socket.socket(socket.AF_INET, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self._sockets.append(made)
        made.bind((ADDRESS, port))
        return made

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Sockets that are made within are the container's."""
        with inside(self._pidfd, self._home_fd):
            yield

    def serve(self, ask: Ask, ended: Callable[[Sandbox], None]) -> None:
        """From now on ``ask`` gets what the container asks; ``ended`` is called when it is no more."""
        self._poller.watch(self._udp.fileno(), lambda: self._datagrams(ask))
        self._poller.watch(self._tcp.fileno(), lambda: self._accept(ask))
        self._poller.watch(self._pidfd, lambda: ended(self))

    def _datagrams(self, ask: Ask) -> None:
        udp = self._udp
        for _ in range(_AT_A_TURN):
            try:
                data, address = udp.recvfrom(_LARGEST_QUERY)
            except (BlockingIOError, ConnectionRefusedError):
                return  # nothing more, or an asker that did not wait for its answer
            ask(self, data, False, lambda answer, address=address: self._reply(answer, address))  # type: ignore[misc]
            if udp.fileno() < 0:
                return

    def _reply(self, answer: bytes, address: tuple[str, int]) -> None:
        if answer and self._udp.fileno() >= 0:
            try:
                self._udp.sendto(answer, address)
            except OSError:
                return  # its receive buffer is full or it is gone: it will ask again

    def _accept(self, ask: Ask) -> None:
        try:
            accepted, _ = self._tcp.accept()
        except OSError:
            return  # gone again before its turn
        accepted.setblocking(False)
        if len(self._connections) >= _MOST_CONNECTIONS:
            accepted.close()
            return
        self._connections.add(_Connection(self, accepted, self._poller, ask, self._connections.discard))

    def close(self) -> None:
        """Idempotent."""
        for connection in list(self._connections):
            connection.close()
        if self._pidfd >= 0:
            for fd in (*(one.fileno() for one in self._sockets), self._pidfd):
                self._poller.forget(fd)
            self._close_all()

    def _close_all(self) -> None:
        for one in self._sockets:
            one.close()
        os.close(self._pidfd)
        self._pidfd = -1


class _Connection:
    """A client over TCP (RFC 7766): queries one after another, answers as they come."""

    def __init__(
        self,
        sandbox: Sandbox,
        accepted: socket.socket,
        poller: Poller,
        ask: Ask,
        closed: Callable[[_Connection], None],
    ) -> None:
        self._sandbox = sandbox
        self._socket = accepted
        self._poller = poller
        self._ask = ask
        self._closed = closed
        self._buffer = b""
        self._timer: Timer = poller.later(_IDLE_S, self.close)
        poller.watch(accepted.fileno(), self._readable)

    def _readable(self) -> None:
        try:
            data = self._socket.recv(LARGEST_UDP_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        self._buffer += data
        self._timer.cancel()
        self._timer = self._poller.later(_IDLE_S, self.close)
        while self._socket.fileno() >= 0 and len(self._buffer) >= 2:
            length = int.from_bytes(self._buffer[:2], "big")
            if length > _LARGEST_QUERY:
                self.close()
                return
            if len(self._buffer) < 2 + length:
                return
            query, self._buffer = self._buffer[2 : 2 + length], self._buffer[2 + length :]
            self._ask(self._sandbox, query, True, self._reply)

    def _reply(self, answer: bytes) -> None:
        if self._socket.fileno() < 0:
            return
        message = len(answer).to_bytes(2, "big") + answer
        try:
            sent = self._socket.send(message)
        except OSError:
            sent = 0
        if sent < len(message):
            self.close()  # who does not read what was asked for is not waited for

    def close(self) -> None:
        """Idempotent."""
        if self._socket.fileno() >= 0:
            self._timer.cancel()
            self._poller.forget(self._socket.fileno())
            self._socket.close()
            self._closed(self)
