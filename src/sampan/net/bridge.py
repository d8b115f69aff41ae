"""The bridge driver: one Linux bridge for each network, with the host as its gateway."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable
from dataclasses import dataclass, replace

import msgspec

from sampan.kernel import links
from sampan.kernel.netlink import NetlinkSocket
from sampan.model.container import Endpoint, EndpointConfig
from sampan.model.launch import Interface
from sampan.model.network import Network

from .addresses import NetworkAddresses, Subnets, with_prefixes
from .driver import Attached, PortPolicy
from .errors import DeviceFailed, InvalidNetworkSetting
from .firewall import Firewall
from .ipam import parse_network
from .options import OPTION_NAME, BridgeOptions, read_bridge_options, read_limits, read_mac
from .ruleset import QUIET_PREFIX, BridgeRules
from .segments import PORTS, Segments


@dataclass(slots=True)
class _Live:
    """A network whose bridge is up."""

    network: Network
    options: BridgeOptions
    rules: BridgeRules
    addresses: NetworkAddresses
    owned: bool
    segments: Segments
    mac: str
    """Of the bridge. It stays when the bridge is made again: containers know their gateway by it."""
    index: int = 0
    """Of the bridge's interface."""


class BridgeDriver:
    name = "bridge"

    def __init__(
        self,
        firewall: Firewall,
        subnets: Subnets,
        *,
        alias: str,
        ip_forward: bool = True,
        ports_per_bridge: int = PORTS,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """``alias`` marks the bridges made here: a bridge with another one is used, never deleted."""
        self._firewall = firewall
        self._subnets = subnets
        self._alias = alias
        self._ip_forward = ip_forward
        self._ports_per_bridge = ports_per_bridge
        self._random = random_bytes
        self._live: dict[str, _Live] = {}
        self.changed: Callable[[], None] = lambda: None
        """Called when there is another set of bridges."""

    def indexes(self) -> list[int]:
        """Of the interfaces of all bridges, the newest first."""
        newest = list(reversed(self._live.values()))
        return [live.index for live in newest] + [
            index for live in newest for index in live.segments.indexes.values()
        ]

    def create(self, network: Network) -> Network:
        options = read_bridge_options(network.options, f"br-{network.id[:12]}", internal=network.internal)
        name = options.name
        read_limits(network.options, None)
        try:
            with NetlinkSocket() as route:
                present = links.find_link(route, name)
                has = links.list_addresses(route, present.ifindex) if present else []
                pools = self._subnets.complete(network, route, has, network.options.get(OPTION_NAME, ""))
                network = msgspec.structs.replace(network, pools=pools)
                live = _Live(
                    network=network,
                    options=options,
                    rules=bridge_rules(network, options),
                    addresses=NetworkAddresses(network),
                    mac=present.mac if present else (b"\x02\x42" + self._random(4)).hex(":"),
                    owned=present is None or present.alias == self._alias,
                    segments=Segments(
                        network.id,
                        name,
                        mtu=options.mtu,
                        alias=self._alias,
                        ports=self._ports_per_bridge,
                    ),
                )
                live.index = self._set_up(route, network, live, present)
                if present is not None:
                    live.segments.recover(route, live.index)
                    live.rules = replace(live.rules, segments=live.segments.bridges)
        except OSError as error:
            raise DeviceFailed(f"failed to set up bridge {name}: {error.strerror}") from error
        self._subnets.keep(network)
        self._live[network.id] = live
        self._firewall.add_bridge(live.rules)
        self.changed()
        return network

    def _set_up(self, route: NetlinkSocket, network: Network, live: _Live, present: links.Link | None) -> int:
        """The bridge's index."""
        name = live.options.name
        if present is not None and present.kind != "bridge":
            raise InvalidNetworkSetting(f"existing interface {name} is not a bridge")
        if present is not None:
            self._configure(route, network, live, present.ifindex)
            return present.ifindex
        index = links.create_bridge(route, name, mac=live.mac, mtu=live.options.mtu, alias=self._alias)
        try:
            self._configure(route, network, live, index)
        except OSError:
            links.delete_link(route, name)
            raise
        return index

    def _configure(self, route: NetlinkSocket, network: Network, live: _Live, index: int) -> None:
        name = live.options.name
        self._write_sysctls(name, network)
        wanted = _gateway_addresses(live)
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
        self.changed()
        self._subnets.forget(network.id)
        self._firewall.remove_bridge(live.options.name)
        try:
            with NetlinkSocket() as route:
                live.segments.remove(route)
                if live.owned:
                    links.delete_link(route, live.options.name)
        except OSError as error:
            raise DeviceFailed(f"failed to remove bridge {live.options.name}: {error.strerror}") from error

    def repair(self, endpoints: Callable[[str], list[Endpoint]]) -> bool:
        """Make bridges again that somebody has deleted, set down or taken the address of, and put the links
        of running containers back; ``endpoints`` of a network by id. Whether anything was wrong. Raises
        OSError."""
        repaired = False
        with NetlinkSocket() as route:
            present = {link.name: link for link in links.list_links(route)}
            for network_id, live in self._live.items():
                bridge = present.get(live.options.name)
                missing = bridge is None or not bridge.is_up
                if bridge is not None and not missing:
                    has = set(links.list_addresses(route, bridge.ifindex))
                    missing = not has.issuperset(_gateway_addresses(live))
                if missing:
                    live.index = self._set_up(route, live.network, live, bridge)
                    for endpoint in endpoints(network_id):
                        name = host_end(endpoint.endpoint_id, talking=live.rules.talking)
                        if name in present and live.segments.place_of(name) == live.options.name:
                            links.plug_again(route, name, live.index)
                    repaired = True
                repaired = live.segments.repair(route, present, live.index) or repaired
        if repaired:
            self.changed()
        return repaired

    def attach(self, network: Network, endpoint_id: str, config: EndpointConfig) -> Attached:
        live = self._require(network)
        mac = read_mac(config.mac_address)
        read_limits(network.options, config.driver_opts)  # refused before anything is taken
        endpoint = live.addresses.take(endpoint_id, config)
        endpoint = msgspec.structs.replace(endpoint, mac_address=mac or self._mac_for(endpoint.ip_address))
        try:
            bridge = self._place(live, endpoint)
        except DeviceFailed:
            live.addresses.release(endpoint)
            raise
        return Attached(endpoint=endpoint, link=self._interface(live, endpoint, config, bridge))

    def _place(self, live: _Live, endpoint: Endpoint) -> str:
        before = live.segments.bridges
        talking = live.rules.talking
        name = host_end(endpoint.endpoint_id, talking=talking)
        bridge = live.segments.place(name, live.index, may_grow=talking)
        if live.segments.bridges != before:
            live.rules = replace(live.rules, segments=live.segments.bridges)
            self._firewall.add_bridge(live.rules)
            self.changed()
        return bridge

    def port_policy(self, network: Network) -> PortPolicy:
        options = self._require(network).options
        routed = frozenset(version for version in (4, 6) if options.gateway_mode(version) == "routed")
        return PortPolicy(publishes=not network.internal, routed=routed)

    def _interface(self, live: _Live, endpoint: Endpoint, config: EndpointConfig, bridge: str) -> Interface:
        receive_limit, send_limit = read_limits(live.network.options, config.driver_opts)
        return Interface(
            host_name=host_end(endpoint.endpoint_id, talking=live.rules.talking),
            parent=bridge,
            mac=endpoint.mac_address,
            mtu=live.options.mtu,
            addresses=with_prefixes(endpoint, config),
            gateway4=endpoint.gateway,
            gateway6=endpoint.ipv6_gateway,
            receive_limit=receive_limit,
            send_limit=send_limit,
        )

    def _mac_for(self, ipv4: str) -> str:
        """From the address, so that an address never moves to another MAC and no neighbour has to learn
        one anew; random without IPv4. Locally administered (02)."""
        packed = ipaddress.IPv4Address(ipv4).packed if ipv4 else self._random(4)
        return (b"\x02\x42" + packed).hex(":")

    def detach(self, network: Network, endpoint: Endpoint) -> None:
        live = self._live.get(network.id)
        if live is not None:
            live.addresses.release(endpoint)
            live.segments.release(host_end(endpoint.endpoint_id, talking=live.rules.talking))

    def adopt(self, network: Network, endpoint: Endpoint) -> None:
        live = self._require(network)
        live.addresses.adopt(endpoint)
        live.segments.adopt(host_end(endpoint.endpoint_id, talking=live.rules.talking))

    def _require(self, network: Network) -> _Live:
        live = self._live.get(network.id)
        if live is None:
            raise DeviceFailed(f"network {network.name} has no bridge; restart the daemon to make it again")
        return live


def host_end(endpoint_id: str, *, talking: bool) -> str:
    """The name of the host's end of an endpoint's link. From its id, which is random and recorded: the link
    is found again, and the pair of the container's last run may still be on its way out."""
    return ("veth" if talking else QUIET_PREFIX) + endpoint_id[:7]


def _gateway_addresses(live: _Live) -> list[str]:
    """What the bridge has: containers' gateways, unless the network is isolated from the host."""
    return [
        f"{pool.gateway}/{parse_network(pool.subnet).prefixlen}"
        for pool in live.network.pools
        if live.options.gateway_mode(6 if ":" in pool.subnet else 4) != "isolated"
    ]


def bridge_rules(network: Network, options: BridgeOptions) -> BridgeRules:
    """What the firewall has to know of the network's bridge."""
    modes = {4: options.gateway_mode4, 6: options.gateway_mode6}
    return BridgeRules(
        options.name,
        masquerade4=options.masquerade and modes[4].startswith("nat"),
        masquerade6=options.masquerade and modes[6].startswith("nat"),
        unprotected4=modes[4] == "nat-unprotected",
        unprotected6=modes[6] == "nat-unprotected",
        talking=options.talking,
        internal=network.internal,
        subnets=tuple(pool.subnet for pool in network.pools),
    )
