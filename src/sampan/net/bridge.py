"""The bridge driver: one Linux bridge for each network, with the host as its gateway."""

from __future__ import annotations

import hashlib
import ipaddress
import os
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from sampan.base.errors import SampanError
from sampan.kernel import links
from sampan.kernel.netlink import NetlinkSocket
from sampan.model.container import Endpoint, EndpointConfig, EndpointIPAMConfig
from sampan.model.launch import VethLink
from sampan.model.network import IPAMPool, Network

from .driver import Attached
from .errors import AddressOutOfRange, DeviceFailed, InvalidNetworkSetting, PoolExhausted, PoolOverlaps
from .firewall import QUIET_PREFIX, BridgeRules, Firewall
from .ipam import DEFAULT_POOLS, AddressPool, IPNetwork, choose_subnet, parse_network

OPTION_NAME = "com.docker.network.bridge.name"
OPTION_ICC = "com.docker.network.bridge.enable_icc"
OPTION_MASQUERADE = "com.docker.network.bridge.enable_ip_masquerade"
OPTION_HOST_ADDRESS = "com.docker.network.bridge.host_binding_ipv4"
OPTION_DEFAULT = "com.docker.network.bridge.default_bridge"
OPTION_MTU = "com.docker.network.driver.mtu"
AUX_GATEWAY4 = "DefaultGatewayIPv4"
AUX_GATEWAY6 = "DefaultGatewayIPv6"


@dataclass(slots=True)
class _Live:
    """A network whose bridge is up."""

    rules: BridgeRules
    mtu: int
    pool4: AddressPool | None = None
    pool6: AddressPool | None = None
    gateway4: str = ""
    """As containers see it."""
    gateway6: str = ""
    owned: bool = False


