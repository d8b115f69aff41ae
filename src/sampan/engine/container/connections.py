"""Connects a container to its networks for one run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack

import msgspec

from sampan.base.errors import NotFound
from sampan.engine.collaborators import NetworkSource
from sampan.engine.events import Events
from sampan.engine.network.gateways import Gateways, choose_gateways, in_order
from sampan.engine.ports import Networks
from sampan.model.container import Container, Endpoint, PortBinding
from sampan.model.launch import Interface
from sampan.model.network import Network
from sampan.store.containers import RunRecord

from .naming import Naming
from .publish import wanted_ports


class Connected(msgspec.Struct, frozen=True, kw_only=True):
    endpoints: dict[str, Endpoint]
    """By network name."""
    links: list[Interface]
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
        links: list[Interface] = []
        bound: dict[str, list[PortBinding]] = {}
        networks = [self._require(name) for name in in_order(record.networks, record.host.network_mode)]
        leading = choose_gateways(record.networks, networks)
        wanted = wanted_ports(record.config, record.host)
        undo.callback(self._drivers.disconnect, record.id)
        for network in networks:
            name = network.name
            endpoint, link, ports = self._drivers.connect(
                network,
                record.id,
                record.networks[name],
                wanted if name == leading.ports else {},
                name=record.name,
            )
            endpoints[name] = endpoint
            if link is not None:
                links.append(_leading(link, name, leading))
            bound.update(ports)
        return Connected(endpoints=endpoints, links=links, ports=bound)

    def disconnect(self, record: Container, run: RunRecord | None) -> None:
        """Give back addresses and ports. Idempotent but for the events."""
        if record.networks:
            self._drivers.disconnect(record.id)
        if run is not None:
            self.publish(record, run.endpoints, "disconnect")

    def recover(self, record: Container, run: RunRecord) -> None:
        """It was running when the daemon came back: its addresses and ports are taken."""
        leading = choose_gateways(record.networks, self.networks(run.endpoints))
        for name, endpoint in run.endpoints.items():
            network = self._networks.find(name)
            if network is not None:
                ports = run.ports if name == leading.ports else {}
                config = record.networks.get(name)
                self._drivers.recover(record.id, network, endpoint, ports, config=config)
        self.naming.recover(record)

    def publish(self, record: Container, endpoints: Mapping[str, Endpoint], action: str) -> None:
        for name in endpoints:
            network = self._networks.find(name)
            if network is not None:
                attributes = {"container": record.id, "name": network.name, "type": network.driver}
                self._events.publish("network", action, network.id, attributes)

    def networks(self, names: Iterable[str]) -> list[Network]:
        """Those that there are."""
        return [network for name in names if (network := self._networks.find(name)) is not None]

    def _require(self, name: str) -> Network:
        network = self._networks.find(name)
        if network is None:
            raise NetworkMissing(name)
        return network


def _leading(link: Interface, name: str, leading: Gateways) -> Interface:
    """Only one network's interface has the default route."""
    return msgspec.structs.replace(
        link,
        gateway4=link.gateway4 if name == leading.ipv4 else "",
        gateway6=link.gateway6 if name == leading.ipv6 else "",
    )
