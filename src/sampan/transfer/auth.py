"""Tokens: what a registry's challenge asks for, fetched and kept until shortly before they end.

Protocols: distribution's "Token Authentication Specification" and its OAuth2 variant.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from urllib.parse import urlencode

import msgspec

from .challenge import Challenge
from .credentials import Credentials
from .errors import BROKEN_JSON, WrongAnswer, refused
from .http import Http, error_of
from .pace import read_all
from .redirects import is_address
from .settings import Endpoint

_CLIENT_ID = "docker"
_LIFE_S = 60
_MARGIN_S = 10
_LIMIT_BYTES = 1 << 20


class _Answer(msgspec.Struct, frozen=True):
    token: str = ""
    access_token: str = ""
    refresh_token: str = ""
    expires_in: int = 0


class _Kept(msgspec.Struct, frozen=True):
    header: str
    until: float


_decode = msgspec.json.Decoder(_Answer, strict=False).decode


class Authorizer:
    """The ``Authorization`` of one endpoint for one set of credentials."""

    def __init__(
        self,
        http: Http,
        endpoint: Endpoint,
        credentials: Credentials,
        clock: Callable[[], float] = time.monotonic,
        *,
        login: bool = False,
    ) -> None:
        """With ``login`` the token server is asked for a refresh token as well."""
        self._http = http
        self._endpoint = endpoint
        self._credentials = credentials
        self._clock = clock
        self._login = login
        self._kept: dict[str, _Kept] = {}
        self.refresh_token = ""
        """What a token server gave for later logins."""

    @property
    def basic(self) -> str:
        """Name and password as a header; "" for nobody."""
        if not self._credentials.username:
            return ""
        pair = f"{self._credentials.username}:{self._credentials.password}".encode()
        return f"Basic {base64.b64encode(pair).decode()}"

    def header(self, scope: str) -> str:
        """What is known to work for the scope, or ""."""
        kept = self._kept.get(scope)
        return kept.header if kept is not None and kept.until > self._clock() else ""

    async def answer(self, challenges: list[Challenge], scope: str) -> str:
        """A new header after a 401; "" when the challenge cannot be met. Raises RegistryRefused."""
        for challenge in challenges:
            if challenge.scheme == "bearer":
                header, life_s = await self._bearer(challenge, scope)
            elif challenge.scheme == "basic" and self.basic:
                header, life_s = self.basic, float("inf")
            else:
                continue
            self._kept[scope] = _Kept(header, self._clock() + life_s)
            return header
        return ""

    async def _bearer(self, challenge: Challenge, scope: str) -> tuple[str, float]:
        credentials = self._credentials
        if credentials.registrytoken:
            return f"Bearer {credentials.registrytoken}", float("inf")
        realm = challenge.parameters.get("realm", "")
        if not is_address(realm):
            raise refused(401, "", f"the registry names no usable token server: {realm!r}")
        query = {"service": challenge.parameters.get("service", "")}
        wanted = scope or challenge.parameters.get("scope", "")
        if wanted:
            query["scope"] = wanted
        if credentials.identitytoken:
            answer = await self._post(
                realm,
                query
                | {
                    "grant_type": "refresh_token",
                    "refresh_token": credentials.identitytoken,
                    "client_id": _CLIENT_ID,
                },
            )
        else:
            answer = await self._get(realm, query)
        token = answer.token or answer.access_token
        if not token:
            raise refused(401, "", "authorization server did not include a token in the response")
        self.refresh_token = answer.refresh_token or self.refresh_token
        life_s = max(answer.expires_in, _LIFE_S) - _MARGIN_S
        return f"Bearer {token}", life_s

    async def _get(self, realm: str, query: dict[str, str]) -> _Answer:
        headers = {}
        if self._credentials.username:
            query = query | {"account": self._credentials.username, "client_id": _CLIENT_ID}
            if self._login:
                query["offline_token"] = "true"  # noqa: S105 - a parameter's name
            headers["Authorization"] = self.basic
        # one scope parameter each, as token servers that predate the space-separated form read it
        pairs = [
            (key, part)
            for key, value in query.items()
            for part in (value.split(" ") if key == "scope" else [value])
        ]
        separator = "&" if "?" in realm else "?"
        return await self._ask("GET", f"{realm}{separator}{urlencode(pairs)}", headers, None)

    async def _post(self, realm: str, form: dict[str, str]) -> _Answer:
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return await self._ask("POST", realm, headers, urlencode(form).encode())

    async def _ask(self, method: str, url: str, headers: dict[str, str], body: bytes | None) -> _Answer:
        endpoint = self._http.endpoint_of(url, self._endpoint)
        async with self._http.send(method, url, endpoint, headers, body) as response:
            if response.status != 200:
                raise await error_of(response)
            data = await read_all(response, self._http.pace, _LIMIT_BYTES, "token")
        try:
            return _decode(data)
        except BROKEN_JSON as error:
            raise WrongAnswer(method, url, f"unable to decode token response: {error}") from error
