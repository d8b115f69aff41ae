"""What the registry answers beside ``/v2/``: the web page, tokens, search, metrics, administration."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from aiohttp import web

from sampan.registry.errors import NameUnknown

from .call import Call
from .routing import Handler, unsupported


class Page(NamedTuple):
    """``path`` as it is, or with ``*`` at its end for everything below. What answers GET answers HEAD."""

    method: str
    path: str
    handler: Handler


class Pages(Protocol):
    """One subject of the annex."""

    def pages(self) -> Sequence[Page]: ...


class Annex:
    """Give :meth:`answer` to RegistryApi as its page ``/``."""

    def __init__(self, subjects: Iterable[Pages]) -> None:
        self._fixed: dict[str, dict[str, Handler]] = {}
        self._below: dict[str, dict[str, Handler]] = {}
        for subject in subjects:
            for method, path, handler in subject.pages():
                table = self._below if path.endswith("*") else self._fixed
                methods = table.setdefault(path.rstrip("*"), {})
                methods[method] = handler
                if method == "GET":
                    methods["HEAD"] = handler

    async def answer(self, call: Call) -> web.StreamResponse:
        """Raises NameUnknown (no such page), Unsupported (no such method there)."""
        methods = self._find(call.path)
        if methods is None:
            raise NameUnknown(f"page not found: {call.path[:256]}")
        handler = methods.get(call.request.method)
        if handler is None:
            raise unsupported(call.request.method, methods)
        return await handler(call)

    def _find(self, path: str) -> dict[str, Handler] | None:
        methods = self._fixed.get(path)
        if methods is not None:
            return methods
        for prefix, below in self._below.items():
            if path.startswith(prefix) and len(path) > len(prefix):
                return below
        return None
