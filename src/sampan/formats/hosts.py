"""/etc/hosts of a container, in the form Docker Engine 28 gives it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import ip_address

HOST_GATEWAY = "host-gateway"

_IPV4_DEFAULTS = "127.0.0.1\tlocalhost\n"
_IPV6_DEFAULTS = (
    "::1\tlocalhost ip6-localhost ip6-loopback\n"
    "fe00::\tip6-localnet\n"
    "ff00::\tip6-mcastprefix\n"
    "ff02::1\tip6-allnodes\n"
    "ff02::2\tip6-allrouters\n"
)


def parse_extra_host(text: str) -> tuple[str, str]:
    """``name:address`` (an IPv6 address may be in brackets) as (name, address); the address may be
    ``host-gateway``. Raises ValueError with Docker's text."""
    name, colon, address = text.partition(":")
    if not colon or not name:
        raise ValueError(f'bad format for add-host: "{text}"')
    if address == HOST_GATEWAY:
        return name, address
    if len(address) > 2 and address[0] == "[" and address[-1] == "]":
        address = address[1:-1]
    try:
        return name, str(ip_address(address))
    except ValueError:
        raise ValueError(f'invalid IP address in add-host: "{address}"') from None


def resolve_extra_hosts(extra: Iterable[str], gateways: Sequence[str]) -> list[tuple[str, str]]:
    """Each ``name:address`` as (address, name), ``host-gateway`` becoming one entry for each of
    ``gateways``. Raises ValueError."""
    records: list[tuple[str, str]] = []
    for text in extra:
        name, address = parse_extra_host(text)
        if address != HOST_GATEWAY:
            records.append((address, name))
            continue
        if not gateways:
            raise ValueError("unable to derive the IP value for host-gateway")
        records.extend((gateway, name) for gateway in gateways)
    return records


def render_hosts(
    *,
    hostname: str = "",
    domainname: str = "",
    addresses: Iterable[str] = (),
    extra: Iterable[tuple[str, str]] = (),
    ipv6: bool = True,
) -> str:
    """The whole file. ``addresses`` are the container's own, ``extra`` are (address, names).

    Without ``ipv6`` nothing that needs it is listed.
    """
    lines = [_IPV4_DEFAULTS]
    if ipv6:
        lines.append(_IPV6_DEFAULTS)
    names = own_names(hostname, domainname)
    records = [*extra, *((address, names) for address in addresses if address and names)]
    lines.extend(f"{address}\t{text}\n" for address, text in records if ipv6 or ":" not in address)
    return "".join(lines)


def own_names(hostname: str, domainname: str) -> str:
    """``web.example.org web``: the full name and, where it has dots, the first part."""
    full = f"{hostname}.{domainname}" if domainname else hostname
    short, dot, _ = full.partition(".")
    return f"{full} {short}" if dot else full
