"""What Sampan offers beside Docker's API, below ``/sampan``."""

from __future__ import annotations

from aiohttp import web

from sampan.base.errors import InvalidArgument

from .call import Call
from .progress import send_progress
from .replies import Reply, json_reply
from .routing import Route


async def bootstrap(call: Call) -> web.StreamResponse:
    """``?name=busybox``; the body is BootstrapOptions of the engine, or absent."""
    from sampan.content.bootstrap import BootstrapOptions

    name = call.text("name")
    if not name:
        raise InvalidArgument("bad parameter: name cannot be empty")
    options = await call.decode(BootstrapOptions, BootstrapOptions())
    return await send_progress(call, call.engine.images.bootstrap(name, options))


async def explain(call: Call) -> Reply:
    """The plan of a container, line by line."""
    return json_reply({"Plan": list(await call.engine.explain(call.name))})


ROUTES = (
    Route("POST", "/sampan/images/bootstrap", bootstrap),
    Route("GET", "/sampan/debug/explain/{}", explain),
)
