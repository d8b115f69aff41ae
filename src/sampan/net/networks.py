"""The networks of containers, one container at a time: addresses, links and published ports together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import msgspec

from sampan.base.errors import NotFound, SampanError
from sampan.base.ids import new_id
from sampan.formats.ports import format_port, parse_port, parse_range
from sampan.model.container import Endpoint, EndpointConfig, PortBinding
from sampan.model.launch import VethLink
from sampan.model.network import NameWish, Network

from .driver import Driver
from .errors import InvalidPort, PublishFailed
from .firewall import Firewall
from .ports import PortRequest, PortReservations, PublishedPort
from .resolver.client import Resolver

Bindings = dict[str, list[PortBinding]]
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
        warn: Callable[[str], None] = lambda text: None,
    ) -> None:
        """``host_address`` is where ports are published that name no address (--ip); both families for
        ``0.0.0.0``. ``warn`` gets what the administrator should know but no request fails for."""
        self._drivers = drivers
        self._firewall = firewall
        self._reservations = reservations
        self._host_address = host_address
        self._resolver = resolver
        self._warn = warn
        self._connections: dict[str, list[Connection]] = {}

    def connect(
        self,
        network: Network,
        container_id: str,
        config: EndpointConfig,
        ports: Bindings,
        name: str = "",
    ) -> tuple[Endpoint, VethLink | None, Bindings]:
        """See ``engine.ports.Networks.connect``. For every port of an image (``-P``) the caller passes a
        PortBinding without host port."""
        driver = self._driver(network)
        endpoint_id = new_id()
        self._firewall.settle()
        try:
            attached = driver.attach(network, endpoint_id, config)
            try:
                published = self._publish(attached.endpoint, ports) if attached.publishes and ports else []
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
        link = _numbered(attached.link, len(held)) if attached.link else None
        endpoint = attached.endpoint
        if has_names(network):
            endpoint = msgspec.structs.replace(endpoint, dns_names=dns_names(container_id, name, config))
            self._resolver.join(network, endpoint, endpoint.dns_names or [])
        held.append(Connection(network, endpoint, tuple(published), name))
        return endpoint, link, bindings_of(published)

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
        try:
            self._firewall.withdraw(connection.published)
        except PublishFailed as error:
            self._warn(error.message)
        self._reservations.release(connection.published)
        self._driver(connection.network).detach(connection.network, connection.endpoint)

    def recover(
        self,
        container_id: str,
        network: Network,
        endpoint: Endpoint,
        ports: Bindings,
        name: str = "",
    ) -> None:
        """See ``engine.ports.Networks.recover``. ``ports`` are the bindings that connect answered."""
        self._driver(network).adopt(network, endpoint)
        published = tuple(_published_as(endpoint, ports))
        for lost in self._reservations.adopt(published):
            self._warn(f"container {name or container_id[:12]}: {lost}")
        self._firewall.adopt(published)
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

    def _publish(self, endpoint: Endpoint, ports: Bindings) -> list[PublishedPort]:
        published: list[PublishedPort] = []
        try:
            for request in requests_of(endpoint, ports, self._host_address):
                published.extend(self._reservations.reserve(request))
            self._firewall.publish(published)
        except SampanError:
            self._reservations.release(published)
            raise
        return published


def has_names(network: Network) -> bool:
    """Whether containers on it find each other by name: not on the predefined networks, as in Docker."""
    return network.name not in PREDEFINED


def dns_names(container_id: str, name: str, config: EndpointConfig) -> list[str]:
    """What a container is called on a network of the user's: name, aliases, short id, in Docker's order."""
    return [text for text in dict.fromkeys((name, *(config.aliases or ()), container_id[:12])) if text]


def _numbered(link: VethLink, number: int) -> VethLink:
    """The first network's interface is eth0 and has the default route."""
    if number == 0:
        return link
    return msgspec.structs.replace(link, container_name=f"eth{number}", gateway4="", gateway6="")


def requests_of(endpoint: Endpoint, ports: Bindings, host_address: str) -> list[PortRequest]:
    """What to reserve, fixed ports first so that automatic ones keep off them; bindings that differ in
    their host address alone get the same port. Raises InvalidPort."""
    groups: dict[tuple[str, int, int, int], list[list[tuple[str, str]]]] = {}
    for key, bindings in ports.items():
        for binding in bindings:
            try:
                port, protocol = parse_port(key)
                first, last = parse_range(binding.host_port)
            except ValueError as error:
                raise InvalidPort(str(error)) from error
            targets = _targets(endpoint, binding.host_ip, host_address)
            if not targets and not _is_any_ipv6(binding.host_ip):
                raise InvalidPort(
                    f"cannot publish {key} at {binding.host_ip or host_address}: "
                    "the container has no address of that family on its network"
                )
            if targets:
                _join_group(groups.setdefault((protocol, port, first, last), []), targets)
    requests = [
        PortRequest(protocol, port, first, last, tuple(targets))
        for (protocol, port, first, last), lists in groups.items()
        for targets in lists
    ]
    return sorted(requests, key=lambda request: (request.first == 0, request.last - request.first))


def _join_group(lists: list[list[tuple[str, str]]], targets: list[tuple[str, str]]) -> None:
    hosts = {host for host, _ in targets}
    for existing in lists:
        if not hosts & {host for host, _ in existing}:
            existing.extend(targets)
            return
    lists.append(targets)


def _is_any_ipv6(host: str) -> bool:
    """``-p [::]:80:80`` beside an IPv4 binding, as compose files have it, has nothing to lead to on a
    network without IPv6; Docker without its proxy leaves it out as well."""
    return host == "::"


def _targets(endpoint: Endpoint, host: str, default: str) -> list[tuple[str, str]]:
    """(host address, container address) of one binding; both families where no address is named."""
    host = host.strip("[]")
    named = host or default
    if named == "0.0.0.0" and not host:
        pairs = [("0.0.0.0", endpoint.ip_address), ("::", endpoint.global_ipv6_address)]
    elif ":" in named:
        pairs = [(named, endpoint.global_ipv6_address)]
    else:
        pairs = [(named, endpoint.ip_address)]
    return [(address, target) for address, target in pairs if target]


def bindings_of(published: Iterable[PublishedPort]) -> Bindings:
    """By ``80/tcp``, as inspect shows them."""
    shown: Bindings = {}
    for entry in published:
        binding = PortBinding(host_ip=entry.host_address, host_port=str(entry.host_port))
        shown.setdefault(format_port(entry.port, entry.protocol), []).append(binding)
    return shown


def _published_as(endpoint: Endpoint, ports: Bindings) -> Iterable[PublishedPort]:
    """The inverse of :func:`bindings_of` for one endpoint."""
    for key, bindings in ports.items():
        port, protocol = parse_port(key)
        for binding in bindings:
            target = endpoint.global_ipv6_address if ":" in binding.host_ip else endpoint.ip_address
            if target and binding.host_port.isdigit():
                yield PublishedPort(protocol, binding.host_ip, int(binding.host_port), target, port)
