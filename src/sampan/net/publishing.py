"""Published ports of one endpoint: reserved on the host, and led to the container by the firewall."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec

from sampan.base.errors import SampanError
from sampan.formats.ports import format_port, parse_port, parse_range
from sampan.model.container import Endpoint, PortBinding

from .driver import PortPolicy
from .errors import InvalidPort, PublishFailed
from .firewall import Firewall
from .ports import PortRequest, PortReservations, PublishedPort

Bindings = dict[str, list[PortBinding]]


class Publishing:
    """Reservations and rules together."""

    def __init__(
        self,
        firewall: Firewall,
        reservations: PortReservations,
        host_address: str,
        warn: Callable[[str], None],
    ) -> None:
        """``host_address`` is where ports are published that name no address (--ip); both families for
        ``0.0.0.0``."""
        self._firewall = firewall
        self._reservations = reservations
        self._host_address = host_address
        self._warn = warn

    def publish(self, endpoint: Endpoint, ports: Bindings, policy: PortPolicy) -> tuple[PublishedPort, ...]:
        """Raises PortInUse, InvalidPort, PublishFailed; nothing is published then."""
        if not policy.publishes:
            return ()
        routed = policy.routed
        published: list[PublishedPort] = list(_open_ports(endpoint, ports, routed))
        seen = endpoint_without(endpoint, routed)
        try:
            for request in requests_of(seen, ports, self._host_address, lenient=bool(routed)):
                published.extend(self._reservations.reserve(request))
            self._firewall.publish(published)
        except SampanError:
            self._reservations.release(published)
            raise
        return tuple(published)

    def withdraw(self, published: Sequence[PublishedPort]) -> None:
        """Idempotent."""
        try:
            self._firewall.withdraw(published)
        except PublishFailed as error:
            self._warn(error.message)
        self._reservations.release(published)

    def adopt(self, published: Sequence[PublishedPort], container: str) -> None:
        """Ports of a container that was running when the daemon came back."""
        for lost in self._reservations.adopt(published):
            self._warn(f"container {container}: {lost}")
        self._firewall.adopt(published)


def endpoint_without(endpoint: Endpoint, versions: frozenset[int]) -> Endpoint:
    """As if it had no addresses of these IP versions."""
    changes = {4: {"ip_address": ""}, 6: {"global_ipv6_address": ""}}
    for version in versions:
        endpoint = msgspec.structs.replace(endpoint, **changes[version])
    return endpoint


def _open_ports(endpoint: Endpoint, ports: Bindings, routed: frozenset[int]) -> Iterable[PublishedPort]:
    addresses = {4: endpoint.ip_address, 6: endpoint.global_ipv6_address}
    for key in ports:
        try:
            port, protocol = parse_port(key)
        except ValueError as error:
            raise InvalidPort(str(error)) from error
        for version in sorted(routed):
            if addresses[version]:
                yield PublishedPort(protocol, "", 0, addresses[version], port)


def requests_of(
    endpoint: Endpoint, ports: Bindings, host_address: str, *, lenient: bool = False
) -> list[PortRequest]:
    """What to reserve, fixed ports first so that automatic ones keep off them; bindings that differ in
    their host address alone get the same port. Raises InvalidPort; when ``lenient`` not for bindings that
    the endpoint has no address for."""
    groups: dict[tuple[str, int, int, int], list[list[tuple[str, str]]]] = {}
    for key, bindings in ports.items():
        for binding in bindings:
            try:
                port, protocol = parse_port(key)
                first, last = parse_range(binding.host_port)
            except ValueError as error:
                raise InvalidPort(str(error)) from error
            targets = _targets(endpoint, binding.host_ip, host_address)
            if not targets and not lenient and not _is_any_ipv6(binding.host_ip):
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
    """By ``80/tcp``, as inspect shows them; a routed port has no place on the host."""
    shown: Bindings = {}
    for entry in published:
        if entry.is_routed:
            binding = PortBinding(host_ip="::" if ":" in entry.address else "")
        else:
            binding = PortBinding(host_ip=entry.host_address, host_port=str(entry.host_port))
        shown.setdefault(format_port(entry.port, entry.protocol), []).append(binding)
    return shown


def published_as(endpoint: Endpoint, ports: Bindings) -> Iterable[PublishedPort]:
    """The inverse of :func:`bindings_of` for one endpoint."""
    for key, bindings in ports.items():
        port, protocol = parse_port(key)
        for binding in bindings:
            target = endpoint.global_ipv6_address if ":" in binding.host_ip else endpoint.ip_address
            if target and binding.host_port.isdigit():
                yield PublishedPort(protocol, binding.host_ip, int(binding.host_port), target, port)
            elif target and not binding.host_port:
                yield PublishedPort(protocol, "", 0, target, port)
