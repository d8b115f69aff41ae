"""``/metrics``, and the counting of requests for it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Sequence

from aiohttp import web
from aiohttp.web_request import BaseRequest

from sampan.model.registry import RegistryEvent
from sampan.registry.metrics import CONTENT_TYPE, Counter, Gauge, Histogram, exposition

from .annex import Page
from .call import Call
from .replies import reply

Metric = Counter | Gauge | Histogram
Handle = Callable[[BaseRequest], Awaitable[web.StreamResponse]]
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
_KINDS = (
    ("/blobs/uploads/", "uploads"),
    ("/blobs/", "blobs"),
    ("/manifests/", "manifests"),
    ("/tags/list", "tags"),
    ("/referrers/", "referrers"),
    ("/v2/_catalog", "catalog"),
)


def kind_of(path: str) -> str:
    """The part of the API, never a name: names would make a series each."""
    if path.startswith("/v2/"):
        return next((kind for mark, kind in _KINDS if mark in path), "base")
    first = path.partition("?")[0].lstrip("/").partition("/")[0]
    return {"": "page", "browse": "page", "v2": "base", "v1": "search", "_registry": "admin"}.get(
        first, first if first in ("token", "metrics", "login") else "other"
    )


class RequestMetrics:
    """Counts what goes through :meth:`measured`, and what happens in the registry."""

    def __init__(self) -> None:
        self.requests = Counter(
            "sampan_registry_requests_total", "Requests answered.", ("method", "part", "status")
        )
        self.durations = Histogram(
            "sampan_registry_request_seconds", "Time until an answer begins.", ("method", "part")
        )
        self.events = Counter(
            "sampan_registry_events_total", "Pushes, pulls, deletions and mounts.", ("action", "kind")
        )
        self.event_bytes = Counter(
            "sampan_registry_event_bytes_total", "Bytes of what was pushed or pulled.", ("action", "kind")
        )

    @property
    def metrics(self) -> Sequence[Metric]:
        return (self.requests, self.durations, self.events, self.event_bytes)

    def measured(self, handle: Handle) -> Handle:
        async def measuring(request: BaseRequest) -> web.StreamResponse:
            began = time.perf_counter()
            status = "500"
            try:
                answer = await handle(request)
                status = str(answer.status)
                return answer
            finally:
                method = request.method if request.method in _METHODS else "other"
                part = kind_of(request.raw_path)
                self.durations.observe(time.perf_counter() - began, method, part)
                self.requests.add(1, method, part, status)

        return measuring

    def happened(self, event: RegistryEvent) -> None:
        self.events.add(1, event.action, event.kind)
        self.event_bytes.add(event.size_bytes, event.action, event.kind)


class MetricsPages:
    def __init__(self, metrics: Callable[[], Iterable[Metric]], *, for_everybody: bool) -> None:
        self._metrics = metrics
        self._for_everybody = for_everybody

    def pages(self) -> Sequence[Page]:
        return (Page("GET", "/metrics", self.get),)

    async def get(self, call: Call) -> web.StreamResponse:
        if not self._for_everybody:
            call.require("admin", "")
        return reply(200, (), exposition(self._metrics()), CONTENT_TYPE)
