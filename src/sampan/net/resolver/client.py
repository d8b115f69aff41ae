"""The daemon's side of the name server: starts it, finds it again, tells it who is who.

What was said is kept here as well: a name server that died is started again and told everything, and one that
an earlier daemon has started is told what has changed meanwhile. Used from the event loop's thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import socket
import sys
from collections import deque
from collections.abc import Mapping, Sequence

from sampan import __version__
from sampan.base.errors import SystemFailure
from sampan.model.container import Endpoint
from sampan.model.network import Network

from . import server
from .messages import LARGEST, Message, decode, encode

log = logging.getLogger(__name__)

_BOOT = (
    "import sys; sys.path.insert(0, {root!r}); from sampan.net.resolver.boot import boot; "
    "boot({path!r}, {version!r}, {fd})"
)
_START_S = 10.0
_AGAIN_S = 1.0
_IDLE_S = 2.0
"""How long it waits for somebody to need it: starting it costs as much as ten containers."""


class ResolverFailed(SystemFailure):
    """The name server cannot be started."""


class Resolver:
    """Names for containers on networks of the user's."""

    def __init__(self, path: str, version: str = "") -> None:
        """``path`` is the socket, in a directory of root's. ``version`` tells programs apart: another one's
        process is replaced."""
        self.path = path
        self._version = version or program_version()
        self._networks: dict[str, Message] = {}
        self._members: dict[tuple[str, str], Message] = {}
        self._views: dict[str, Message] = {}
        self._pids: dict[str, int] = {}
        self._connection: socket.socket | None = None
        self._outgoing: deque[tuple[bytes, int]] = deque()
        self._closed = False

    # who is who

    def join(self, network: Network, endpoint: Endpoint, names: Sequence[str]) -> None:
        """A container is reachable under these names on the network."""
        if network.id not in self._networks:
            self._networks[network.id] = {"do": "network", "network": network.id, "name": network.name}
            self._send(self._networks[network.id])
        message: Message = {
            "do": "join",
            "network": network.id,
            "endpoint": endpoint.endpoint_id,
            "names": list(names),
            "address4": endpoint.ip_address,
            "address6": endpoint.global_ipv6_address,
            "healthy": True,
        }
        self._members[network.id, endpoint.endpoint_id] = message
        self._send(message)

    def leave(self, network_id: str, endpoint_id: str) -> None:
        """Idempotent."""
        if self._members.pop((network_id, endpoint_id), None) is not None:
            self._send({"do": "leave", "network": network_id, "endpoint": endpoint_id})

    def set_health(self, endpoints: Mapping[str, str], healthy: bool) -> None:
        """``endpoints``: network id -> endpoint id of one container."""
        for key in endpoints.items():
            message = self._members.get(key)
            if message is not None and message["healthy"] != healthy:
                message["healthy"] = healthy
                self._send(message)

    def drop_network(self, network_id: str) -> None:
        """It is removed; nobody is on it. Idempotent."""
        if self._networks.pop(network_id, None) is not None:
            self._send({"do": "drop", "network": network_id})

    def show(
        self,
        container_id: str,
        networks: Sequence[str],
        *,
        aliases: Mapping[str, str],
        servers: Sequence[str],
        own_servers: bool,
        forwards: bool,
    ) -> None:
        """What a container can ask for: ids of networks, names of its own for others (--link), and who is
        asked for the rest of the world. ``own_servers`` are asked from the container's own namespace."""
        view: Message = {
            "do": "view",
            "container": container_id,
            "networks": list(networks),
            "aliases": dict(aliases),
            "servers": list(servers),
            "own_servers": own_servers,
            "forwards": forwards,
        }
        self._views[container_id] = view
        self._send(view)

    def shows(self, container_id: str) -> bool:
        return container_id in self._views

    def serving(self, container_id: str, pid: int) -> None:
        """It runs and is served; when the name server dies it is served again."""
        if container_id in self._views:
            self._pids[container_id] = pid

    def serve(self, container_id: str, pid: int) -> None:
        """A running container that was on no such network so far. Nothing happens when it has ended."""
        self._pids[container_id] = pid
        self._send_serve(container_id, pid)

    def forget(self, container_id: str) -> None:
        """It has ended. Idempotent."""
        self._pids.pop(container_id, None)
        if self._views.pop(container_id, None) is not None:
            self._send({"do": "forget", "container": container_id})
            if not self._views and self._connection is not None:
                asyncio.get_running_loop().call_later(_IDLE_S, self._stop_when_idle)

    # the process

    def ensure(self) -> None:
        """Connect to the name server, which is started when there is none (some 60 ms). Raises
        ResolverFailed."""
        if self._connection is not None:
            return
        connection = self._connect()
        if connection is not None and self._version_of(connection) != self._version:
            _stop(connection)
            connection = None
        if connection is None:
            self._start()
            connection = self._connect()
        if connection is None:
            raise ResolverFailed(f"the name server does not listen at {self.path}")
        connection.setblocking(False)
        self._connection = connection
        asyncio.get_running_loop().add_reader(connection.fileno(), self._readable)
        self._say_all()

    def recover(self) -> None:
        """Every running container is known again: tell the name server, or end one that nobody needs."""
        if self._views:
            self.ensure()
        else:
            connection = self._connect()
            if connection is not None:
                _stop(connection)

    def _connect(self) -> socket.socket | None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        connection.settimeout(_START_S)
        try:
            connection.connect(self.path)
        except (FileNotFoundError, ConnectionRefusedError):
            connection.close()
            return None
        return connection

    @staticmethod
    def _version_of(connection: socket.socket) -> str:
        try:
            connection.send(encode({"do": "status"}))
            return str(decode(connection.recv(LARGEST)).get("version"))
        except (OSError, ValueError):
            return ""

    def _start(self) -> None:
        """Returns when it listens; its parent is not this process, so nobody has to wait for it."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)  # of one that was killed: nobody listens there
        ours, theirs = os.pipe()
        os.set_inheritable(theirs, True)
        root = os.path.abspath(os.path.join(os.path.dirname(server.__file__), "..", "..", ".."))
        boot = _BOOT.format(root=root, path=self.path, version=self._version, fd=theirs)
        arguments = [sys.executable, "-I", "-S", "-c", boot]
        try:
            pid = os.posix_spawn(sys.executable, arguments, {"PATH": os.environ.get("PATH", os.defpath)})
        finally:
            os.close(theirs)
        with os.fdopen(ours, "rb", buffering=0) as answer:
            is_ready = answer.read(1) == b"r"
        os.waitpid(pid, 0)
        if not is_ready:
            raise ResolverFailed("the name server did not start: see the daemon's standard error")

    def _say_all(self) -> None:
        self._outgoing.clear()
        self._send({"do": "begin"})
        for message in (*self._networks.values(), *self._members.values(), *self._views.values()):
            self._send(message)
        self._send({"do": "commit"})
        for container_id, pid in self._pids.items():
            self._send_serve(container_id, pid)

    def _send_serve(self, container_id: str, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            pidfd = os.pidfd_open(pid)
            if not self._push(encode({"do": "serve", "container": container_id}), pidfd):
                os.close(pidfd)

    def _send(self, message: Message) -> None:
        self._push(encode(message), -1)

    def _push(self, data: bytes, fd: int) -> bool:
        """Whether it was taken. What is said while there is no connection is said with the next one."""
        if self._connection is None:
            return False
        self._outgoing.append((data, fd))
        if len(self._outgoing) == 1:
            self._flush()
        return True

    def _flush(self) -> None:
        connection = self._connection
        if connection is None:
            return
        loop = asyncio.get_running_loop()
        while self._outgoing:
            data, fd = self._outgoing[0]
            try:
                socket.send_fds(connection, [data], [fd] if fd >= 0 else [])
            except BlockingIOError:
                loop.add_writer(connection.fileno(), self._flush)
                return
            except OSError:
                return  # it has died: the reader is told, too
            self._outgoing.popleft()
            if fd >= 0:
                os.close(fd)
        loop.remove_writer(connection.fileno())

    def _readable(self) -> None:
        assert self._connection is not None
        try:
            data = self._connection.recv(LARGEST)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            error = decode(data).get("error")
            if error:
                log.warning("name server: %s", error)
            return
        self._disconnect()
        log.error("the name server has died: starting it again")
        self._restart()

    def _restart(self) -> None:
        if self._closed or not self._views:
            return
        try:
            self.ensure()
        except (OSError, ResolverFailed) as error:
            log.error("the name server cannot be started: %s", error)
            asyncio.get_running_loop().call_later(_AGAIN_S, self._restart)

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._let_go(connection)
            connection.close()

    def _let_go(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(connection.fileno())
        loop.remove_writer(connection.fileno())
        for _, fd in self._outgoing:
            if fd >= 0:
                os.close(fd)
        self._outgoing.clear()

    def _stop_when_idle(self) -> None:
        if not self._views:
            self.stop()

    def stop(self) -> None:
        """End the process: nobody needs names any more. Idempotent."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._let_go(connection)
            connection.settimeout(_START_S)
            _stop(connection)

    def close(self) -> None:
        """Let go of it; it goes on answering."""
        self._closed = True
        self._disconnect()


def _stop(connection: socket.socket) -> None:
    """Tell it to end, and wait until its socket is free for the next one."""
    with contextlib.suppress(OSError):
        connection.send(encode({"do": "stop"}))
        while connection.recv(LARGEST):
            pass  # answers to what was said before
    connection.close()


def program_version() -> str:
    """Another one after every change of the program, so that an upgrade replaces the process."""
    folder = os.path.dirname(server.__file__)
    digest = hashlib.sha256(__version__.encode())
    for name in sorted(os.listdir(folder)):
        if name.endswith(".py"):
            with open(os.path.join(folder, name), "rb") as file:
                digest.update(file.read())
    return digest.hexdigest()[:16]
