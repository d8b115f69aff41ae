"""Routes that reach registries."""

from __future__ import annotations

from aiohttp import web

from sampan.base.errors import InvalidArgument
from sampan.transfer.credentials import Credentials, decode_credentials, decode_header

from .call import Call
from .progress import send_progress
from .replies import Reply, json_reply
from .routing import Route


def _credentials(call: Call) -> Credentials:
    return decode_header(call.header("X-Registry-Auth"))


async def pull(call: Call, platform: str) -> web.StreamResponse:
    """Without a tag all tags are pulled, as ``docker pull --all-tags`` asks for."""
    image, tag = call.text("fromImage"), call.text("tag")
    lines = call.engine.transfers.pull(image, tag, platform, _credentials(call))
    return await send_progress(call, lines)


async def push(call: Call, platform: str) -> web.StreamResponse:
    lines = call.engine.transfers.push(call.name, call.text("tag"), platform, _credentials(call))
    return await send_progress(call, lines)


async def login(call: Call) -> Reply:
    try:
        credentials = decode_credentials(await call.body())
    except ValueError as error:
        raise InvalidArgument(str(error)) from None
    with call.ended_with_client():
        return json_reply(await call.engine.transfers.login(credentials))


async def inspect(call: Call) -> Reply:
    with call.ended_with_client():
        return json_reply(await call.engine.transfers.inspect(call.name, _credentials(call)))


async def search(call: Call) -> Reply:
    try:
        limit = int(call.text("limit") or 0)
    except ValueError:
        limit = -1
    if limit < 0:
        raise InvalidArgument(f"invalid limit specified: {call.text('limit')}")
    with call.ended_with_client():
        found = await call.engine.transfers.search(
            call.text("term"), call.filters(), limit, _credentials(call)
        )
        return json_reply(list(found))


ROUTES = (
    Route("GET", "/images/search", search),
    Route("POST", "/auth", login),
    Route("GET", "/distribution/{}/json", inspect),
)
