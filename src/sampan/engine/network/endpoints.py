"""What may be asked of a container's place in a network: pure, with Docker's texts."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address

from sampan.base.errors import InvalidArgument
from sampan.model.container import EndpointConfig

_PREDEFINED = ("bridge", "host", "none", "default")


def require_usable(networks: Mapping[str, EndpointConfig]) -> None:
    """Raises InvalidArgument naming the network and everything that is wrong with its settings."""
    for name, config in networks.items():
        problems = _problems(name, config)
        if problems:
            listed = "\n".join(problems)
            raise InvalidArgument(f"invalid config for network {name}: invalid endpoint settings:\n{listed}")


def _problems(name: str, config: EndpointConfig) -> list[str]:
    problems: list[str] = []
    wanted = config.ipam_config
    ipv4 = wanted.ipv4_address if wanted is not None else ""
    ipv6 = wanted.ipv6_address if wanted is not None else ""
    link_local = (wanted.link_local_ips or []) if wanted is not None else []
    if name in _PREDEFINED or name.startswith("container:"):
        if ipv4 or ipv6:
            problems.append("user specified IP address is supported on user defined networks only")
        if config.aliases:
            problems.append("network-scoped alias is supported only for containers in user defined networks")
    if ipv4 and _version(ipv4) != 4:
        problems.append(f"invalid IPv4 address: {ipv4}")
    if ipv6 and _version(ipv6) != 6:
        problems.append(f"invalid IPv6 address: {ipv6}")
    problems.extend(f"invalid link-local IP address: {text}" for text in link_local if not _version(text))
    return problems


def _version(text: str) -> int:
    """4 or 6; 0 when it is no address."""
    try:
        return ip_address(text).version
    except ValueError:
        return 0
