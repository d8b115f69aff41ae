"""The addresses of networks: which subnet a network gets, and who has which address in it.

One :class:`Subnets` serves all drivers, so that no two networks of a daemon share a subnet.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Sequence

import msgspec

from sampan.base.errors import SampanError
from sampan.kernel import links
from sampan.kernel.netlink import NetlinkSocket
from sampan.model.container import Endpoint, EndpointConfig, EndpointIPAMConfig
from sampan.model.network import IPAMPool, Network

from .errors import AddressOutOfRange, PoolExhausted, PoolOverlaps
from .ipam import DEFAULT_POOLS, AddressPool, IPNetwork, SubnetPools, choose_subnet, parse_network

AUX_GATEWAY4 = "DefaultGatewayIPv4"
AUX_GATEWAY6 = "DefaultGatewayIPv6"


class Subnets:
    """Who has which subnet, and where new ones come from."""

    def __init__(self, pools: SubnetPools = DEFAULT_POOLS, host_id: str = "") -> None:
        """``host_id`` is any text that differs between hosts."""
        self._pools = pools
        self._host_id = host_id
        self._kept: dict[str, tuple[IPNetwork, ...]] = {}

    def complete(
        self, network: Network, route: NetlinkSocket, existing: Sequence[str] = (), name: str = ""
    ) -> list[IPAMPool]:
        """The network's pools with subnets and gateways filled in: as asked, else as the addresses
        ``existing`` on its device have them, else the first pool that no route of the host meets. IPv6
        subnets follow from ``name``, by default the network's id. Raises PoolOverlaps, PoolExhausted."""
        pools: list[IPAMPool] = []
        for version, wanted in ((4, network.enable_ipv4), (6, network.enable_ipv6)):
            if not wanted:
                continue
            asked = _pool_of(network, version)
            if asked.subnet and self._overlaps(network.id, parse_network(asked.subnet)):
                raise PoolOverlaps("invalid pool request: Pool overlaps with other one on this address space")
            present = next((text for text in existing if _is_global(text, version)), "")
            if not asked.subnet and present:
                subnet = str(parse_network(present))
                asked = msgspec.structs.replace(
                    asked, subnet=subnet, gateway=asked.gateway or present.partition("/")[0]
                )
            if not asked.subnet:
                chosen = self._choose(version, name or network.id, route)
                asked = msgspec.structs.replace(asked, subnet=str(chosen))
            if not asked.gateway:
                first = int(parse_network(asked.subnet).network_address) + 1
                asked = msgspec.structs.replace(asked, gateway=_address_text(version, first))
            pools.append(asked)
        return pools

    def keep(self, network: Network) -> None:
        """From now on its subnets are taken."""
        self._kept[network.id] = tuple(parse_network(pool.subnet) for pool in network.pools)

    def forget(self, network_id: str) -> None:
        """Idempotent."""
        self._kept.pop(network_id, None)

    def _others(self, network_id: str) -> Iterable[IPNetwork]:
        return (one for id_, kept in self._kept.items() if id_ != network_id for one in kept)

    def _overlaps(self, network_id: str, wanted: IPNetwork) -> bool:
        others = self._others(network_id)
        return any(other.version == wanted.version and other.overlaps(wanted) for other in others)

    def _choose(self, version: int, name: str, route: NetlinkSocket) -> IPNetwork:
        pools = [pool for pool in self._pools if pool[0].version == version]
        if version == 6 and not pools:
            return unique_local_subnet(self._host_id, name)
        on_host = (*links.list_routes(route), *links.list_addresses(route))
        taken = [*map(parse_network, on_host), *self._others("")]
        return choose_subnet(taken, pools)


