"""The service of networks: which there are, who is on them, and their making and removal."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from sampan.base.clock import now_ns
from sampan.base.errors import Conflict, Forbidden, InvalidArgument, NotFound, NotImplementedYet, SampanError
from sampan.base.ids import new_id
from sampan.engine.container.views import PruneResult
from sampan.engine.events import Events
from sampan.engine.filters import Filters, InvalidFilter, prune_labels_match, prune_until_ns
from sampan.model.container import EndpointConfig
from sampan.model.network import IPAMPool, Network
from sampan.net.errors import InvalidNetworkSetting
from sampan.net.ipam import parse_network
from sampan.net.networks import Connection
from sampan.net.stack import PREDEFINED, NetworkStack, default_bridge, plain_network
from sampan.store.networks import NetworkTable

from .membership import Membership

log = logging.getLogger(__name__)

_LIST_FILTERS = ("dangling", "driver", "id", "label", "name", "scope", "type")
_PRUNE_FILTERS = ("label", "label!", "until")


class NetworkNotFound(NotFound):
    def __init__(self, ref: str) -> None:
        super().__init__(f"network {ref} not found")


class NetworkMember(msgspec.Struct, frozen=True, kw_only=True):
    """A running container on a network, as inspect lists it."""

    name: str
    endpoint_id: str
    mac_address: str
    ipv4_address: str
    """With its prefix length, ``172.17.0.2/16``; empty without one."""
    ipv6_address: str


class NetworkView(msgspec.Struct, frozen=True, kw_only=True):
    network: Network
    containers: dict[str, NetworkMember]
    """By container id."""


class NetworkRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What ``POST /networks/create`` asks for."""

    name: str
    driver: str = ""
    scope: str = ""
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    config_only: bool = False
    config_from: str = ""
    enable_ipv4: bool | None = None
    enable_ipv6: bool | None = None
    ipam_driver: str = ""
    pools: Sequence[IPAMPool] = ()
    ipam_options: dict[str, str] | None = None
    options: Mapping[str, str] = {}
    labels: Mapping[str, str] = {}


