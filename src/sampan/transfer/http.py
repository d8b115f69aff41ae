"""One HTTP client for all registries: connections, proxies, redirects, time limits, error answers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec
from aiohttp import (
    AddrInfoType,
    ClientConnectorError,
    ClientError,
    ClientResponse,
    ClientResponseError,
    ClientSession,
    ClientTimeout,
    TCPConnector,
)

from .errors import BROKEN_JSON, RegistryRefused, RegistryUnreachable, WrongAnswer, refused
from .pace import Pace
from .redirects import headers_for, is_redirect, next_url
from .retries import LONGEST_PAUSE_S, pause_s, retry_after_s
from .settings import Endpoint, RegistrySettings
from .tls import make_context

_CONNECT_TIMEOUT_S = 15
_LOOKUP_TIMEOUT_S = 30
"""For the name and the connection together."""
_READ_TIMEOUT_S = 60
_HEAD_TIMEOUT_S = _LOOKUP_TIMEOUT_S + _READ_TIMEOUT_S
"""For a connection and the head of an answer: "100 Continue" again and again is none."""
_VERDICT_TIMEOUT_S = 300
"""For the answer to a body we have sent: registries check it, and copy it to where it stays."""
_ERROR_LIMIT_BYTES = 64 << 10
_SHOWN_BYTES = 300
_CODE = re.compile(r"[A-Za-z0-9_ -]{1,64}")
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

    def __init__(
        self,
        settings: RegistrySettings,
        attempts: int = 5,
        first_wait_s: float = 1.0,
        pace: Pace | None = None,
    ) -> None:
        self.settings = settings
        self.attempts = max(attempts, 1)
        self.first_wait_s = first_wait_s
        self.pace = pace or Pace()
        self._session: ClientSession | None = None
        self._contexts: dict[tuple[str, bool, str], ssl.SSLContext] = {}

    def reload(self, settings: RegistrySettings, attempts: int) -> None:
        """From the next request on; certificates are read again as well."""
        self.settings = settings
        self.attempts = max(attempts, 1)
        self._contexts.clear()

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _open(self) -> ClientSession:
        if self._session is None:
            self._session = ClientSession(
                connector=TCPConnector(limit=0, limit_per_host=16, socket_factory=_make_socket),
                timeout=_timeout(_READ_TIMEOUT_S),
                auto_decompress=False,
                headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
                read_bufsize=128 << 10,
            )
        return self._session

    @contextlib.asynccontextmanager
    async def send(
        self, method: str, url: str, endpoint: Endpoint, headers: Mapping[str, str], body: Body = None
    ) -> AsyncIterator[ClientResponse]:
        """One request and the redirects it meets, no retry; any other status.

        Raises RegistryUnreachable, also for a broken body and for redirects that lead nowhere.
        """
        seen: list[str] = []
        while True:
            async with self._once(method, url, endpoint, headers, body) as response:
                if not is_redirect(method, response.status) or "Location" not in response.headers:
                    yield response
                    return
                target = next_url(method, url, response.headers["Location"], seen)
            headers = headers_for(headers, url, target)
            endpoint = self.endpoint_of(target, endpoint)
            seen.append(url)
            url = target

    def endpoint_of(self, url: str, endpoint: Endpoint) -> Endpoint:
        """Another host than the endpoint's is trusted, and reached, by its own rules."""
        host = urlsplit(url).netloc.rpartition("@")[2]
        if host == endpoint.host:
            return endpoint
        return Endpoint(host=host, insecure=self.settings.is_insecure(host, ()))

    @contextlib.asynccontextmanager
    async def _once(
        self, method: str, url: str, endpoint: Endpoint, headers: Mapping[str, str], body: Body
    ) -> AsyncIterator[ClientResponse]:
        options: dict[str, Any] = {}
        if url.startswith("https:"):
            options["ssl"] = self._context(endpoint)
        if proxy := self.settings.proxy(url):
            options["proxy"] = proxy
        if callable(body):
            options["timeout"] = _timeout(_VERDICT_TIMEOUT_S)
        try:
            async with asyncio.timeout(None if callable(body) else _HEAD_TIMEOUT_S) as deadline:
                data: Any = _watched(body(), deadline, self.pace) if callable(body) else body
                async with self._open().request(
                    method, url, headers=headers, data=data, allow_redirects=False, **options
                ) as response:
                    deadline.reschedule(None)
                    yield response
        except TimeoutError as error:
            raise RegistryUnreachable(method, url, "no answer in time") from error
        except ClientResponseError as error:  # no HTTP, or more of a header than anybody needs
            text = error.message[:_SHOWN_BYTES] or "malformed answer"
            raise WrongAnswer(method, url, f"malformed HTTP response: {text}") from error
        except (ClientError, ConnectionError, ssl.SSLError) as error:
            connected = not isinstance(error, ClientConnectorError)
            raise RegistryUnreachable(method, url, _reason(error), connected=connected) from error
        except ValueError as error:  # yarl and aiohttp: a Location that is no URL, a token that is no header
            raise WrongAnswer(method, url, str(error)) from error

    def _context(self, endpoint: Endpoint) -> ssl.SSLContext:
        key = (endpoint.host, endpoint.insecure, endpoint.ca_file)
        context = self._contexts.get(key)
        if context is None:
            context = self._contexts[key] = make_context(endpoint, self.settings.certificate_folders)
        return context

    async def pause(self, error: RegistryRefused | RegistryUnreachable, attempt: int) -> None:
        """Wait before another attempt: what the registry asks for, else twice as long each time."""
        await asyncio.sleep(pause_s(error, attempt, self.first_wait_s))


