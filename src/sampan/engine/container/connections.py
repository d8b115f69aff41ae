"""Connects a container to its networks for one run."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack

import msgspec

from sampan.base.errors import NotFound
from sampan.engine.collaborators import NetworkSource
from sampan.engine.events import Events
from sampan.engine.ports import Networks
from sampan.model.container import Container, Endpoint, PortBinding
from sampan.model.launch import VethLink
from sampan.model.network import Network
from sampan.store.containers import RunRecord

from .naming import Naming
from .publish import wanted_ports


class Connected(msgspec.Struct, frozen=True, kw_only=True):
    endpoints: dict[str, Endpoint]
    """By network name."""
    links: list[VethLink]
    ports: dict[str, list[PortBinding]]


class NetworkMissing(NotFound):
    exit_code = 128

    def __init__(self, name: str) -> None:
        super().__init__(f"failed to set up container networking: network {name} not found")


class Connections:
    """Which networks there are, their drivers, the files that name things, and the events."""

    def __init__(
        self,
        networks: NetworkSource,
        drivers: Networks,
        naming: Naming,
        events: Events,
    ) -> None:
        self._networks = networks
        self._drivers = drivers
        self.naming = naming
        self._events = events

    def connect(self, record: Container, undo: ExitStack) -> Connected:
        """Join every network of the record. Raises NetworkMissing and what the drivers raise."""
        endpoints: dict[str, Endpoint] = {}
        links: list[VethLink] = []
        bound: dict[str, list[PortBinding]] = {}
        wanted = wanted_ports(record.config, record.host)
        for name, config in record.networks.items():
            network = self._require(name)
            if not endpoints:
                undo.callback(self._drivers.disconnect, record.id)
            endpoint, link, ports = self._drivers.connect(
                network, record.id, config, wanted, name=record.name
            )
            endpoints[name] = endpoint
            if link is not None:
                links.append(link)
            bound.update(ports)
            wanted = {}  # published once, through the first network
        return Connected(endpoints=endpoints, links=links, ports=bound)

    def disconnect(self, record: Container, run: RunRecord | None) -> None:
        """Give back addresses and ports. Idempotent but for the events."""
        if record.networks:
            self._drivers.disconnect(record.id)
        if run is not None:
            self.publish(record, run.endpoints, "disconnect")

    def recover(self, record: Container, run: RunRecord) -> None:
        """It was running when the daemon came back: its addresses and ports are taken."""
        ports = run.ports
        for name, endpoint in run.endpoints.items():
            network = self._networks.find(name)
            if network is not None:
                self._drivers.recover(record.id, network, endpoint, ports)
                ports = {}
        self.naming.recover(record)

    def publish(self, record: Container, endpoints: Mapping[str, Endpoint], action: str) -> None:
        for name in endpoints:
            network = self._networks.find(name)
            if network is not None:
                attributes = {"container": record.id, "name": network.name, "type": network.driver}
                self._events.publish("network", action, network.id, attributes)

    def _require(self, name: str) -> Network:
        network = self._networks.find(name)
        if network is None:
            raise NetworkMissing(name)
        return network
