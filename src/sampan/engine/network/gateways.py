"""Which of a container's networks leads out: pure, in Docker's order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from sampan.model.container import EndpointConfig
from sampan.model.network import Network

_WITH_GATEWAYS = ("bridge", "macvlan", "ipvlan")


class Gateways(msgspec.Struct, frozen=True, kw_only=True):
    """Names of networks; "" for none."""

    ipv4: str = ""
    ipv6: str = ""

    @property
    def ports(self) -> str:
        """Where published ports lead: to the network by which the container answers."""
        return self.ipv4 or self.ipv6


def choose_gateways(members: Mapping[str, EndpointConfig], networks: Sequence[Network]) -> Gateways:
    """By ``--gw-priority``, then those that lead out, then those with both IP versions, then by name
    (moby: libnetwork/sandbox.go, Endpoint.Less)."""

    def preference(network: Network) -> tuple[int, bool, int, str]:
        config = members.get(network.name, EndpointConfig())
        count = sum(has_gateway(network, version) for version in (4, 6))
        return -config.gw_priority, network.internal, -count, network.name

    ordered = sorted(networks, key=preference)
    return Gateways(
        ipv4=next((network.name for network in ordered if has_gateway(network, 4)), ""),
        ipv6=next((network.name for network in ordered if has_gateway(network, 6)), ""),
    )


def has_gateway(network: Network, version: int) -> bool:
    enabled = network.enable_ipv4 if version == 4 else network.enable_ipv6
    return enabled and not network.internal and network.driver in _WITH_GATEWAYS


def in_order(members: Mapping[str, EndpointConfig], mode: str) -> list[str]:
    """How interfaces are numbered: the default bridge, then the network of ``--network``, then by name."""
    return sorted(members, key=lambda name: (name != "bridge", name != mode, name))