class BridgeDriver:
    name = "bridge"

    def __init__(
        self,
        firewall: Firewall,
        *,
        alias: str,
        ip_forward: bool = True,
        pools: tuple[IPNetwork, ...] = DEFAULT_POOLS,
        host_id: str = "",
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """``alias`` marks the bridges made here: a bridge with another one is used, never deleted.
        ``host_id`` is any text that differs between hosts."""
        self._host_id = host_id
        self._firewall = firewall
        self._alias = alias
        self._ip_forward = ip_forward
        self._pools = pools
        self._random = random_bytes
        self._live: dict[str, _Live] = {}

    def create(self, network: Network) -> Network:
        name = network.options.get(OPTION_NAME) or f"br-{network.id[:12]}"
        try:
            with NetlinkSocket() as route:
                present = links.find_link(route, name)
                has = links.list_addresses(route, present.ifindex) if present else []
                network = msgspec.structs.replace(network, pools=self._complete(network, has, route))
                live = self._plan(network, name)
                live.owned = present is None or present.alias == self._alias
                self._set_up(route, network, live, present)
        except OSError as error:
            raise DeviceFailed(f"failed to set up bridge {name}: {error.strerror}") from error
        self._live[network.id] = live
        self._firewall.add_bridge(live.rules)
        return network

    def _complete(self, network: Network, addresses: list[str], route: NetlinkSocket) -> list[IPAMPool]:
        """The network's pools with subnets and gateways filled in: as asked, else as an existing bridge has
        them, else the first pool that no route of the host overlaps."""
        pools: list[IPAMPool] = []
        for version in (4, 6):
            if not (network.enable_ipv4 if version == 4 else network.enable_ipv6):
                continue
            asked = _pool_of(network, version)
            if asked.subnet and self._overlaps(network, asked.subnet):
                raise PoolOverlaps("invalid pool request: Pool overlaps with other one on this address space")
            existing = next((text for text in addresses if _is_global(text, version)), "")
            if not asked.subnet and existing:
                subnet = str(parse_network(existing))
                asked = msgspec.structs.replace(
                    asked, subnet=subnet, gateway=asked.gateway or existing.partition("/")[0]
                )
            if not asked.subnet:
                asked = msgspec.structs.replace(asked, subnet=str(self._choose(version, network, route)))
            if not asked.gateway:
                first = int(parse_network(asked.subnet).network_address) + 1
                asked = msgspec.structs.replace(asked, gateway=_address_text(version, first))
            pools.append(asked)
        return pools

    def _overlaps(self, network: Network, subnet: str) -> bool:
        wanted = parse_network(subnet)
        others = (
            parse_network(text)
            for network_id, live in self._live.items()
            if network_id != network.id
            for text in live.rules.subnets
        )
        return any(other.version == wanted.version and other.overlaps(wanted) for other in others)

    def _choose(self, version: int, network: Network, route: NetlinkSocket) -> IPNetwork:
        if version == 6:
            return unique_local_subnet(self._host_id, network.options.get(OPTION_NAME) or network.id)
        taken = [parse_network(text) for text in (*links.list_routes(route), *links.list_addresses(route))]
        return choose_subnet(taken, self._pools)

    def _plan(self, network: Network, name: str) -> _Live:
        options = network.options
        live = _Live(
            rules=BridgeRules(
                name,
                masquerade=_flag(options, OPTION_MASQUERADE, True) and not network.internal,
                talking=_flag(options, OPTION_ICC, True),
                internal=network.internal,
                subnets=tuple(pool.subnet for pool in network.pools),
            ),
            mtu=_mtu(options),
        )
        for pool in network.pools:
            auxiliary = dict(pool.auxiliary_addresses or {})
            is_v6 = ":" in pool.subnet
            shown = auxiliary.get(AUX_GATEWAY6 if is_v6 else AUX_GATEWAY4, pool.gateway)
            made = AddressPool(pool.subnet, pool.ip_range, {pool.gateway, *auxiliary.values()} - {""})
            if is_v6:
                live.pool6, live.gateway6 = made, "" if network.internal else shown
            else:
                live.pool4, live.gateway4 = made, "" if network.internal else shown
        return live

    def _set_up(
        self, route: NetlinkSocket, network: Network, live: _Live, present: links.Link | None
    ) -> None:
        name = live.rules.name
        if present is not None and present.kind != "bridge":
            raise InvalidNetworkSetting(f"existing interface {name} is not a bridge")
        if present is not None:
            self._configure(route, network, live, present.ifindex)
            return
        mac = bytes([0x02, 0x42]) + self._random(4)
        index = links.create_bridge(route, name, mac=mac.hex(":"), mtu=live.mtu, alias=self._alias)
        try:
            self._configure(route, network, live, index)
        except OSError:
            links.delete_link(route, name)
            raise

    def _configure(self, route: NetlinkSocket, network: Network, live: _Live, index: int) -> None:
        name = live.rules.name
        self._write_sysctls(name, network)
        wanted = [f"{pool.gateway}/{parse_network(pool.subnet).prefixlen}" for pool in network.pools]
        for address in wanted:
            links.ensure_address(route, name, index, address)
        if live.owned:  # from a daemon with other settings
            for address in links.list_addresses(route, index):
                if address not in wanted and not ipaddress.ip_interface(address).is_link_local:
                    links.delete_address(route, name, index, address)
        links.set_up(route, name, index)
        if network.enable_ipv6:
            links.accept_loopback6(route, name, index)

    def _write_sysctls(self, name: str, network: Network) -> None:
        # Packets from 127.0.0.1 to a published port leave through the bridge.
        links.write_sysctl(f"net/ipv4/conf/{name}/route_localnet", "1")
        if self._ip_forward and not network.internal:
            links.write_sysctl("net/ipv4/ip_forward", "1")
        if links.has_ipv6():
            links.write_sysctl(f"net/ipv6/conf/{name}/disable_ipv6", "0" if network.enable_ipv6 else "1")
            if network.enable_ipv6:
                links.write_sysctl(f"net/ipv6/conf/{name}/accept_ra", "0")
                if self._ip_forward and not network.internal:
                    links.write_sysctl("net/ipv6/conf/all/forwarding", "1")

    def remove(self, network: Network) -> None:
        live = self._live.pop(network.id, None)
        if live is None:
            return
        self._firewall.remove_bridge(live.rules.name)
        if live.owned:
            try:
                with NetlinkSocket() as route:
                    links.delete_link(route, live.rules.name)
            except OSError as error:
                raise DeviceFailed(f"failed to remove bridge {live.rules.name}: {error.strerror}") from error

    def attach(self, network: Network, endpoint_id: str, config: EndpointConfig) -> Attached:
        live = self._require(network)
        wanted = config.ipam_config
        mac = _mac(config.mac_address) if config.mac_address else ""
        ipv4, ipv6 = self._take_addresses(network, live, wanted or EndpointIPAMConfig())
        endpoint = Endpoint(
            network_id=network.id,
            endpoint_id=endpoint_id,
            gateway=live.gateway4 if ipv4 else "",
            ip_address=ipv4,
            ip_prefix_len=live.pool4.prefix_length if live.pool4 else 0,
            ipv6_gateway=live.gateway6 if ipv6 else "",
            global_ipv6_address=ipv6,
            global_ipv6_prefix_len=live.pool6.prefix_length if live.pool6 else 0,
            mac_address=mac or self._mac_for(ipv4),
        )
        return Attached(endpoint=endpoint, link=self._link(live, endpoint), publishes=not network.internal)

    def _take_addresses(self, network: Network, live: _Live, wanted: EndpointIPAMConfig) -> tuple[str, str]:
        taken: list[str] = []
        for version, pool, asked in (
            (4, live.pool4, wanted.ipv4_address),
            (6, live.pool6, wanted.ipv6_address),
        ):
            try:
                taken.append(_take(network, version, pool, asked))
            except SampanError as error:
                if version == 6 and taken[0] and live.pool4 is not None:
                    live.pool4.release(taken[0])
                if isinstance(error, PoolExhausted):
                    raise PoolExhausted(
                        f"no available IPv{version} addresses on this network's address pools: "
                        f"{network.name} ({network.id})"
                    ) from None
                raise
        return taken[0], taken[1]

    def _link(self, live: _Live, endpoint: Endpoint) -> VethLink:
        addresses = []
        if endpoint.ip_address:
            addresses.append(f"{endpoint.ip_address}/{endpoint.ip_prefix_len}")
        if endpoint.global_ipv6_address:
            addresses.append(f"{endpoint.global_ipv6_address}/{endpoint.global_ipv6_prefix_len}")
        return VethLink(
            # Random, as the pair of a container's last run may still be on its way out.
            host_name=("veth" if live.rules.talking else QUIET_PREFIX) + self._random(4).hex()[:7],
            bridge=live.rules.name,
            mac=endpoint.mac_address,
            mtu=live.mtu,
            addresses=addresses,
            gateway4=endpoint.gateway,
            gateway6=endpoint.ipv6_gateway,
        )

    def _mac_for(self, ipv4: str) -> str:
        """From the address, so that an address never moves to another MAC and no neighbour has to learn
        one anew; random without IPv4. Locally administered (02)."""
        packed = ipaddress.IPv4Address(ipv4).packed if ipv4 else self._random(4)
        return (b"\x02\x42" + packed).hex(":")

    def detach(self, network: Network, endpoint: Endpoint) -> None:
        live = self._live.get(network.id)
        if live is None:
            return
        if live.pool4 is not None:
            live.pool4.release(endpoint.ip_address)
        if live.pool6 is not None:
            live.pool6.release(endpoint.global_ipv6_address)

    def adopt(self, network: Network, endpoint: Endpoint) -> None:
        live = self._require(network)
        if live.pool4 is not None and endpoint.ip_address:
            live.pool4.adopt(endpoint.ip_address)
        if live.pool6 is not None and endpoint.global_ipv6_address:
            live.pool6.adopt(endpoint.global_ipv6_address)

    def _require(self, network: Network) -> _Live:
        live = self._live.get(network.id)
        if live is None:
            raise DeviceFailed(f"network {network.name} has no bridge; restart the daemon to make it again")
        return live


def unique_local_subnet(host_id: str, network_name: str) -> ipaddress.IPv6Network:
    """RFC 4193, 3.2.2: unlikely to be another host's, and the same after every start."""
    digest = hashlib.sha256(f"{host_id}/{network_name}".encode()).digest()
    return ipaddress.IPv6Network((bytes([0xFD]) + digest[:7] + bytes(8), 64))


def _take(network: Network, version: int, pool: AddressPool | None, asked: str) -> str:
    if pool is not None:
        return pool.claim(asked) if asked else pool.allocate()
    if asked:
        raise AddressOutOfRange(f"network {network.name} has no IPv{version} addresses")
    return ""


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


def _flag(options: dict[str, str], key: str, default: bool) -> bool:
    text = options.get(key, "")
    if not text:
        return default
    if text.lower() in ("1", "t", "true"):
        return True
    if text.lower() in ("0", "f", "false"):
        return False
    raise InvalidNetworkSetting(f"{key}: invalid boolean {text!r}")


def _mtu(options: dict[str, str]) -> int:
    text = options.get(OPTION_MTU, "") or "1500"
    if not text.isdigit() or not 0 <= int(text) <= 65535:
        raise InvalidNetworkSetting(f"{OPTION_MTU}: invalid MTU {text!r}")
    return int(text) or 1500


def _mac(text: str) -> str:
    parts = text.replace("-", ":").split(":")
    if len(parts) != 6 or not all(len(part) == 2 for part in parts):
        raise InvalidNetworkSetting(f"invalid MAC address: {text}")
    try:
        return bytes.fromhex("".join(parts)).hex(":")
    except ValueError as error:
        raise InvalidNetworkSetting(f"invalid MAC address: {text}") from error
