"""One request on its way to a handler: who asks, for what, with which body."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import parse_qs

from aiohttp import StreamReader
from aiohttp.web_request import BaseRequest

from sampan.base.errors import InvalidArgument
from sampan.model.registry import Action, Actor, Caller, Identity
from sampan.registry.errors import BodyTimeout, Denied, RegistryRefusal, Unauthenticated
from sampan.registry.ports import Authenticator
from sampan.registry.service import Registry

BODY_IDLE_S = 60.0
"""For so long a body may stand still."""
BODY_RATE = 512
"""Bytes per second that a body has to bring on average, once :data:`BODY_IDLE_S` have passed."""
QUERY_FIELDS = 200


class PaginationInvalid(RegistryRefusal, InvalidArgument):
    code = "PAGINATION_NUMBER_INVALID"


class QueryInvalid(RegistryRefusal, InvalidArgument):
    """It has no code of the specification's own."""


class Call:
    """What handlers see of a request. ``name`` is the repository, ``reference`` what the path names in it."""

    __slots__ = (
        "_query",
        "action",
        "actor",
        "authenticator",
        "caller",
        "identity",
        "name",
        "path",
        "query_text",
        "reference",
        "registry",
        "request",
    )

    def __init__(
        self,
        request: BaseRequest,
        caller: Caller,
        registry: Registry,
        authenticator: Authenticator,
        path: str,
        query: str,
    ) -> None:
        self.request = request
        self.registry = registry
        self.authenticator = authenticator
        self.path = path
        """Without query; still percent-encoded."""
        self.query_text = query
        self.action: Action = "pull"
        """What it takes to be allowed to do this."""
        self.name = ""
        self.reference = ""
        self.caller = caller
        self.identity = Identity()
        self.actor = Actor()
        self._query: dict[str, list[str]] | None = None

    async def identify(self) -> None:
        """Ask who it is. Raises Unauthenticated, TooManyRequests."""
        self.identity = await self.authenticator.identify(self.caller)
        self.actor = Actor(
            name=self.identity.name,
            address=self.caller.address,
            user_agent=self.request.headers.get("User-Agent", "")[:256],
            request_id=self.request.headers.get("X-Request-Id", "")[:128],
            host=self.caller.host,
            secure=self.caller.secure,
            method=self.request.method,
        )

    def require(self, action: Action, repository: str) -> None:
        """Raises Unauthenticated (nobody in particular asks) or Denied."""
        if self.authenticator.allows(self.identity, action, repository):
            return
        if self.identity.is_anonymous:
            raise Unauthenticated("authentication required")
        what = f"{action} of {repository}" if repository else action
        raise Denied(f"requested access to the resource is denied: {self.identity.name} has no {what}")

    def may_pull(self, repository: str) -> bool:
        """For what is left out, not refused, when it is not allowed."""
        try:
            return self.authenticator.allows(self.identity, "pull", repository)
        except Unauthenticated:
            return False

    # query and headers

    @property
    def query(self) -> dict[str, list[str]]:
        """Raises QueryInvalid."""
        if self._query is None:
            try:
                self._query = parse_qs(self.query_text, keep_blank_values=True, max_num_fields=QUERY_FIELDS)
            except ValueError:
                raise QueryInvalid(f"more than {QUERY_FIELDS} fields in the query") from None
        return self._query

    def text(self, key: str) -> str:
        values = self.query.get(key)
        return values[0] if values else ""

    def number(self, key: str) -> int | None:
        """A whole number from 0; None when it is absent. Raises PaginationInvalid."""
        values = self.query.get(key)
        if not values:
            return None
        if not (values[0].isascii() and values[0].isdigit() and len(values[0]) < 10):
            raise PaginationInvalid(f"{key}={values[0][:40]!r} is no whole number")
        return int(values[0])

    def header(self, name: str) -> str:
        return self.request.headers.get(name, "")

    # body

    @property
    def content_length(self) -> int | None:
        """None: it is not known before the end."""
        length = self.request.content_length
        if length is None and "Transfer-Encoding" not in self.request.headers:
            return 0
        return length

    async def body(self) -> AsyncIterator[bytes]:
        """The body as it comes, in memory that does not depend on its size.

        Raises BodyTimeout when it stands still or trickles, ConnectionError when the client goes away.
        """
        self._ask_to_go_on()
        stream: StreamReader = self.request.content
        loop = asyncio.get_running_loop()
        began, received = loop.time(), 0
        while True:
            try:
                async with asyncio.timeout(BODY_IDLE_S):
                    chunk = await stream.readany()
            except TimeoutError:
                raise BodyTimeout(f"nothing of the body came for {BODY_IDLE_S:g} s") from None
            if not chunk:
                return
            received += len(chunk)
            passed = loop.time() - began
            if passed > BODY_IDLE_S and received < passed * BODY_RATE:
                raise BodyTimeout(f"the body comes at less than {BODY_RATE} bytes per second")
            yield chunk

    async def whole_body(self, limit: int, too_large: RegistryRefusal) -> bytes:
        """Raises ``too_large`` as soon as it is known to be more than ``limit`` bytes."""
        if (self.content_length or 0) > limit:
            raise too_large
        parts: list[bytes] = []
        size = 0
        async for chunk in self.body():
            size += len(chunk)
            if size > limit:
                raise too_large
            parts.append(chunk)
        return b"".join(parts)

    def _ask_to_go_on(self) -> None:
        """RFC 9110, 10.1.1: only now is it certain that the body is wanted."""
        transport = self.request.transport
        if transport is not None and self.header("Expect").lower() == "100-continue":
            transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