class NetworkAddresses:
    """The pools of one network, as of its record with all pools complete."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self.pool4: AddressPool | None = None
        self.pool6: AddressPool | None = None
        self.gateway4 = self.gateway6 = ""
        """As containers see them."""
        for pool in network.pools:
            auxiliary = dict(pool.auxiliary_addresses or {})
            is_v6 = ":" in pool.subnet
            shown = auxiliary.get(AUX_GATEWAY6 if is_v6 else AUX_GATEWAY4, pool.gateway)
            made = AddressPool(pool.subnet, pool.ip_range, {pool.gateway, *auxiliary.values()} - {""})
            gateway = "" if network.internal else shown
            if is_v6:
                self.pool6, self.gateway6 = made, gateway
            else:
                self.pool4, self.gateway4 = made, gateway

    def take(self, endpoint_id: str, config: EndpointConfig) -> Endpoint:
        """An endpoint without MAC address. Raises AddressInUse, AddressOutOfRange, PoolExhausted."""
        wanted = config.ipam_config or EndpointIPAMConfig()
        ipv4 = self._take(4, self.pool4, wanted.ipv4_address)
        try:
            ipv6 = self._take(6, self.pool6, wanted.ipv6_address)
        except SampanError:
            if self.pool4 is not None:
                self.pool4.release(ipv4)
            raise
        return Endpoint(
            network_id=self._network.id,
            endpoint_id=endpoint_id,
            gateway=self.gateway4 if ipv4 else "",
            ip_address=ipv4,
            ip_prefix_len=self.pool4.prefix_length if self.pool4 else 0,
            ipv6_gateway=self.gateway6 if ipv6 else "",
            global_ipv6_address=ipv6,
            global_ipv6_prefix_len=self.pool6.prefix_length if self.pool6 else 0,
        )

    def _take(self, version: int, pool: AddressPool | None, asked: str) -> str:
        network = self._network
        try:
            if pool is not None:
                return pool.claim(asked) if asked else pool.allocate()
        except PoolExhausted:
            raise PoolExhausted(
                f"no available IPv{version} addresses on this network's address pools: "
                f"{network.name} ({network.id})"
            ) from None
        if asked:
            raise AddressOutOfRange(f"network {network.name} has no IPv{version} addresses")
        return ""

    def release(self, endpoint: Endpoint) -> None:
        """Idempotent."""
        if self.pool4 is not None:
            self.pool4.release(endpoint.ip_address)
        if self.pool6 is not None:
            self.pool6.release(endpoint.global_ipv6_address)

    def adopt(self, endpoint: Endpoint) -> None:
        """Count the addresses of an endpoint that already exists as taken."""
        if self.pool4 is not None and endpoint.ip_address:
            self.pool4.adopt(endpoint.ip_address)
        if self.pool6 is not None and endpoint.global_ipv6_address:
            self.pool6.adopt(endpoint.global_ipv6_address)


def with_prefixes(endpoint: Endpoint, config: EndpointConfig) -> list[str]:
    """The addresses for an interface, ``172.17.0.2/16``; link-local ones that were asked for come last."""
    addresses = []
    if endpoint.ip_address:
        addresses.append(f"{endpoint.ip_address}/{endpoint.ip_prefix_len}")
    if endpoint.global_ipv6_address:
        addresses.append(f"{endpoint.global_ipv6_address}/{endpoint.global_ipv6_prefix_len}")
    wanted = config.ipam_config or EndpointIPAMConfig()
    # RFC 4291, 2.5.6; RFC 3927, 2.1
    return addresses + [f"{text}/{64 if ':' in text else 16}" for text in wanted.link_local_ips or ()]


def unique_local_subnet(host_id: str, network_name: str) -> ipaddress.IPv6Network:
    """RFC 4193, 3.2.2: unlikely to be another host's, and the same after every start."""
    digest = hashlib.sha256(f"{host_id}/{network_name}".encode()).digest()
    return ipaddress.IPv6Network((bytes([0xFD]) + digest[:7] + bytes(8), 64))


def _pool_of(network: Network, version: int) -> IPAMPool:
    """The first pool of that family; one without a subnet counts as IPv4, as in Docker's API."""
    for pool in network.pools:
        text = pool.subnet or pool.gateway or pool.ip_range
        if (":" in text) == (version == 6):
            return pool
    return IPAMPool()


def _is_global(address: str, version: int) -> bool:
    parsed = ipaddress.ip_interface(address)
    return parsed.version == version and not parsed.is_link_local


def _address_text(version: int, number: int) -> str:
    return str(ipaddress.IPv4Address(number) if version == 4 else ipaddress.IPv6Address(number))
