"""The drivers macvlan and ipvlan: containers are neighbours of the host's neighbours, on one of its devices.

Nothing of such a network is on the host but, where a VLAN is asked for, the sub-device. Its containers and
the host do not reach each other, which is how these devices work (ip-link(8)).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from sampan.kernel import links
from sampan.kernel.netlink import IPVLAN_FLAGS, IPVLAN_MODES, MACVLAN_MODES, NetlinkSocket
from sampan.model.container import Endpoint, EndpointConfig
from sampan.model.launch import Interface
from sampan.model.network import Network

from .addresses import NetworkAddresses, Subnets, with_prefixes
from .driver import Attached, PortPolicy
from .errors import DeviceFailed, InvalidNetworkSetting
from .options import read_mac, read_mtu, require_device_name

_OPTIONS = {
    "macvlan": ("parent", "macvlan_mode"),
    "ipvlan": ("parent", "ipvlan_mode", "ipvlan_flag"),
}


@dataclass(slots=True)
class _Live:
    parent: str
    mode: str
    mtu: int
    addresses: NetworkAddresses
    owned: bool
    """The parent was made here: a VLAN's sub-device, or a stand-in where none was named."""


class PartDriver:
    """One of ``macvlan`` and ``ipvlan``."""

    def __init__(
        self, kind: str, subnets: Subnets, *, alias: str, random_bytes: Callable[[int], bytes] = os.urandom
    ) -> None:
        """``alias`` marks the devices made here."""
        self.name = kind
        self._subnets = subnets
        self._alias = alias
        self._random = random_bytes
        self._live: dict[str, _Live] = {}

    def create(self, network: Network) -> Network:
        mode = self._mode(network)
        named = network.options.get("parent", "")
        # without a parent its containers reach each other only: a device that leads nowhere carries them
        parent = named or f"dm-{network.id[:12]}"
        require_device_name("parent", parent)
        self._require_alone(network, parent, mode)
        try:
            with NetlinkSocket() as route:
                pools = self._subnets.complete(network, route, name=parent)
                network = msgspec.structs.replace(network, pools=pools)
                mtu, owned = self._ensure_parent(route, parent, is_named=bool(named))
        except OSError as error:
            raise DeviceFailed(f"failed to set up {self.name} parent {parent}: {error.strerror}") from error
        if not named:
            network = msgspec.structs.replace(network, internal=True)
        self._subnets.keep(network)
        self._live[network.id] = _Live(
            parent, mode, read_mtu(network.options, mtu), NetworkAddresses(network), owned
        )
        return network

    def _mode(self, network: Network) -> str:
        """As the kernel's interface takes it. Raises InvalidNetworkSetting."""
        options = network.options
        for key in options:
            if not key.startswith("com.docker.network.") and key not in _OPTIONS[self.name]:
                raise InvalidNetworkSetting(f"unknown option {key!r} of the driver {self.name}")
        if self.name == "macvlan":
            mode = options.get("macvlan_mode") or "bridge"
            _require_one_of("macvlan_mode", mode, MACVLAN_MODES)
            return mode
        layer, flag = options.get("ipvlan_mode") or "l2", options.get("ipvlan_flag") or "bridge"
        _require_one_of("ipvlan_mode", layer, IPVLAN_MODES)
        _require_one_of("ipvlan_flag", flag, IPVLAN_FLAGS)
        return f"{layer} {flag}"

    def _require_alone(self, network: Network, parent: str, mode: str) -> None:
        """A device can be passed through to one container only, so to one network only."""
        for id_, other in self._live.items():
            if id_ != network.id and other.parent == parent and "passthru" in (mode, other.mode):
                raise InvalidNetworkSetting(
                    f"network di-{id_[:12]} is already using parent interface {parent}"
                )

    def _ensure_parent(self, route: NetlinkSocket, parent: str, *, is_named: bool) -> tuple[int, bool]:
        """Its MTU, and whether it is ours. Raises InvalidNetworkSetting, OSError."""
        present = links.find_link(route, parent)
        if present is not None:
            if present.kind in ("macvlan", "ipvlan"):
                raise InvalidNetworkSetting(
                    f"parent interface {parent} is itself a {present.kind}: use its parent"
                )
            return present.mtu, present.alias == self._alias
        if not is_named:
            links.create_stand_in(route, parent, self._alias)
            return 1500, True
        above, dot, vlan = parent.rpartition(".")
        if not dot or not vlan.isdigit() or not 0 < int(vlan) < 4095:
            raise InvalidNetworkSetting(
                f"invalid parent interface {parent}: no such device; <device>.<vlan id> makes a VLAN's"
            )
        found = links.find_link(route, above)
        if found is None:
            raise InvalidNetworkSetting(f"invalid parent interface {parent}: there is no device {above}")
        links.create_vlan(route, parent, found.ifindex, int(vlan), self._alias)
        return found.mtu, True

    def remove(self, network: Network) -> None:
        live = self._live.pop(network.id, None)
        if live is None:
            return
        self._subnets.forget(network.id)
        if live.owned and not any(other.parent == live.parent for other in self._live.values()):
            try:
                with NetlinkSocket() as route:
                    links.delete_link(route, live.parent)
            except OSError as error:
                raise DeviceFailed(f"failed to remove {live.parent}: {error.strerror}") from error

    def attach(self, network: Network, endpoint_id: str, config: EndpointConfig) -> Attached:
        live = self._require(network)
        mac = read_mac(config.mac_address)
        if mac and self.name == "ipvlan":
            raise InvalidNetworkSetting("ipvlan interfaces have their parent's MAC address: leave it out")
        endpoint = live.addresses.take(endpoint_id, config)
        if self.name == "macvlan":
            chosen = mac or (b"\x02\x42" + self._random(4)).hex(":")
            endpoint = msgspec.structs.replace(endpoint, mac_address=chosen)
        routed = live.mode.startswith("l3")
        if routed:  # there is nobody to ask at layer 2
            endpoint = msgspec.structs.replace(endpoint, gateway="", ipv6_gateway="")
        way_out = not network.internal
        interface = Interface(
            kind=self.name,
            parent=live.parent,
            host_name=f"part{endpoint_id[:10]}",
            mode=live.mode,
            mac=endpoint.mac_address,
            mtu=live.mtu,
            addresses=with_prefixes(endpoint, config),
            gateway4="dev" if routed and endpoint.ip_address and way_out else endpoint.gateway,
            gateway6="dev" if routed and endpoint.global_ipv6_address and way_out else endpoint.ipv6_gateway,
        )
        return Attached(endpoint=endpoint, link=interface)

    def port_policy(self, network: Network) -> PortPolicy:
        return PortPolicy()

    def detach(self, network: Network, endpoint: Endpoint) -> None:
        live = self._live.get(network.id)
        if live is not None:
            live.addresses.release(endpoint)

    def adopt(self, network: Network, endpoint: Endpoint) -> None:
        self._require(network).addresses.adopt(endpoint)

    def _require(self, network: Network) -> _Live:
        live = self._live.get(network.id)
        if live is None:
            raise DeviceFailed(f"network {network.name} is not set up: restart the daemon to do it again")
        return live


def _require_one_of(key: str, value: str, known: dict[str, int]) -> None:
    if value not in known:
        raise InvalidNetworkSetting(f"{key}: unknown value {value!r}: use one of {', '.join(known)}")
