"""From method and path to a handler, by two dictionary look-ups.

Every path of the API is ``/<noun>``, ``/<noun>/<verb>``, ``/<noun>/<name>`` or ``/<noun>/<name>/<verb>``; a
name may itself contain slashes (images), and so may a verb (``attach/ws``).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple
from urllib.parse import unquote

from aiohttp import web

from .call import Call

_OWN = "/sampan/"
"""Paths that are not Docker's are deeper: their name comes last."""
Handler = Callable[[Call], Awaitable[web.StreamResponse]]


class Route(NamedTuple):
    method: str
    path: str
    """``{}`` stands for the name."""
    handler: Handler


class Router:
    """Built once from all tables of routes."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._fixed: dict[tuple[str, str], Handler] = {}
        self._named: dict[tuple[str, str, str], Handler] = {}
        for route in routes:
            if "{}" in route.path:
                noun, verb = route.path.split("{}")
                key = (route.method, noun, verb)
                if key in self._named:
                    raise ValueError(f"two handlers for {route.method} {route.path}")
                self._named[key] = route.handler
            else:
                if (route.method, route.path) in self._fixed:
                    raise ValueError(f"two handlers for {route.method} {route.path}")
                self._fixed[route.method, route.path] = route.handler

    def find(self, method: str, path: str) -> tuple[Handler, str] | None:
        """The handler and the name in ``path``, or None."""
        handler = self._fixed.get((method, path))
        if handler is not None:
            return handler, ""
        cut = path.find("/", 1)
        if cut < 0:
            return None
        if path.startswith(_OWN):
            cut = path.rfind("/")
        noun = path[: cut + 1]
        rest = path[cut + 1 :]
        end = rest.rfind("/")
        while end > 0:
            handler = self._named.get((method, noun, rest[end:]))
            if handler is not None:
                return handler, _decoded(rest[:end])
            if rest.count("/", end) > 1:
                break
            end = rest.rfind("/", 0, end)
        handler = self._named.get((method, noun, ""))
        if handler is not None and rest:
            return handler, _decoded(rest)
        return None


def _decoded(name: str) -> str:
    return unquote(name) if "%" in name else name
