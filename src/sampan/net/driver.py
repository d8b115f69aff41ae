"""What a network driver does; drivers are interchangeable behind this."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from sampan.model.container import Endpoint, EndpointConfig
from sampan.model.launch import Interface
from sampan.model.network import Network


@dataclass(frozen=True, slots=True, kw_only=True)
class Attached:
    """A container's place in a network."""

    endpoint: Endpoint
    link: Interface | None = None
    """None: the driver gives the container no interface of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PortPolicy:
    """What publishing a port means on a network."""

    publishes: bool = False
    """Ports of its containers can be published at all."""
    routed: frozenset[int] = frozenset()
    """IP versions in which they are reached at the container's own address, not at the host's."""


class Driver(Protocol):
    """One per kind of network; knows any number of networks of it. Synchronous: none of it waits.

    ``create`` may take milliseconds, the others must not.
    """

    name: str
    """As clients name it: bridge, host, null, macvlan, ..."""

    def create(self, network: Network) -> Network:
        """Make the network's devices and rules where they do not exist, and answer it with what was chosen
        (subnet, gateway). Idempotent. Raises DeviceFailed, InvalidNetworkSetting, PoolExhausted."""

    def remove(self, network: Network) -> None:
        """Take the devices and rules away. Idempotent. The caller knows that no endpoint is left."""

    def attach(self, network: Network, endpoint_id: str, config: EndpointConfig) -> Attached:
        """Take addresses. Raises AddressInUse, AddressOutOfRange, PoolExhausted; nothing is taken then."""

    def port_policy(self, network: Network) -> PortPolicy: ...

    def detach(self, network: Network, endpoint: Endpoint) -> None:
        """Give the addresses back. Idempotent."""

    def adopt(self, network: Network, endpoint: Endpoint) -> None:
        """Count the addresses of an endpoint that already exists as taken."""
