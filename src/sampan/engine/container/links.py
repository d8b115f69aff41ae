"""Legacy ``--link``: entries in /etc/hosts and environment variables that name the other container."""

from __future__ import annotations

from collections.abc import Sequence

from sampan.base.errors import InvalidArgument
from sampan.base.ids import short_id
from sampan.model.container import Container, HostConfig

from .registry import Entry, Registry

_NOT_PASSED_ON = ("HOME", "PATH")


def parse_link(text: str) -> tuple[str, str]:
    """``name[:alias]`` as (name, alias)."""
    name, _, alias = text.partition(":")
    if not name:
        raise InvalidArgument(f"bad format for links: {text}")
    return name.removeprefix("/"), (alias.rpartition("/")[2] or name.removeprefix("/"))


def check_links(host: HostConfig, registry: Registry) -> None:
    """At create: the containers exist and can be linked to. Raises InvalidArgument with Docker's texts."""
    for text in host.links or ():
        name, _ = parse_link(text)
        other = registry.find(name)
        if other is None:
            raise InvalidArgument(f"could not get container for {name}: No such container: {name}")
        if other.record.host.network_mode == "host":
            raise InvalidArgument(
                "conflicting options: host type networking can't be used with links. "
                "This would result in undefined behavior"
            )


def resolve_links(record: Container, registry: Registry) -> list[tuple[str, Entry]]:
    """(alias, container) for each link. Raises InvalidArgument for unknown and for stopped ones."""
    resolved: list[tuple[str, Entry]] = []
    for text in record.host.links or ():
        name, alias = parse_link(text)
        other = registry.find(name)
        if other is None:
            raise InvalidArgument(f"could not get container for {name}")
        if other.life.phase not in ("running", "paused"):
            raise InvalidArgument(
                f"Cannot link to a non running container: /{other.name} AS /{record.name}/{alias}"
            )
        resolved.append((alias, other))
    return resolved


def aliases(registry: Registry) -> dict[str, list[str]]:
    """By container id: ``/web/db`` for each link that container ``web`` has to it as ``db``."""
    found: dict[str, list[str]] = {}
    for entry in registry.linking.values():
        for text in entry.record.host.links or ():
            name, alias = parse_link(text)
            other = registry.find(name)
            if other is not None:
                found.setdefault(other.id, []).append(f"/{entry.name}/{alias}")
    return found


def link_address(entry: Entry) -> str:
    endpoints = entry.run.endpoints.values() if entry.run is not None else ()
    return next((endpoint.ip_address for endpoint in endpoints if endpoint.ip_address), "")


def link_hosts(linked: Sequence[tuple[str, Entry]]) -> list[tuple[str, str]]:
    """(address, names) for /etc/hosts."""
    entries = []
    for alias, entry in linked:
        names = dict.fromkeys((alias, short_id(entry.id), entry.name))
        entries.append((link_address(entry), " ".join(names)))
    return entries


def link_environment(record: Container, linked: list[tuple[str, Entry]]) -> list[str]:
    """``DB_PORT_5432_TCP=tcp://172.17.0.2:5432`` and its kin, as Docker makes them."""
    variables: list[str] = []
    for alias, entry in linked:
        prefix = alias.replace("-", "_").upper()
        address = link_address(entry)
        ports = sorted(_port_and_protocol(port) for port in entry.record.config.exposed_ports or ())
        if ports:
            number, protocol = ports[0]
            variables.append(f"{prefix}_PORT={protocol}://{address}:{number}")
        for number, protocol in ports:
            name = f"{prefix}_PORT_{number}_{protocol.upper()}"
            variables += (
                f"{name}={protocol}://{address}:{number}",
                f"{name}_ADDR={address}",
                f"{name}_PORT={number}",
                f"{name}_PROTO={protocol}",
            )
        variables.append(f"{prefix}_NAME=/{record.name}/{alias}")
        for variable in entry.record.config.env or ():
            key, equals, value = variable.partition("=")
            if equals and key not in _NOT_PASSED_ON:
                variables.append(f"{prefix}_ENV_{key}={value}")
    return variables


def _port_and_protocol(text: str) -> tuple[int, str]:
    number, _, protocol = text.partition("/")
    return int(number), protocol or "tcp"
