"""``--publish`` and ``--expose``: ``[[IP:][HOST]:]CONTAINER[/PROTOCOL]`` with ranges."""

from __future__ import annotations

PROTOCOLS = ("tcp", "udp", "sctp")


def parse_range(text: str) -> tuple[int, int]:
    """First and last port of ``80`` or ``8000-8010``. Raises ValueError."""
    if not text:
        raise ValueError("empty string specified for ports")
    first_text, mark, last_text = text.partition("-")
    first = _port(first_text)
    last = _port(last_text.partition("-")[0]) if mark else first
    if last < first:
        raise ValueError(f"invalid range specified for port: {text}")
    return first, last


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f'strconv.ParseUint: parsing "{text}": invalid syntax')
    value = int(text)
    if value > 65535:
        raise ValueError(f'strconv.ParseUint: parsing "{text}": value out of range')
    return value


def split_protocol(text: str) -> tuple[str, str]:
    """Port and protocol of ``53/udp``; tcp when there is none."""
    port, _, rest = text.partition("/")
    protocol = rest.partition("/")[0]
    return (port, protocol or "tcp") if port else ("", "")


def _is_address(text: str) -> bool:
    import _socket

    for family in (_socket.AF_INET, _socket.AF_INET6):
        try:
            _socket.inet_pton(family, text)
        except OSError:
            continue
        return True
    return False


def _split(spec: str) -> tuple[str, str, str]:
    parts = spec.split(":")
    if len(parts) == 1:
        return "", "", parts[0]
    if len(parts) == 2:
        return "", parts[0], parts[1]
    return ":".join(parts[:-2]), parts[-2], parts[-1]


def _host_address(text: str) -> str:
    if text.startswith("["):
        if not text.endswith("]"):
            raise ValueError(f"invalid IP address {text}: address {text}:: missing ']' in address")
        text = text[1:-1]
    if text and not _is_address(text):
        raise ValueError(f"invalid IP address: {text}")
    return text


def parse_publish(spec: str) -> list[tuple[str, str, str]]:
    """``(container port with protocol, host address, host port or range)`` of each. Raises ValueError."""
    address_text, host_text, container_text = _split(spec)
    port_text, protocol = split_protocol(container_text)
    address = _host_address(address_text)
    if not port_text:
        raise ValueError(f"no port specified: {spec}<empty>")
    try:
        first, last = parse_range(port_text)
    except ValueError:
        raise ValueError(f"invalid containerPort: {port_text}") from None
    host_first = host_last = 0
    if host_text:
        try:
            host_first, host_last = parse_range(host_text)
        except ValueError:
            raise ValueError(f"invalid hostPort: {host_text}") from None
        if last - first != host_last - host_first and first != last:
            raise ValueError(
                f"invalid ranges specified for container and host Ports: {port_text} and {host_text}"
            )
    if protocol.lower() not in PROTOCOLS:
        raise ValueError(f"invalid proto: {protocol}")
    mappings = []
    for offset in range(last - first + 1):
        host = str(host_first + offset) if host_text else ""
        if host and first == last and host_first != host_last:
            host = f"{host}-{host_last}"  # one container port, any host port of the range
        mappings.append((f"{first + offset}/{protocol.lower()}", address, host))
    return mappings


def from_long_form(spec: str) -> str:
    """``published=8080,target=80,protocol=udp`` as the short form. Raises ValueError."""
    if "=" not in spec:
        return spec
    fields = {"protocol": "tcp"}
    for field in spec.split(","):
        key, mark, value = field.partition("=")
        if not mark or not key:
            raise ValueError(f"invalid publish opts format (should be name=value but got '{field}')")
        fields[key] = value
    return f"{fields.get('published', '')}:{fields.get('target', '')}/{fields['protocol']}"


def parse_expose(spec: str) -> list[str]:
    """``80/tcp`` for each port of ``80-81``. Raises ValueError."""
    if ":" in spec:
        raise ValueError(f"invalid port format for --expose: {spec}")
    port_text, protocol = split_protocol(spec)
    try:
        first, last = parse_range(port_text)
    except ValueError as error:
        raise ValueError(f"invalid range format for --expose: {spec}, error: {error}") from None
    return [f"{port}/{protocol}" for port in range(first, last + 1)]
