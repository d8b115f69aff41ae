"""The daemon's side of the name server: starts it, finds it again, tells it who is who.

What was said is kept here as well: a name server that died is started again and told everything, and one that
an earlier daemon has started is told what has changed meanwhile. Used from the event loop's thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Mapping, Sequence

from sampan.model.container import Endpoint
from sampan.model.network import Network

from . import process
from .channel import Channel
from .messages import Message
from .process import ResolverFailed

log = logging.getLogger(__name__)

_AGAIN_S = 1.0
_IDLE_S = 2.0
"""How long it waits for somebody to need it: starting it costs as much as ten containers."""


class Resolver:
    """Names for containers on networks of the user's."""

    def __init__(self, path: str, version: str = "") -> None:
        """``path`` is the socket, in a directory of root's. ``version`` tells programs apart: another one's
        process is replaced."""
        self.path = path
        self._version = version
        self._networks: dict[str, Message] = {}
        self._members: dict[tuple[str, str], Message] = {}
        self._views: dict[str, Message] = {}
        self._pids: dict[str, int] = {}
        self._channel: Channel | None = None

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
        egress: Sequence[Message] = (),
    ) -> None:
        """What a container can ask for: ids of networks, names of its own for others (--link), and who is
        asked for the rest of the world. ``own_servers`` are asked from the container's own namespace.
        ``egress``: names whose addresses it may reach (messages.py)."""
        view: Message = {
            "do": "view",
            "container": container_id,
            "networks": list(networks),
            "aliases": dict(aliases),
            "servers": list(servers),
            "own_servers": own_servers,
            "forwards": forwards,
            "egress": list(egress),
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
            if not self._views and self._channel is not None:
                asyncio.get_running_loop().call_later(_IDLE_S, self._stop_when_idle)

    # the process

    def ensure(self) -> None:
        """Connect to the name server, which is started when there is none (some 60 ms). Raises
        ResolverFailed."""
        if self._channel is None:
            self._version = self._version or process.program_version()
            connection = process.find(self.path, self._version) or process.start(self.path, self._version)
            self._channel = Channel(connection, self._died)
            self.say_all()
            for container_id, pid in self._pids.items():
                self._send_serve(container_id, pid)

    def recover(self) -> None:
        """Every running container is known again: tell the name server, or end one that nobody needs.
        Raises ResolverFailed."""
        if self._views:
            self.ensure()
        else:
            connection = process.find(self.path)
            if connection is not None:
                process.stop(connection)

    def say_all(self) -> None:
        """Everything but who is served. What containers may reach because of answers is put into the kernel
        again."""
        self._send({"do": "begin"})
        for message in (*self._networks.values(), *self._members.values(), *self._views.values()):
            self._send(message)
        self._send({"do": "commit"})

    def _send_serve(self, container_id: str, pid: int) -> None:
        if self._channel is not None:
            with contextlib.suppress(ProcessLookupError):
                self._channel.send({"do": "serve", "container": container_id}, os.pidfd_open(pid))

    def _send(self, message: Message) -> None:
        """What is said while there is no connection is said with the next one."""
        if self._channel is not None:
            self._channel.send(message)

    def _died(self) -> None:
        self._channel = None
        if self._views:
            log.error("the name server has died: starting it again")
            self._restart()

    def _restart(self) -> None:
        if not self._views:
            return
        try:
            self.ensure()
        except (OSError, ResolverFailed) as error:
            log.error("the name server cannot be started: %s", error)
            asyncio.get_running_loop().call_later(_AGAIN_S, self._restart)

    def _stop_when_idle(self) -> None:
        if not self._views:
            self.stop()

    def stop(self) -> None:
        """End the process: nobody needs names any more. Idempotent."""
        if self._channel is not None:
            process.stop(self._channel.detach())
            self._channel = None

    def close(self) -> None:
        """Let go of it; it goes on answering. Nothing is told any more."""
        self._views.clear()
        if self._channel is not None:
            self._channel.detach().close()
            self._channel = None