class Networks:
    """Networks by id in memory, written through to the store. Lookups take no lock and do no I/O."""

    def __init__(
        self,
        table: NetworkTable,
        stack: NetworkStack,
        events: Events,
        container_name: Callable[[str], str] = lambda container_id: "",
        membership: Membership | None = None,
    ) -> None:
        """``container_name`` is the present name of a container by id; without ``membership`` containers
        join networks when they are created only."""
        self._membership = membership
        self._table = table
        self._container_name = container_name
        self._stack = stack
        self._events = events
        self._networks: dict[str, Network] = {}

    def open(self) -> None:
        """At start, before containers are recovered: load, make the predefined networks, and bring every
        device up that is not there. A user's network that fails is logged and kept; the default ones raise
        DeviceFailed, InvalidNetworkSetting or PoolExhausted."""
        self._stack.open()
        stored = {network.name: network for network in self._table.load()}
        for wanted in self._predefined(stored):
            self._keep(self._stack.ensure(wanted), stored.get(wanted.name))
        for network in stored.values():
            if network.name in PREDEFINED:
                continue
            self._networks[network.id] = network
            try:
                self._keep(self._stack.ensure(network), network)
            except SampanError as error:
                log.error("network %s: %s", network.name, error.message)
        if self._stack.settings.bridge == "none" and "bridge" in stored:
            self._table.delete(stored["bridge"].id)

    def _predefined(self, stored: Mapping[str, Network]) -> Iterable[Network]:
        for name in PREDEFINED:
            known = stored.get(name)
            network_id = known.id if known is not None else new_id()
            created_ns = known.created_ns if known is not None else now_ns()
            if name != "bridge":
                yield plain_network(name, network_id, created_ns)
            elif self._stack.settings.bridge != "none":
                yield default_bridge(self._stack.settings, network_id, created_ns)

    def _keep(self, network: Network, stored: Network | None) -> None:
        self._networks[network.id] = network
        if network != stored:
            self._table.put(network)

    def find(self, ref: str) -> Network | None:
        """By id, name or unambiguous start of an id. Raises InvalidArgument for an ambiguous one."""
        exact = self._networks.get(ref)
        if exact is not None:
            return exact
        named = next((network for network in self._networks.values() if network.name == ref), None)
        if named is not None or not ref:
            return named
        found = [network for network in self._networks.values() if network.id.startswith(ref)]
        if len(found) > 1:
            raise InvalidArgument(
                f"network {ref} is ambiguous ({len(found)} matches found based on ID prefix)"
            )
        return found[0] if found else None

    def require(self, ref: str) -> Network:
        """As :meth:`find`. Raises NetworkNotFound."""
        network = self.find(ref)
        if network is None:
            raise NetworkNotFound(ref)
        return network

    def host_gateways(self) -> list[str]:
        """Addresses that ``host-gateway`` stands for."""
        return self._stack.host_gateways(self.find("bridge"))

    async def list(self, filters: Mapping[str, Sequence[str]]) -> list[NetworkView]:
        """By time of creation, newest last. Raises InvalidFilter."""
        wanted = Filters(filters)
        wanted.require_known(_LIST_FILTERS)
        matches = _matcher(wanted)
        views = (self._view(network) for network in self._networks.values())
        return sorted(filter(matches, views), key=lambda view: view.network.created_ns)

    async def inspect(self, ref: str) -> NetworkView:
        """Raises NetworkNotFound."""
        return self._view(self.require(ref))

    def _view(self, network: Network) -> NetworkView:
        members = self._stack.containers.connections(network.id)
        return NetworkView(
            network=network,
            containers={
                container_id: _member(connection, self._name_of(container_id, connection))
                for container_id, connection in members.items()
            },
        )

    def _name_of(self, container_id: str, connection: Connection) -> str:
        return self._container_name(container_id) or connection.container_name

    async def create(self, request: NetworkRequest) -> str:
        """A network of the caller's; answers its id. Raises Conflict, Forbidden, InvalidArgument,
        NotFound (driver), NotImplementedYet, DeviceFailed, PoolExhausted."""
        _require_possible(request)
        if any(network.name == request.name for network in self._networks.values()):
            raise Conflict(f"network with name {request.name} already exists")
        network = Network(
            id=new_id(),
            name=request.name,
            driver=request.driver or "bridge",
            created_ns=now_ns(),
            enable_ipv4=request.enable_ipv4 is not False,
            enable_ipv6=bool(request.enable_ipv6),
            internal=request.internal,
            attachable=request.attachable,
            pools=list(request.pools),
            ipam_options=request.ipam_options,
            options=dict(request.options),
            labels=dict(request.labels),
        )
        if network.driver in ("host", "null"):
            raise Forbidden(f'only one instance of "{network.driver}" network is allowed')
        made = self._stack.ensure(network)
        try:
            self._keep(made, None)
        except SampanError:
            self._networks.pop(made.id, None)
            self._stack.remove(made)
            raise
        self._publish("create", made)
        return made.id

    async def remove(self, ref: str) -> None:
        """Raises NetworkNotFound, Forbidden (predefined, or containers run on it), DeviceFailed."""
        network = self.require(ref)
        if network.name in PREDEFINED:
            raise Forbidden(f"{network.name} is a pre-defined network and cannot be removed")
        members = self._stack.containers.connections(network.id)
        if members:
            shown = ", ".join(
                f'name:"{self._name_of(container_id, entry)}" id:"{entry.endpoint.endpoint_id[:12]}"'
                for container_id, entry in members.items()
            )
            raise Forbidden(
                f"error while removing network: network {network.name} has active endpoints ({shown})"
            )
        self._stack.remove(network)
        self._table.delete(network.id)
        del self._networks[network.id]
        self._publish("destroy", network)

    async def connect(self, ref: str, container: str, config: EndpointConfig) -> None:
        """Raises NetworkNotFound and what Membership.connect raises."""
        network = self.require(ref)
        await self._require_membership().connect(network, container, config)

    async def disconnect(self, ref: str, container: str, force: bool = False) -> None:
        """Raises NetworkNotFound and what Membership.disconnect raises. ``force`` changes nothing: a
        container that does not run can always leave."""
        network = self.require(ref)
        await self._require_membership().disconnect(network, container)

    async def limit(self, ref: str, container: str, receive: str | None, send: str | None) -> None:
        """Raises NetworkNotFound and what Membership.limit raises."""
        network = self.require(ref)
        await self._require_membership().limit(network, container, receive, send)

    def _require_membership(self) -> Membership:
        if self._membership is None:
            raise NotImplementedYet("containers join networks when they are created")
        return self._membership

    async def prune(self, filters: Mapping[str, Sequence[str]]) -> PruneResult:
        """Remove the user's networks on which no container runs; answers their names. Raises
        InvalidFilter."""
        wanted = Filters(filters)
        wanted.require_known(_PRUNE_FILTERS)
        until_ns = prune_until_ns(wanted, now_ns())
        deleted: list[str] = []
        for network in list(self._networks.values()):
            if network.name in PREDEFINED or (until_ns and network.created_ns > until_ns):
                continue
            if not prune_labels_match(wanted, network.labels):
                continue
            if self._stack.containers.connections(network.id):
                continue
            try:
                await self.remove(network.id)
            except SampanError as error:
                log.warning("could not remove local network %s: %s", network.name, error.message)
                continue
            deleted.append(network.name)
        self._events.publish("network", "prune", "", {"reclaimed": "0"})
        return PruneResult(deleted=deleted, space_reclaimed=0)

    def _publish(self, action: str, network: Network) -> None:
        attributes = {"name": network.name, "type": network.driver}
        self._events.publish("network", action, network.id, attributes)


