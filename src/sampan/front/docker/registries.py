"""Routes that reach registries."""

from __future__ import annotations

from aiohttp import web

from sampan.base.errors import InvalidArgument
from sampan.formats.reference import parse_name
from sampan.transfer.credentials import (
    NOBODY,
    Credentials,
    decode_config_header,
    decode_credentials,
    decode_header,
)
from sampan.transfer.registries import host_of

from .call import Call
from .progress import send_progress
from .replies import Reply, json_reply
from .routing import Route


def credentials_of(call: Call, image: str) -> Credentials:
    """Those for the image's registry: ``X-Registry-Auth``, else what ``X-Registry-Config`` has for it."""
    several = call.header("X-Registry-Config")
    if call.header("X-Registry-Auth") or not several:
        return decode_header(call.header("X-Registry-Auth"))
    domain = parse_name(image).domain
    found = {host_of(address): one for address, one in decode_config_header(several).items()}
    return found.get(domain, NOBODY)


async def pull(call: Call, platform: str) -> web.StreamResponse:
    """Without a tag all tags are pulled, as ``docker pull --all-tags`` asks for."""
    image, tag = call.text("fromImage"), call.text("tag")
    credentials = credentials_of(call, image.removesuffix(":"))
    lines = call.engine.transfers.pull(image, tag, platform, credentials)
    return await send_progress(call, lines)


async def push(call: Call, platform: str) -> web.StreamResponse:
    lines = call.engine.transfers.push(call.name, call.text("tag"), platform, credentials_of(call, call.name))
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
        return json_reply(await call.engine.transfers.inspect(call.name, credentials_of(call, call.name)))


async def search(call: Call) -> Reply:
    try:
        limit = int(call.text("limit") or 0)
    except ValueError:
        limit = -1
    if limit < 0:
        raise InvalidArgument(f"invalid limit specified: {call.text('limit')}")
    with call.ended_with_client():
        found = await call.engine.transfers.search(
            call.text("term"), call.filters(), limit, decode_header(call.header("X-Registry-Auth"))
        )
        return json_reply(list(found))


ROUTES = (
    Route("GET", "/images/search", search),
    Route("POST", "/auth", login),
    Route("GET", "/distribution/{}/json", inspect),
)
