"""The networks of containers, one container at a time: addresses, links and published ports together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec

from sampan.base.errors import NotFound, SampanError
from sampan.base.ids import new_id
from sampan.model.container import Endpoint, EndpointConfig
from sampan.model.launch import Interface
from sampan.model.network import NameWish, Network

from .driver import Attached, Driver
from .egress.guard import EgressGuard, Restricted
from .egress.policy import Policy, read_egress
from .firewall import Firewall
from .options import interface_name, interface_sysctls
from .ports import PortReservations, PublishedPort
from .publishing import Bindings, Publishing, bindings_of, published_as
from .resolver.client import Resolver

PREDEFINED = ("bridge", "host", "none")


@dataclass(frozen=True, slots=True)
class Connection:
    """One container's place in one network."""

    network: Network
    endpoint: Endpoint
    published: tuple[PublishedPort, ...]
    container_name: str


class ContainerNetworks:
    """Implements ``engine.ports.Networks`` over the drivers. Nothing here waits or blocks."""

    def __init__(
        self,
        drivers: Mapping[str, Driver],
        firewall: Firewall,
        reservations: PortReservations,
        *,
        host_address: str = "0.0.0.0",
        resolver: Resolver,
        egress: EgressGuard,
        warn: Callable[[str], None] = lambda text: None,
    ) -> None:
        """``host_address`` is where ports are published that name no address (--ip); both families for
        ``0.0.0.0``. ``warn`` gets what the administrator should know but no request fails for."""
        self._drivers = drivers
        self._firewall = firewall
        self._publishing = Publishing(firewall, reservations, host_address, warn)
        self._resolver = resolver
        self._egress = egress
        self._connections: dict[str, list[Connection]] = {}

    def connect(
        self,
        network: Network,
        container_id: str,
        config: EndpointConfig,
        ports: Bindings,
        name: str = "",
    ) -> tuple[Endpoint, Interface | None, Bindings]:
        """See ``engine.ports.Networks.connect``. For every port of an image (``-P``) the caller passes a
        PortBinding without host port."""
        driver = self._driver(network)
        endpoint_id = new_id()
        self._firewall.settle()
        try:
            policy = read_egress(network.options, config.driver_opts)
            self._egress.require_possible(network, policy)
            attached = driver.attach(network, endpoint_id, config)
            try:
                published = self._open_ways(network, container_id, attached, policy, ports)
            except SampanError as error:
                driver.detach(network, attached.endpoint)
                error.message = (
                    f"driver failed programming external connectivity on endpoint "
                    f"{name or container_id[:12]} ({endpoint_id}): {error.message}"
                )
                raise
        except SampanError as error:
            raise type(error)(f"failed to set up container networking: {error.message}") from error
        held = self._connections.setdefault(container_id, [])
        link = _in_container(attached.link, len(held), config) if attached.link else None
        endpoint = attached.endpoint
        if has_names(network):
            endpoint = msgspec.structs.replace(endpoint, dns_names=dns_names(container_id, name, config))
            self._resolver.join(network, endpoint, endpoint.dns_names or [])
        held.append(Connection(network, endpoint, published, name))
        return endpoint, link, bindings_of(published)

    def _open_ways(
        self, network: Network, container_id: str, attached: Attached, policy: Policy | None, ports: Bindings
    ) -> tuple[PublishedPort, ...]:
        """In and out of a new endpoint. Raises what publishing does, EgressFailed; nothing is left then."""
        endpoint = attached.endpoint
        if policy is not None:
            self._egress.restrict(Restricted(container_id, network, endpoint, policy))
        try:
            return self._publishing.publish(endpoint, ports, self._driver(network).port_policy(network))
        except SampanError:
            self._egress.release(endpoint.endpoint_id)
            raise

    def disconnect(self, container_id: str) -> None:
        """See ``engine.ports.Networks.disconnect``."""
        for connection in self._connections.pop(container_id, ()):
            self._drop(connection)
        self._resolver.forget(container_id)

    def disconnect_network(self, container_id: str, network_id: str) -> Connection | None:
        """Leave one network; answers what it was. Idempotent."""
        held = self._connections.get(container_id, [])
        connection = next((entry for entry in held if entry.network.id == network_id), None)
        if connection is not None:
            held.remove(connection)
            self._drop(connection)
        if not held:
            self._connections.pop(container_id, None)
        return connection

    def _drop(self, connection: Connection) -> None:
        self._resolver.leave(connection.network.id, connection.endpoint.endpoint_id)
        self._publishing.withdraw(connection.published)
        self._egress.release(connection.endpoint.endpoint_id)
        self._driver(connection.network).detach(connection.network, connection.endpoint)

    def recover(
        self,
        container_id: str,
        network: Network,
        endpoint: Endpoint,
        ports: Bindings,
        name: str = "",
        config: EndpointConfig | None = None,
    ) -> None:
        """See ``engine.ports.Networks.recover``. ``ports`` are the bindings that connect answered."""
        self._driver(network).adopt(network, endpoint)
        policy = read_egress(network.options, config.driver_opts if config is not None else None)
        if policy is not None:
            self._egress.adopt(Restricted(container_id, network, endpoint, policy))
        published = tuple(published_as(endpoint, ports))
        self._publishing.adopt(published, name or container_id[:12])
        connection = Connection(network, endpoint, published, name)
        self._connections.setdefault(container_id, []).append(connection)
        if has_names(network):
            self._resolver.join(network, endpoint, endpoint.dns_names or [])

    def show_names(self, container_id: str, wish: NameWish) -> str:
        """See ``engine.ports.Networks.show_names``."""
        networks = [one.network for one in self._connections.get(container_id, ()) if has_names(one.network)]
        if not networks:
            self._resolver.forget(container_id)
            return ""
        self._resolver.show(
            container_id,
            [network.id for network in networks],
            aliases=wish.aliases,
            servers=wish.servers,
            own_servers=wish.own_servers,
            forwards=not all(one.network.internal for one in self._connections[container_id]),
            egress=self._egress.learns(container_id),
        )
        return self._resolver.path

    def has_view(self, container_id: str) -> bool:
        """See ``engine.ports.Networks.has_view``."""
        return self._resolver.shows(container_id)

    def ensure_names(self) -> None:
        """See ``engine.ports.Networks.ensure_names``."""
        self._resolver.ensure()

    def serve_names(self, container_id: str, pid: int, *, already: bool = False) -> None:
        """See ``engine.ports.Networks.serve_names``."""
        if not self._resolver.shows(container_id):
            return
        if already:
            self._resolver.serving(container_id, pid)
        else:
            self._resolver.serve(container_id, pid)

    def rename(self, container_id: str, old: str, new: str) -> dict[str, Endpoint]:
        """See ``engine.ports.Networks.rename``."""
        held = self._connections.get(container_id, [])
        for place, one in enumerate(held):
            names = [new if text == old else text for text in one.endpoint.dns_names or ()]
            endpoint = msgspec.structs.replace(one.endpoint, dns_names=names or one.endpoint.dns_names)
            held[place] = Connection(one.network, endpoint, one.published, new)
            if has_names(one.network):
                self._resolver.join(one.network, endpoint, names)
        return {one.network.name: one.endpoint for one in held}

    def set_health(self, container_id: str, healthy: bool) -> None:
        """See ``engine.ports.Networks.set_health``."""
        held = self._connections.get(container_id, ())
        self._resolver.set_health({one.network.id: one.endpoint.endpoint_id for one in held}, healthy)

    def move_ports(self, container_id: str, network_id: str, ports: Bindings) -> Bindings:
        """See ``engine.ports.Networks.move_ports``."""
        held = self._connections.get(container_id, [])
        bound: Bindings = {}
        for place, one in enumerate(held):
            self._publishing.withdraw(one.published)
            held[place] = Connection(one.network, one.endpoint, (), one.container_name)
        for place, one in enumerate(held):
            if one.network.id == network_id:
                policy = self._driver(one.network).port_policy(one.network)
                published = self._publishing.publish(one.endpoint, ports, policy)
                held[place] = Connection(one.network, one.endpoint, published, one.container_name)
                bound = bindings_of(published)
        return bound

    def settle(self) -> None:
        """Every running container is recovered: rules of any others go now."""
        self._firewall.settle()

    def connections(self, network_id: str) -> dict[str, Connection]:
        """Who is on a network now, by container id."""
        return {
            container_id: connection
            for container_id, held in self._connections.items()
            for connection in held
            if connection.network.id == network_id
        }

    def endpoints(self, network_id: str) -> list[Endpoint]:
        """Of all containers on a network now."""
        return [one.endpoint for one in self.connections(network_id).values()]

    @property
    def is_idle(self) -> bool:
        return not self._connections

    def _driver(self, network: Network) -> Driver:
        driver = self._drivers.get(network.driver)
        if driver is None:
            raise NotFound(
                f'could not find plugin "{network.driver}" in v1 plugin registry: plugin not found'
            )
        return driver


def has_names(network: Network) -> bool:
    """Whether containers on it find each other by name: not on the predefined networks, as in Docker."""
    return network.name not in PREDEFINED


def dns_names(container_id: str, name: str, config: EndpointConfig) -> list[str]:
    """What a container is called on a network of the user's: name, aliases, short id, in Docker's order."""
    return [text for text in dict.fromkeys((name, *(config.aliases or ()), container_id[:12])) if text]


def _in_container(interface: Interface, number: int, config: EndpointConfig) -> Interface:
    """With the name it has there: the one asked for, else ``eth<n>`` in the order of the networks."""
    name = interface_name(config.driver_opts) or f"eth{number}"
    sysctls = interface_sysctls(config.driver_opts, name)
    return msgspec.structs.replace(interface, container_name=name, sysctls=sysctls)
