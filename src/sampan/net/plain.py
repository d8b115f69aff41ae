"""Drivers that give a container no interface of its own: the host's namespace, or none."""

from __future__ import annotations

from sampan.model.container import Endpoint, EndpointConfig
from sampan.model.network import Network

from .driver import Attached, PortPolicy


class PlainDriver:
    """``host`` and ``null``: there is nothing to make, take or give back."""

    def __init__(self, name: str) -> None:
        self.name = name

    def create(self, network: Network) -> Network:
        return network

    def remove(self, network: Network) -> None:
        pass

    def attach(self, network: Network, endpoint_id: str, config: EndpointConfig) -> Attached:
        return Attached(endpoint=Endpoint(network_id=network.id, endpoint_id=endpoint_id))

    def port_policy(self, network: Network) -> PortPolicy:
        return PortPolicy()

    def detach(self, network: Network, endpoint: Endpoint) -> None:
        pass

    def adopt(self, network: Network, endpoint: Endpoint) -> None:
        pass
