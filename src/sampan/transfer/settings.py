"""Which addresses stand for a registry, how they are trusted, and which proxy leads to them."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit
from urllib.request import getproxies_environment

import msgspec

HUB = "docker.io"
HUB_ADDRESS = "registry-1.docker.io"
HUB_SEARCH = "index.docker.io"
CERTIFICATE_FOLDERS = ("/etc/docker/certs.d", "/etc/sampan/certs.d")
_LOOPBACK = ("127.0.0.0/8", "::1/128")


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One address to ask, in the order of the list it is in."""

    host: str
    """``name`` or ``name:port``."""
    prefix: str = ""
    """Path before ``/v2/``, for mirrors below one."""
    scheme: str = ""
    """http or https; "" is https with http after it, where the registry is insecure."""
    insecure: bool = False
    mirror: bool = False
    ca_file: str = ""
    """Authorities to trust beside the system's and those of the folders."""


class RegistrySettings(msgspec.Struct, frozen=True, kw_only=True):
    """``mirrors``: addresses by registry, tried in order before the registry itself."""

    insecure: tuple[str, ...] = ()
    """Names (``host`` or ``host:port``) and CIDRs."""
    mirrors: Mapping[str, Sequence[str]] = {}
    certificate_folders: tuple[str, ...] = CERTIFICATE_FOLDERS
    http_proxy: str = ""
    https_proxy: str = ""
    no_proxy: str = ""

    def endpoints(self, domain: str, addresses: Sequence[str], *, mirrors: bool = True) -> list[Endpoint]:
        """Where to ask for a repository of ``domain``. ``addresses`` are those its name resolves to."""
        found = []
        if mirrors:
            found = [self._mirror(text) for text in self.mirrors.get(domain, ())]
        host = HUB_ADDRESS if domain == HUB else domain
        found.append(Endpoint(host=host, insecure=self.is_insecure(host, addresses)))
        return found

    def _mirror(self, text: str) -> Endpoint:
        parts = urlsplit(text if "://" in text else f"https://{text}")
        scheme = parts.scheme if "://" in text else ""
        return Endpoint(
            host=parts.netloc,
            prefix=parts.path.rstrip("/"),
            scheme=scheme,
            insecure=scheme == "http" or self.is_insecure(parts.netloc, ()),
            mirror=True,
        )

    def is_insecure(self, host: str, addresses: Sequence[str]) -> bool:
        """By name, or by an address within a CIDR of the settings or of this machine itself."""
        name = host_name(host)
        if host in self.insecure or name in self.insecure or name == "localhost":
            return True
        networks = [*_LOOPBACK, *(one for one in self.insecure if "/" in one)]
        return any(_contains(network, text) for network in networks for text in (name, *addresses))

    def proxy(self, url: str) -> str:
        """The proxy for a URL, "" for none. The daemon's settings come before the environment."""
        parts = urlsplit(url)
        environment = getproxies_environment()
        host = parts.hostname or ""
        port = parts.port or (443 if parts.scheme == "https" else 80)
        if self._bypasses(host, port, self.no_proxy or environment.get("no", "")):
            return ""
        own = self.https_proxy if parts.scheme == "https" else self.http_proxy
        found = own or environment.get(parts.scheme, "")
        return found if not found or "://" in found else f"http://{found}"

    @staticmethod
    def _bypasses(host: str, port: int, rules: str) -> bool:
        """As Go's httpproxy: names with those below them, addresses, CIDRs, ``*``; never this machine."""
        if host == "localhost" or any(_contains(network, host) for network in _LOOPBACK):
            return True
        for rule in (part.strip().lower() for part in rules.split(",")):
            if rule == "*":
                return True
            name, colon, wanted = rule.rpartition(":")
            if colon and wanted.isdigit() and "]" not in wanted:
                if int(wanted) != port:
                    continue
                rule = name
            if not rule:
                continue
            bare = rule.removeprefix("*").removeprefix(".")
            if host == bare or host.endswith(f".{bare}") or _contains(rule, host):
                return True
        return False


def host_name(host: str) -> str:
    """Without the port and the brackets of IPv6."""
    return urlsplit(f"//{host}").hostname or host


def mirrors_by_registry(hub: Sequence[str], others: Sequence[str]) -> dict[str, list[str]]:
    """``registry-mirrors`` are the hub's; ``others`` are ``registry=URL``.

    Raises ValueError for what is neither.
    """
    found: dict[str, list[str]] = {HUB: list(hub)} if hub else {}
    for text in others:
        domain, equals, url = text.partition("=")
        if not (equals and domain and url) or "*" in domain or "/" in domain:
            raise ValueError(f"invalid mirror {text!r}: use registry=URL, such as ghcr.io=https://mirror.lan")
        found.setdefault(domain, []).append(url)
    return found


def _contains(network: str, address: str) -> bool:
    try:
        return ipaddress.ip_address(address) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False
