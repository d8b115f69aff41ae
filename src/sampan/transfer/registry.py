"""One address of a registry: requests with authorization, retries and the choice of https or http."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Mapping
from urllib.parse import urljoin, urlsplit

from aiohttp import ClientResponse

from .auth import Authorizer
from .challenge import parse_challenges
from .credentials import Credentials
from .errors import NoCredentials, RegistryRefused, RegistryUnreachable, refused
from .http import Body, Http, error_of
from .pace import Pace
from .retries import is_passing
from .settings import Endpoint

log = logging.getLogger(__name__)


class Registry:
    def __init__(
        self, http: Http, endpoint: Endpoint, credentials: Credentials, *, login: bool = False
    ) -> None:
        self.endpoint = endpoint
        self.authorizer = Authorizer(http, endpoint, credentials, login=login)
        self._http = http
        self._base = ""

    @property
    def pace(self) -> Pace:
        return self._http.pace

    async def base(self) -> str:
        """``https://host/prefix``. An insecure registry is asked once which scheme it speaks."""
        if not self._base:
            self._base = await self._find_base()
        return self._base

    async def _find_base(self) -> str:
        endpoint = self.endpoint
        address = f"{endpoint.host}{endpoint.prefix}"
        if endpoint.scheme or not endpoint.insecure:
            return f"{endpoint.scheme or 'https'}://{address}"
        try:
            async with self._http.send("GET", f"https://{address}/v2/", endpoint, {}):
                return f"https://{address}"
        except RegistryUnreachable as error:
            log.debug("%s: trying http: %s", endpoint.host, error.message)
            return f"http://{address}"

    @contextlib.asynccontextmanager
    async def send(
        self,
        method: str,
        path: str,
        *,
        scope: str = "",
        headers: Mapping[str, str] | None = None,
        body: Body = None,
        wanted: tuple[int, ...] = (200,),
        retried: bool = True,
    ) -> AsyncIterator[ClientResponse]:
        """An answer whose status is ``wanted``; ``path`` starts with /v2/, or is a whole URL.

        Raises RegistryRefused for another status, RegistryUnreachable when there is no answer or its body
        breaks off. Attempts are repeated, unless ``retried`` is off, as often as the settings say.
        """
        base = await self.base()
        url = f"{base}{path}" if path.startswith("/v2/") else urljoin(f"{base}/", path)
        async with contextlib.AsyncExitStack() as stack:
            attempt = 0
            while True:
                try:
                    response = await self._attempt(stack, method, url, scope, headers or {}, body)
                    if response.status in wanted:
                        break
                    raise await error_of(response)
                except (RegistryRefused, RegistryUnreachable) as error:
                    await stack.aclose()
                    attempt += 1
                    if not retried or not self._is_passing(error) or attempt >= self._http.attempts:
                        raise
                    log.info("%s %s: %s: trying again", method, url, error.message)
                    failure = error
                await self._http.pause(failure, attempt - 1)
            yield response

    def _is_passing(self, error: RegistryRefused | RegistryUnreachable) -> bool:
        """Whether asking again may help, and nobody else can be asked instead."""
        return not self.endpoint.mirror and is_passing(error)

    async def _attempt(
        self,
        stack: contextlib.AsyncExitStack,
        method: str,
        url: str,
        scope: str,
        headers: Mapping[str, str],
        body: Body,
    ) -> ClientResponse:
        """One request, and a second one with new authorization when the first is answered by 401."""
        if urlsplit(url).netloc != self.endpoint.host:
            # an upload that leads to another host: the registry's token is none of its business
            return await stack.enter_async_context(self._http.send(method, url, self.endpoint, headers, body))
        header, asked = self.authorizer.header(scope), False
        while True:
            sent = {**headers, "Authorization": header} if header else headers
            async with contextlib.AsyncExitStack() as own:
                response = await own.enter_async_context(
                    self._http.send(method, url, self.endpoint, sent, body)
                )
                challenges = parse_challenges(response.headers.getall("WWW-Authenticate", ()))
                if response.status != 401:
                    stack.push_async_exit(own.pop_all())
                    return response
                refusal = await error_of(response)
            if asked:
                raise refusal  # token servers give a token for nothing at all, and a new one each time
            if any(one.parameters.get("error") == "insufficient_scope" for one in challenges) and header:
                raise refused(403, "", "")
            renewed = await self.authorizer.answer(challenges, scope)
            if not renewed and any(one.scheme == "basic" for one in challenges):
                raise NoCredentials(method, url)
            if not renewed or renewed == header:
                raise refusal
            header, asked = renewed, True
