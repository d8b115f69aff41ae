"""Ports as Docker writes them: ``80/tcp``, ``8000-8010``."""

from __future__ import annotations

PROTOCOLS = ("tcp", "udp", "sctp")


def parse_port(text: str) -> tuple[int, str]:
    """``80/tcp`` or ``80`` as (80, "tcp"). Raises ValueError with Docker's text."""
    number, _, protocol = text.partition("/")
    protocol = protocol.lower() or "tcp"
    if protocol not in PROTOCOLS:
        raise ValueError(f"invalid proto: {protocol}")
    port = _number(number)
    if port is None:
        raise ValueError(f"invalid containerPort: {number}")
    return port, protocol


def parse_range(text: str) -> tuple[int, int]:
    """``8080`` or ``8000-8010`` as first and last port; an empty text or 0 is (0, 0): any.

    Raises ValueError with Docker's text.
    """
    if text in ("", "0"):
        return 0, 0
    first_text, dash, last_text = text.partition("-")
    first = _number(first_text)
    last = _number(last_text) if dash else first
    if first is None or last is None:
        raise ValueError(f"invalid hostPort: {text}")
    if last < first:
        raise ValueError(f"invalid range specified for port: {text}")
    return first, last


def format_port(port: int, protocol: str) -> str:
    return f"{port}/{protocol}"


def join_host_port(address: str, port: int | str) -> str:
    """``0.0.0.0:80`` and ``[::]:80``."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _number(text: str) -> int | None:
    if not (text.isascii() and text.isdigit()):
        return None
    number = int(text)
    return number if 0 < number <= 65535 else None