def _member(connection: Connection, name: str) -> NetworkMember:
    endpoint = connection.endpoint
    return NetworkMember(
        name=name,
        endpoint_id=endpoint.endpoint_id,
        mac_address=endpoint.mac_address,
        ipv4_address=f"{endpoint.ip_address}/{endpoint.ip_prefix_len}" if endpoint.ip_address else "",
        ipv6_address=(
            f"{endpoint.global_ipv6_address}/{endpoint.global_ipv6_prefix_len}"
            if endpoint.global_ipv6_address
            else ""
        ),
    )


def _matcher(filters: Filters) -> Callable[[NetworkView], bool]:
    """The conditions of ``GET /networks``. Raises InvalidFilter for values that cannot be read."""
    dangling = _dangling(filters.get("dangling"))
    kinds = filters.get("type")
    for kind in kinds:
        if kind not in ("builtin", "custom"):
            raise InvalidFilter(f"invalid filter: 'type'='{kind}'")

    def matches(view: NetworkView) -> bool:
        network = view.network
        predefined = network.name in PREDEFINED
        if dangling is not None and dangling == (predefined or bool(view.containers)):
            return False
        if kinds and ("builtin" if predefined else "custom") not in kinds:
            return False
        return (
            filters.exact("driver", network.driver)
            and filters.pattern("name", network.name)
            and filters.pattern("id", network.id)
            and filters.labels("label", network.labels)
            and filters.exact("scope", network.scope)
        )

    return matches


def _dangling(values: Sequence[str]) -> bool | None:
    if not values:
        return None
    if len(values) > 1:
        raise InvalidFilter('got more than one value for filter key "dangling"')
    if values[0] in ("1", "true"):
        return True
    if values[0] in ("0", "false"):
        return False
    raise InvalidFilter('invalid value for filter \'dangling\', must be "true" (or "1"), or "false" (or "0")')


def _require_possible(request: NetworkRequest) -> None:
    """Raises Forbidden, InvalidArgument or NotImplementedYet for what can never be made."""
    if not request.name.strip():
        raise InvalidArgument("invalid name: name is empty")
    if request.name in (*PREDEFINED, "default"):
        raise Forbidden(f"operation is not permitted on predefined {request.name} network ")
    if request.config_only or request.config_from:
        raise NotImplementedYet("configuration-only networks are not implemented yet")
    if request.ingress or request.scope == "swarm" or request.driver == "overlay":
        raise NotImplementedYet("networks that span several machines are not implemented yet")
    if request.ipam_driver not in ("", "default"):
        raise NotImplementedYet(f"IPAM driver {request.ipam_driver} is not implemented yet")
    for pool in request.pools:
        _require_sound(pool)


def _require_sound(pool: IPAMPool) -> None:
    if not pool.subnet:
        if pool.gateway or pool.ip_range or pool.auxiliary_addresses:
            raise InvalidArgument("invalid network config: a subnet is needed with gateway or ip-range")
        return
    subnet = parse_network(pool.subnet)
    if str(subnet) != pool.subnet.lower():
        raise InvalidNetworkSetting(
            f"invalid network config:\ninvalid subnet {pool.subnet}: it should be {subnet}"
        )
    for what, text in (("gateway", pool.gateway), ("ip-range", pool.ip_range)):
        if text and parse_network(text).network_address not in subnet:
            shown = f"invalid {what} {text}: parent subnet {subnet} doesn't contain this address"
            raise InvalidNetworkSetting(f"invalid network config:\n{shown}")
