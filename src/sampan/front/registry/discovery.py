"""``/v2/``, the catalogue and tags."""

from __future__ import annotations

from aiohttp import web

from .call import Call
from .paging import cut, link, page_size
from .replies import JSON, head_reply, json_reply, warning_pairs
from .replies import encode as encoded
from .routing import route
from .views import CatalogView, TagsView


async def base(call: Call) -> web.StreamResponse:
    return _answer(call, {}, [])


async def catalog(call: Call) -> web.StreamResponse:
    size = page_size(call)

    def sees(repository: str) -> bool:
        return call.authenticator.sees(call.identity, repository)

    names = call.registry.repositories.names(call.text("last"), size + 1, sees) if size else []
    names, more = cut(names, size)
    pairs = [link("/v2/_catalog", last=names[-1], n=size)] if more else []
    return _answer(call, CatalogView(repositories=names), pairs)


async def tags(call: Call) -> web.StreamResponse:
    size = page_size(call)
    names = call.registry.tags.names(call.name, call.text("last"), size + 1)
    names, more = cut(names, size)
    pairs = [link(call.path, last=names[-1], n=size)] if more else []
    pairs += warning_pairs(call.registry.context.notices.warnings(call.name))
    return _answer(call, TagsView(name=call.name, tags=names), pairs)


def _answer(call: Call, value: object, pairs: list[tuple[str, str]]) -> web.StreamResponse:
    if call.request.method == "HEAD":
        return head_reply(pairs, len(encoded(value)), JSON)
    return json_reply(value, 200, pairs)


ROUTES = (
    route("", GET=(base, "pull")),
    route("_catalog", GET=(catalog, "pull")),
    route("(.+)/tags/list", GET=(tags, "pull")),
)
