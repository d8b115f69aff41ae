"""From method and path to a handler and the action it needs.

A repository's name holds slashes and may hold any word of the API itself: paths are read from the end.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import NamedTuple
from urllib.parse import unquote

from aiohttp import web

from sampan.model.registry import Action
from sampan.registry.errors import NameUnknown, Unsupported

from .call import Call

Handler = Callable[[Call], Awaitable[web.StreamResponse]]


class Endpoint(NamedTuple):
    handler: Handler
    action: Action


class Route(NamedTuple):
    """``pattern`` matches what follows ``/v2/``; group 1 is the repository, group 2 the reference."""

    pattern: re.Pattern[str]
    methods: Mapping[str, Endpoint]


class Match(NamedTuple):
    endpoint: Endpoint
    name: str
    reference: str


def route(pattern: str, **methods: tuple[Handler, Action]) -> Route:
    """``POST=(handler, action)``; HEAD goes where GET does."""
    endpoints = {method: Endpoint(*pair) for method, pair in methods.items()}
    if "GET" in endpoints:
        endpoints.setdefault("HEAD", endpoints["GET"])
    return Route(re.compile(pattern), endpoints)


def unsupported(method: str, methods: Iterable[str]) -> Unsupported:
    known = sorted(methods)
    return Unsupported(f"{method[:20]} is not supported here: use {', '.join(known)}", known)


def match(routes: tuple[Route, ...], method: str, path: str) -> Match:
    """``path`` as it came. Raises NameUnknown (no such page), Unsupported (no such method there)."""
    plain = unquote(path.removeprefix("/v2/")) if "%" in path else path.removeprefix("/v2/")
    for one in routes:
        found = one.pattern.fullmatch(plain)
        if found is None:
            continue
        endpoint = one.methods.get(method)
        if endpoint is None:
            raise unsupported(method, one.methods)
        groups = (*found.groups(), "", "")
        return Match(endpoint, groups[0] or "", groups[1] or "")
    raise NameUnknown(f"page not found: {path[:256]}")
