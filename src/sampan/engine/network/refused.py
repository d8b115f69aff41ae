"""What containers were not allowed to send (``sampan.egress``), as events and in the daemon's log."""

from __future__ import annotations

import logging
import socket

from sampan.engine.container.registry import Registry
from sampan.engine.events import Events
from sampan.kernel.nflog import Packet
from sampan.net.egress.guard import Restricted

log = logging.getLogger(__name__)

_PROTOCOLS = {
    socket.IPPROTO_ICMP: "icmp",
    socket.IPPROTO_TCP: "tcp",
    socket.IPPROTO_UDP: "udp",
    socket.IPPROTO_ICMPV6: "icmpv6",
    socket.IPPROTO_SCTP: "sctp",
}


class Refused:
    """Keeps nothing."""

    def __init__(self, registry: Registry, events: Events) -> None:
        self._registry = registry
        self._events = events

    def tell(self, who: Restricted, packet: Packet) -> None:
        """The actor is the network, as for the other events of its containers."""
        entry = self._registry.find_id(who.container_id)
        name = entry.name if entry is not None else who.container_id[:12]
        protocol = _PROTOCOLS.get(packet.protocol, str(packet.protocol))
        log.info(
            "container %s on network %s was refused %s %s port %d",
            name,
            who.network.name,
            protocol,
            packet.destination,
            packet.port,
        )
        attributes = {
            "container": who.container_id,
            "name": name,
            "network": who.network.name,
            "destination": packet.destination,
            "port": str(packet.port),
            "protocol": protocol,
            "type": who.network.driver,
        }
        self._events.publish("network", "refuse", who.network.id, attributes)
