"""The Docker Engine API as one function from request to answer."""

from __future__ import annotations

import asyncio
import logging

from aiohttp import web
from aiohttp.web_request import BaseRequest

from . import (
    archive,
    containers,
    events,
    execs,
    images,
    networks,
    registries,
    sampan_routes,
    streams,
    system,
    unsupported,
    volumes,
)
from .call import Call
from .errors import explain
from .replies import Reply, Stream, error_reply
from .routing import Router
from .services import Engine
from .versions import OLDEST, OLDEST_FOR_ARCHIVES, UnsupportedVersion, require_version, split_version

log = logging.getLogger(__name__)

ROUTES = (
    *system.ROUTES,
    *events.ROUTES,
    *containers.ROUTES,
    *streams.ROUTES,
    *execs.ROUTES,
    *archive.ROUTES,
    *images.ROUTES,
    *volumes.ROUTES,
    *networks.ROUTES,
    *registries.ROUTES,
    *sampan_routes.ROUTES,
    *unsupported.ROUTES,
)


class DockerApi:
    """Answers requests. Give :meth:`handle` to :func:`sampan.front.docker.server.make_server`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._router = Router(ROUTES)

    async def handle(self, request: BaseRequest) -> web.StreamResponse:
        raw_path, _, query = request.raw_path.partition("?")
        if not raw_path.startswith("/"):
            # the absolute form, as sent to a proxy (RFC 9112, section 3.2.2)
            raw_path = "/" + raw_path.partition("://")[2].partition("/")[2]
        version_text, path = split_version(raw_path)
        method = request.method
        found = self._router.find(method, path)
        if found is None:
            return await self._not_found(request, path)
        handler, name = found
        try:
            oldest = OLDEST_FOR_ARCHIVES if handler in images.ARCHIVES else OLDEST
            version = require_version(version_text, oldest)
            call = Call(request, self._engine, version, path, name, query)
            return await handler(call)
        except UnsupportedVersion as error:
            if error.too_old and version_text:
                # Clients that old print an error's JSON as it is; moby answers them in plain text too.
                return Reply(400, f"{error.message}\n".encode(), "text/plain; charset=utf-8")
            return error_reply(400, error.message)
        except asyncio.CancelledError:
            raise
        except ConnectionError:
            if request.transport is None or request.transport.is_closing():
                return Reply(499)  # written to nobody; the client's leaving is no error of ours
            raise
        except web.HTTPException as error:
            return error_reply(error.status, error.text or error.reason)
        except Exception as error:  # noqa: BLE001 - the outermost place: an unknown error becomes a 500 with an id
            status, message = explain(error, f"{method} {raw_path}")
            return error_reply(status, message)

    async def _not_found(self, request: BaseRequest, path: str) -> Reply:
        if request.method == "OPTIONS":
            return Reply(200)
        return error_reply(404, "page not found")


__all__ = ["ROUTES", "DockerApi", "Stream"]
