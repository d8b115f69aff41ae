"""The registry's HTTP as one function from request to answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from aiohttp import web
from aiohttp.web_request import BaseRequest

from sampan.registry.errors import (
    NameUnknown,
    RangeInvalid,
    RegistryRefusal,
    TooManyRequests,
    Unauthenticated,
    Unsupported,
)
from sampan.registry.names import check_repository
from sampan.registry.ports import Authenticator, OpenAuthenticator
from sampan.registry.service import Registry

from . import blobs, discovery, manifests, uploads
from .call import Call
from .callers import Callers
from .errors import explain
from .replies import error_reply
from .routing import Handler, match
from .sending import timed

log = logging.getLogger(__name__)

# uploads before blobs: "uploads" would be a digest
ROUTES = (*manifests.ROUTES, *uploads.ROUTES, *blobs.ROUTES, *discovery.ROUTES)


class RegistryApi:
    """Answers requests. Give :meth:`handle` to :func:`sampan.front.registry.server.make_server`."""

    def __init__(
        self,
        registry: Registry,
        authenticator: Authenticator | None = None,
        pages: Mapping[str, Handler] | None = None,
        callers: Callers | None = None,
    ) -> None:
        """``pages``: what is served beside ``/v2/``, by the beginning of its path; the longest one wins.

        Its handlers get a call whose ``identity`` is known, and ask :meth:`Call.require` themselves.
        """
        self._registry = registry
        self._authenticator = authenticator or OpenAuthenticator()
        self._callers = callers or Callers()
        self._pages = sorted((pages or {}).items(), key=lambda item: -len(item[0]))

    async def handle(self, request: BaseRequest) -> web.StreamResponse:
        raw_path, _, query = request.raw_path.partition("?")
        if not raw_path.startswith("/"):
            # the absolute form, as sent to a proxy (RFC 9112, section 3.2.2)
            raw_path = "/" + raw_path.partition("://")[2].partition("/")[2]
        caller = self._callers.of(request)
        call = Call(request, caller, self._registry, self._authenticator, raw_path, query)
        try:
            return timed(await self._answer(call), request.method)
        except asyncio.CancelledError:
            raise
        except ConnectionError:
            if request.transport is None or request.transport.is_closing():
                return web.Response(status=499)  # written to nobody; the client's leaving is no error of ours
            raise
        except Exception as error:  # noqa: BLE001 - the outermost place: an unknown error becomes a 500 with an id
            return self._refused(call, error)

    async def _answer(self, call: Call) -> web.StreamResponse:
        path = "/v2/" if call.path == "/v2" else call.path
        if not path.startswith("/v2/"):
            for beginning, handler in self._pages:
                if path.startswith(beginning):
                    await call.identify()
                    return await handler(call)
            raise NameUnknown(f"page not found: {path[:256]}")
        found = match(ROUTES, call.request.method, path)
        call.name, call.reference, call.action = found.name, found.reference, found.endpoint.action
        if call.name:
            check_repository(call.name)
            namespace = call.text("ns") if "ns=" in call.query_text else ""
            call.name = self._registry.context.upstreams.local_name(call.name, namespace)
        await call.identify()
        # the catalogue shows what may be seen; clients log in to it only when they are asked to
        if call.path != "/v2/_catalog" or call.identity.is_anonymous:
            call.require(call.action, call.name)
        answer = await found.endpoint.handler(call)
        if call.action != "pull":
            await self._registry.context.durability.reached()
        return answer

    def _refused(self, call: Call, error: Exception) -> web.StreamResponse:
        status, body = explain(error, f"{call.request.method} {call.path}")
        pairs: list[tuple[str, str]] = []
        if isinstance(error, Unauthenticated):
            challenge = error.challenge or self._authenticator.challenge(call.caller, call.action, call.name)
            pairs.append(("WWW-Authenticate", challenge))
        elif isinstance(error, Unsupported):
            pairs.append(("Allow", ", ".join(error.methods)))
        elif isinstance(error, TooManyRequests):
            pairs.append(("Retry-After", str(error.retry_after_s)))
        elif isinstance(error, RangeInvalid):
            in_session = "/blobs/uploads/" in call.path
            pairs += (
                uploads.session_pairs(call, error)
                if in_session
                else [("Content-Range", f"bytes */{error.size_bytes}")]
            )
        answer = error_reply(status, body, pairs)
        if not isinstance(error, RegistryRefusal) or status == 408:
            answer.force_close()
        return answer
