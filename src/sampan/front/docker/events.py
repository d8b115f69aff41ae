"""``GET /events``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web

from sampan.base.errors import InvalidArgument
from sampan.model.event import Event

from .call import Call
from .replies import JSON, encode
from .routing import Route
from .streams import parse_timestamp_ns, send_all


def render_event(event: Event) -> dict[str, Any]:
    """With ``status``, ``id`` and ``from``, which API 1.52 dropped and older clients read."""
    result: dict[str, Any] = {}
    if event.type in ("container", "image"):
        result["status"] = event.action
        result["id"] = event.actor_id
    if event.type == "container" and event.attributes.get("image"):
        result["from"] = event.attributes["image"]
    result["Type"] = event.type
    result["Action"] = event.action
    result["Actor"] = {"ID": event.actor_id, "Attributes": event.attributes}
    result["scope"] = event.scope
    result["time"] = event.time_ns // 1_000_000_000
    result["timeNano"] = event.time_ns
    return result


async def events(call: Call) -> web.StreamResponse:
    since_text, until_text = call.text("since"), call.text("until")
    since_ns = parse_timestamp_ns(since_text)
    until_ns = parse_timestamp_ns(until_text)
    if until_ns and until_ns < since_ns:
        raise InvalidArgument(f"`since` time ({since_text}) cannot be after `until` time ({until_text})")
    source = call.engine.events.subscribe(since_ns, until_ns, call.filters())
    return await send_all(call, _lines(source, call.version), JSON)


async def _lines(source: AsyncIterator[Event], version: int) -> AsyncIterator[bytes]:
    try:
        async for event in source:
            if version < 46 and event.type == "image" and event.action == "create":
                continue
            yield encode(render_event(event)) + b"\n"
    finally:
        close = getattr(source, "aclose", None)
        if close is not None:
            await close()


ROUTES = (Route("GET", "/events", events),)
