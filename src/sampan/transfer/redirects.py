"""Where a redirect leads, and what may go along. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urljoin, urlsplit

from .errors import WrongAnswer

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


def is_address(url: str) -> bool:
    """Whether it is http or https and names a host; a port or an IPv6 address may be malformed."""
    try:
        scheme, host, _ = origin(url)
    except ValueError:
        return False
    return scheme in _PORTS and bool(host)


def next_url(method: str, url: str, location: str, seen: list[str]) -> str:
    """The address that ``location`` means; ``seen`` are those before it.

    Raises WrongAnswer for what is no address, a circle, too many steps, and for leaving https.
    """
    try:
        target = urljoin(url, location).partition("#")[0]
    except ValueError:
        target = ""
    if not location or not is_address(target):
        raise WrongAnswer(method, url, f"redirect to {location!r}, which is no address")
    if urlsplit(url).scheme == "https" and urlsplit(target).scheme != "https":
        raise WrongAnswer(method, url, f"redirect from https to {target} refused")
    if target in seen or target == url:
        raise WrongAnswer(method, url, f"redirects go round in a circle at {target}")
    if len(seen) >= MAX_REDIRECTS:
        raise WrongAnswer(method, url, f"stopped after {MAX_REDIRECTS} redirects")
    return target


def headers_for(headers: Mapping[str, str], url: str, target: str) -> Mapping[str, str]:
    """Credentials stay with the scheme, host and port that they were meant for."""
    if origin(url) == origin(target):
        return headers
    return {name: value for name, value in headers.items() if name.lower() not in _SECRETS}
