"""The networks of ``run`` and ``create``: --network in both forms and the older options beside it."""

from __future__ import annotations

from sampan.cli import runvalues
from sampan.cli.options import Values
from sampan.cli.runvalues import Network

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Json = dict[str, Any]

_BUILT_IN = ("default", "bridge", "host", "none")


def network_mode(values: Values) -> str:
    networks: list[Network] = values.many("network")
    return networks[0].target if networks else "default"


def is_user_defined(name: str) -> bool:
    return name not in _BUILT_IN and not name.startswith("container:")


def endpoints(values: Values) -> dict[str, Json]:
    """EndpointsConfig. Raises ValueError for options that exclude each other."""
    networks = values.many("network")
    if not networks:
        default = Network("default")
        _add_old_options(default, values)
        return {"default": _endpoint(default)}
    kinds = {is_user_defined(network.target) for network in networks}
    _add_old_options(networks[0], values)
    result: dict[str, Json] = {}
    for network in networks:
        endpoint = _endpoint(network)
        if network.target in result:
            raise ValueError(f'network "{network.target}" is specified multiple times')
        result[network.target] = endpoint
    if len(kinds) > 1:
        raise ValueError(
            "conflicting options: cannot attach both user-defined and non-user-defined network-modes"
        )
    if len(networks) == 1 and _is_plain(network := networks[0]):
        del result[network.target]  # the daemon makes it from NetworkMode
    return result


def _is_plain(network: Network) -> bool:
    return not (
        network.aliases
        or network.driver_options
        or network.links
        or network.ipv4
        or network.ipv6
        or network.link_local
        or network.mac
        or network.gateway_priority
    )


def _add_old_options(network: Network, values: Values) -> None:
    aliases = values.many("network-alias")
    links = values.many("link")
    for old, new, text in (
        (aliases, network.aliases, "--network-alias and per-network alias"),
        (links, network.links, "--link and per-network links"),
        (values.text("ip"), network.ipv4, "--ip and per-network IPv4 address"),
        (values.text("ip6"), network.ipv6, "--ip6 and per-network IPv6 address"),
        (values.text("mac-address"), network.mac, "--mac-address and per-network MAC address"),
        (
            values.many("link-local-ip"),
            network.link_local,
            "--link-local-ip and per-network link-local IP addresses",
        ),
    ):
        if old and new:
            raise ValueError(f"conflicting options: cannot specify both {text}")
    network.aliases = aliases or network.aliases
    if is_user_defined(network.target):
        network.links = links or network.links
    network.ipv4 = values.text("ip") or network.ipv4
    network.ipv6 = values.text("ip6") or network.ipv6
    network.mac = values.text("mac-address") or network.mac
    network.link_local = values.many("link-local-ip") or network.link_local


def _endpoint(network: Network) -> Json:
    if not network.target.strip():
        raise ValueError("no name set for network")
    if not is_user_defined(network.target):
        if network.aliases:
            raise ValueError("network-scoped aliases are only supported for user-defined networks")
        if network.links:
            raise ValueError("links are only supported for user-defined networks")
    if network.mac:
        runvalues.mac_address(network.mac)
    ipam: Json = {}
    if network.ipv4:
        ipam["IPv4Address"] = network.ipv4
    if network.ipv6:
        ipam["IPv6Address"] = network.ipv6
    if network.link_local:
        ipam["LinkLocalIPs"] = network.link_local
    return {
        "IPAMConfig": ipam or None,
        "Links": network.links or None,
        "Aliases": network.aliases or None,
        "MacAddress": network.mac,
        "DriverOpts": network.driver_options or None,
        "GwPriority": network.gateway_priority,
        "NetworkID": "",
        "EndpointID": "",
        "Gateway": "",
        "IPAddress": "",
        "IPPrefixLen": 0,
        "IPv6Gateway": "",
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "DNSNames": None,
    }
