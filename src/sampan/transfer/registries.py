"""From the name of an image to the addresses that have it."""

from __future__ import annotations

import asyncio
import ipaddress
import socket

from sampan.base.errors import Unauthorized

from .credentials import NOBODY, Credentials
from .errors import RegistryRefused
from .http import Http
from .pace import Pace
from .registry import Registry
from .repository import Repository
from .search import SearchResult, search
from .settings import HUB, HUB_ADDRESS, HUB_SEARCH, Endpoint, RegistrySettings, host_name

_HUB_NAMES = (HUB, HUB_ADDRESS, HUB_SEARCH, "registry.hub.docker.com", "")


class LoginFailed(Unauthorized, RegistryRefused):
    """The registry does not accept the name and password."""

    def __init__(self, url: str, status: int, detail: str) -> None:
        super().__init__(status, "UNAUTHORIZED", detail)
        self.message = f"login attempt to {url} failed with status: {status} {detail}"
        self.args = (self.message,)


class Registries:
    def __init__(
        self,
        settings: RegistrySettings,
        attempts: int = 5,
        first_wait_s: float = 1.0,
        pace: Pace | None = None,
    ) -> None:
        self._http = Http(settings, attempts, first_wait_s, pace)

    @property
    def settings(self) -> RegistrySettings:
        return self._http.settings

    def reload(self, settings: RegistrySettings, attempts: int) -> None:
        """Other mirrors and insecure registries from the next request on."""
        self._http.reload(settings, attempts)

    async def close(self) -> None:
        await self._http.close()

    async def repositories(
        self, domain: str, path: str, credentials: Credentials, *, mirrors: bool = True
    ) -> list[Repository]:
        """The addresses to ask, in order: mirrors, then the registry itself, which alone gets credentials."""
        addresses = await _addresses(domain) if domain != HUB else []
        return [
            Repository(Registry(self._http, endpoint, NOBODY if endpoint.mirror else credentials), path)
            for endpoint in self.settings.endpoints(domain, addresses, mirrors=mirrors)
        ]

    async def search(
        self, domain: str, term: str, limit: int, credentials: Credentials
    ) -> list[SearchResult]:
        """Repositories of a registry. Raises as :func:`.search.search`."""
        if domain == HUB:
            endpoint = Endpoint(host=HUB_SEARCH)
        else:
            endpoint = self.settings.endpoints(domain, await _addresses(domain), mirrors=False)[0]
        return await search(Registry(self._http, endpoint, credentials), term, limit)

    async def login(self, address: str, credentials: Credentials) -> str:
        """Check credentials; the identity token, if the registry gives one. Raises LoginFailed."""
        domain = host_of(address)
        addresses = await _addresses(domain) if domain != HUB else []
        endpoint = self.settings.endpoints(domain, addresses, mirrors=False)[0]
        registry = Registry(self._http, endpoint, credentials, login=True)
        try:
            async with registry.send("GET", "/v2/", retried=False):
                return registry.authorizer.refresh_token
        except RegistryRefused as error:
            if error.status != 401:
                raise
            url = f"{await registry.base()}/v2/"
            raise LoginFailed(url, 401, f"Unauthorized ({error.message})") from error


def host_of(address: str) -> str:
    """The registry that a login's server address means: a URL, a host, or nothing for the hub."""
    host = address.partition("://")[2] if "://" in address else address
    host = host.partition("/")[0]
    return HUB if host in _HUB_NAMES else host


async def _addresses(host: str) -> list[str]:
    """What the name resolves to; nothing when it does not, which the request itself will tell."""
    name = host_name(host)
    try:
        return [str(ipaddress.ip_address(name))]
    except ValueError:
        pass
    try:
        found = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return [str(item[4][0]) for item in found]
