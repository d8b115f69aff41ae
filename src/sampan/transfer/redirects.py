"""Where a redirect leads, and what may go along. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urljoin, urlsplit

from .errors import RegistryUnreachable

MAX_REDIRECTS = 8
_PORTS = {"http": 80, "https": 443}
_SECRETS = ("authorization", "cookie")


def is_redirect(method: str, status: int) -> bool:
    """Requests that send something are repeated elsewhere only where that is said plainly."""
    return status in (307, 308) or (status in (301, 302, 303) and method in ("GET", "HEAD"))


def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port. Raises ValueError for a port that is none."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0)


def next_url(method: str, url: str, location: str, seen: list[str]) -> str:
    """The address that ``location`` means; ``seen`` are those before it.

    Raises RegistryUnreachable for a circle, too many steps, and for leaving https.
    """
    target = urljoin(url, location).partition("#")[0]
    scheme = urlsplit(target).scheme
    if not location or scheme not in _PORTS or not urlsplit(target).hostname:
        raise RegistryUnreachable(method, url, f"redirect to {location!r}, which is no address")
    if urlsplit(url).scheme == "https" and scheme != "https":
        raise RegistryUnreachable(method, url, f"redirect from https to {target} refused")
    if target in seen or target == url:
        raise RegistryUnreachable(method, url, f"redirects go round in a circle at {target}")
    if len(seen) >= MAX_REDIRECTS:
        raise RegistryUnreachable(method, url, f"stopped after {MAX_REDIRECTS} redirects")
    return target


def headers_for(headers: Mapping[str, str], url: str, target: str) -> Mapping[str, str]:
    """Credentials stay with the scheme, host and port that they were meant for."""
    if origin(url) == origin(target):
        return headers
    return {name: value for name, value in headers.items() if name.lower() not in _SECRETS}
