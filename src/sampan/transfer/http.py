"""One HTTP client for all registries: TLS with certificates by registry, proxies, retries."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import (
    ClientConnectorError,
    ClientError,
    ClientResponse,
    ClientSession,
    ClientTimeout,
    TCPConnector,
    TooManyRedirects,
)

from .errors import RegistryRefused, RegistryUnreachable, refused

if TYPE_CHECKING:
    from .settings import Endpoint, RegistrySettings

_CONNECT_TIMEOUT_S = 15
_LOOKUP_TIMEOUT_S = 30
"""For the name and the connection together."""
_READ_TIMEOUT_S = 60
_RETRIED = (429, 500, 502, 503, 504)
_LONGEST_WAIT_S = 60.0
_ERROR_LIMIT_BYTES = 64 << 10
_MAX_REDIRECTS = 8
USER_AGENT = "sampan"

Body = bytes | Callable[[], AsyncIterator[bytes]] | None
"""A body that is sent again after a retry is made again."""


class _Error(msgspec.Struct, frozen=True):
    code: str = ""
    message: str = ""


class _Errors(msgspec.Struct, frozen=True):
    errors: list[_Error] = []
    details: str = ""


_decode_errors = msgspec.json.Decoder(_Errors, strict=False).decode


class Http:
    """Sessions are opened at the first use and closed with :meth:`close`."""

    def __init__(self, settings: RegistrySettings, attempts: int = 5, first_wait_s: float = 1.0) -> None:
        self.settings = settings
        self.attempts = max(attempts, 1)
        self.first_wait_s = first_wait_s
        self._session: ClientSession | None = None
        self._contexts: dict[tuple[str, bool], ssl.SSLContext] = {}

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _open(self) -> ClientSession:
        if self._session is None:
            self._session = ClientSession(
                connector=TCPConnector(limit=0, limit_per_host=16),
                timeout=ClientTimeout(
                    total=None,
                    connect=_LOOKUP_TIMEOUT_S,
                    sock_connect=_CONNECT_TIMEOUT_S,
                    sock_read=_READ_TIMEOUT_S,
                ),
                auto_decompress=False,
                headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
                read_bufsize=1 << 20,
            )
        return self._session

    @contextlib.asynccontextmanager
    async def send(
        self, method: str, url: str, endpoint: Endpoint, headers: Mapping[str, str], body: Body = None
    ) -> AsyncIterator[ClientResponse]:
        """One request, no retry; any status. Raises RegistryUnreachable, also for a broken body."""
        reads = method in ("GET", "HEAD")
        data: Any = body() if callable(body) else body
        options: dict[str, Any] = {}
        if url.startswith("https:"):
            options["ssl"] = self._context(endpoint)
        if proxy := self.settings.proxy(url):
            options["proxy"] = proxy
        try:
            async with self._open().request(
                method,
                url,
                headers=headers,
                data=data,
                allow_redirects=reads,
                max_redirects=_MAX_REDIRECTS,
                **options,
            ) as response:
                yield response
        except TooManyRedirects as error:
            raise RegistryUnreachable(method, url, f"stopped after {_MAX_REDIRECTS} redirects") from error
        except TimeoutError as error:
            raise RegistryUnreachable(method, url, "no answer in time") from error
        except (ClientError, ConnectionError, ssl.SSLError) as error:
            connected = not isinstance(error, ClientConnectorError)
            raise RegistryUnreachable(method, url, _reason(error), connected=connected) from error
        except ValueError as error:  # yarl and aiohttp: a Location that is no URL
            raise RegistryUnreachable(method, url, str(error)) from error

    def _context(self, endpoint: Endpoint) -> ssl.SSLContext:
        key = (endpoint.host, endpoint.insecure)
        context = self._contexts.get(key)
        if context is None:
            context = self._contexts[key] = _make_context(endpoint, self.settings.certificate_folders)
        return context

    async def pause(self, attempt: int, retry_after: str = "") -> None:
        """Wait before another attempt: what the registry asks for, else twice as long each time."""
        wait_s = self.first_wait_s * 2.0**attempt * random.uniform(0.8, 1.2)  # noqa: S311 - only spreads load
        if retry_after.strip().isdigit():
            wait_s = max(wait_s, float(retry_after))
        await asyncio.sleep(min(wait_s, _LONGEST_WAIT_S))


def is_retried(status: int) -> bool:
    """Whether the same request may succeed a little later."""
    return status in _RETRIED


async def error_of(response: ClientResponse) -> RegistryRefused:
    """The error an answer carries (distribution-spec, "Error Codes"; token servers have ``details``)."""
    data = await response.content.read(_ERROR_LIMIT_BYTES)
    try:
        body = _decode_errors(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return refused(response.status)
    first = body.errors[0] if body.errors else _Error()
    return refused(response.status, first.code, first.message or body.details)


def _reason(error: BaseException) -> str:
    certificate = getattr(error, "certificate_error", None) or error
    if isinstance(certificate, ssl.SSLCertVerificationError):
        return f"tls: failed to verify certificate: {certificate.verify_message}"
    system = getattr(error, "os_error", None) or error
    if isinstance(system, OSError) and system.errno and system.strerror:
        # a failed look-up has errno's below zero and a text of its own
        text = os.strerror(system.errno) if system.errno > 0 else system.strerror
        return text[:1].lower() + text[1:]
    return str(error) or type(error).__name__


def _make_context(endpoint: Endpoint, folders: tuple[str, ...]) -> ssl.SSLContext:
    """Docker's layout: ``<folder>/<host:port>/*.crt`` are authorities, ``x.cert`` and ``x.key`` ours."""
    context = ssl.create_default_context()
    if endpoint.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    for folder in folders:
        place = os.path.join(folder, endpoint.host)
        try:
            names = sorted(os.listdir(place))
        except (FileNotFoundError, NotADirectoryError):
            continue
        for name in names:
            path = os.path.join(place, name)
            try:
                if name.endswith(".crt"):
                    context.load_verify_locations(path)
                elif name.endswith(".cert"):
                    context.load_cert_chain(path, path.removesuffix(".cert") + ".key")
            except (OSError, ssl.SSLError) as error:
                raise RegistryUnreachable(
                    "get", f"https://{endpoint.host}/v2/", f"{path}: {error}"
                ) from error
    return context