def _make_socket(address: AddrInfoType) -> socket.socket:
    """The kernel ends a connection whose other side takes nothing any more (tcp(7), TCP_USER_TIMEOUT).

    Closing it on our side alone would wait for what is still to be sent.
    """
    made = socket.socket(*address[:3])
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _READ_TIMEOUT_S * 1000)
    return made


def _timeout(read_s: float) -> ClientTimeout:
    return ClientTimeout(
        total=None, connect=_LOOKUP_TIMEOUT_S, sock_connect=_CONNECT_TIMEOUT_S, sock_read=read_s
    )


async def _watched(body: AsyncIterator[bytes], deadline: asyncio.Timeout, pace: Pace) -> AsyncIterator[bytes]:
    """A body on its way out: who takes nothing of it for too long has gone."""
    loop = asyncio.get_running_loop()
    async for chunk in body:
        deadline.reschedule(loop.time() + pace.seconds)
        yield chunk
    # what the buffers of both sides hold may still have to go; the answer has a limit of its own
    deadline.reschedule(loop.time() + _VERDICT_TIMEOUT_S)


async def error_of(response: ClientResponse) -> RegistryRefused:
    """The error an answer carries (distribution-spec, "Error Codes"; token servers have ``details``)."""
    status = response.status
    wait_s = retry_after_s(response.headers.get("Retry-After", ""))
    data = await response.content.read(_ERROR_LIMIT_BYTES)
    code = detail = ""
    try:
        body = _decode_errors(data)
    except BROKEN_JSON:
        if response.content_type == "text/plain":
            detail = _one_line(data)
    else:
        first = body.errors[0] if body.errors else _Error()
        code = first.code if _CODE.fullmatch(first.code) else ""
        detail = _one_line((first.message or body.details).encode())
    if wait_s > LONGEST_PAUSE_S:
        detail = f"{detail or 'busy'} (the registry wants to be asked again in {wait_s:.0f} seconds)"
    return refused(status, code, detail, reason=response.reason or "", retry_after_s=wait_s)


def _one_line(text: bytes) -> str:
    """What a registry says is shown on terminals."""
    words = text[:_SHOWN_BYTES].decode(errors="replace").split()
    return "".join(char for char in " ".join(words) if char.isprintable())


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
