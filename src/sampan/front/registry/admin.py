"""``/_registry/v1/``: administration, for those whom a rule gives ``admin`` on ``**``, and through the socket
that is this machine's own. ``sampan registry`` is its client.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol

import msgspec
from aiohttp import web

from sampan import __version__
from sampan.base.errors import Conflict, SampanError
from sampan.registry.browsing import Browser
from sampan.registry.errors import Denied
from sampan.registry.policy.gate import PolicyGate
from sampan.registry.policy.retaining import Retention

from .annex import Page
from .call import Call
from .replies import json_reply

log = logging.getLogger(__name__)
PREFIX = "/_registry/v1"
_MOST = 1000
_TRUE = frozenset(("1", "true", "yes"))


class Job(Protocol):
    """Something that runs for a while, once at a time: garbage collection, scrubbing, retention."""

    @property
    def is_running(self) -> bool: ...

    @property
    def last(self) -> msgspec.Struct:
        """The present run, or the one before."""


class JobRunning(Conflict):
    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is running: ask for its state")


class JobState(msgspec.Struct, frozen=True):
    running: bool
    report: msgspec.Struct


class RegistryUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Of the whole registry."""

    version: str
    repositories: int
    manifests: int
    tags: int
    blobs: int
    blob_bytes: int
    """Each blob counted once, however many repositories share it."""


class RepositoryLine(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    tags: int
    manifests: int
    blobs: int
    size_bytes: int
    updated_ns: int
    quota_bytes: int | None


class TagLine(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    digest: str
    media_type: str
    platforms: tuple[str, ...]
    size_bytes: int
    updated_ns: int
    pulled_ns: int
    immutable: bool


class Listing(msgspec.Struct, frozen=True):
    """``next``: give it as ``after`` for what follows; "" at the end."""

    items: Sequence[msgspec.Struct]
    next: str = ""


class AdminPages:
    def __init__(
        self,
        *,
        browser: Browser,
        gate: PolicyGate,
        retention: Retention,
        jobs: Mapping[str, tuple[Job, Callable[[bool], Coroutine[Any, Any, object]]]],
        upstreams: Callable[[], Sequence[msgspec.Struct]],
    ) -> None:
        """``jobs``: by the last part of their path; what runs one is told of ``everything=1``."""
        self._browser = browser
        self._gate = gate
        self._retention = retention
        self._jobs = jobs
        self._upstreams = upstreams
        self._tasks: set[asyncio.Task[None]] = set()

    def pages(self) -> Sequence[Page]:
        pages = [
            self._page("GET", "usage", self.usage),
            self._page("GET", "repositories", self.repositories),
            self._page("GET", "tags", self.tags),
            self._page("GET", "retention", self.dry_run),
            self._page("GET", "upstreams", self.upstreams),
        ]
        for name in self._jobs:
            if name != "retention":  # there GET is a dry run
                pages.append(self._page("GET", name, self.state))
            pages.append(self._page("POST", name, self.start))
        pages.append(self._page("GET", "retention/state", self.state))
        return pages

    def _page(self, method: str, name: str, answer: Callable[[Call], Awaitable[web.StreamResponse]]) -> Page:
        async def guarded(call: Call) -> web.StreamResponse:
            call.require("admin", "")
            if method != "GET" and call.header("Origin"):
                # a browser sends the password it knows along with forms of other sites too
                raise Denied("administration is not for web pages: use 'sampan registry'")
            return await answer(call)

        return Page(method, f"{PREFIX}/{name}", guarded)

    async def close(self) -> None:
        """Jobs under way are cut off; each can be."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # lists

    async def usage(self, call: Call) -> web.StreamResponse:
        index = call.registry.index
        repositories, tags, manifests = index.repositories.totals()
        blobs, size = index.blobs.totals()
        return json_reply(
            RegistryUsage(
                version=__version__,
                repositories=repositories,
                manifests=manifests,
                tags=tags,
                blobs=blobs,
                blob_bytes=size,
            )
        )

    async def repositories(self, call: Call) -> web.StreamResponse:
        limit = self._limit(call)
        found, more = await self._browser.repositories(
            call.text("q"), lambda name: True, after=call.text("after"), limit=limit
        )
        lines = [
            RepositoryLine(
                name=one.repository,
                tags=one.tags,
                manifests=one.manifests,
                blobs=one.blobs,
                size_bytes=one.size_bytes,
                updated_ns=one.updated_ns,
                quota_bytes=self._gate.quota_of(one.repository),
            )
            for one in found
        ]
        return json_reply(Listing(lines, lines[-1].name if more else ""))

    async def tags(self, call: Call) -> web.StreamResponse:
        repository = call.text("repository")
        found, more = await self._browser.tags(repository, after=call.text("after"), limit=self._limit(call))
        lines = [
            TagLine(
                name=one.info.name,
                digest=one.info.digest,
                media_type=one.info.media_type,
                platforms=one.platforms,
                size_bytes=one.info.size_bytes,
                updated_ns=one.info.updated_ns,
                pulled_ns=one.info.pulled_ns,
                immutable=self._gate.is_immutable(repository, one.info.name),
            )
            for one in found
        ]
        return json_reply(Listing(lines, lines[-1].name if more else ""))

    async def upstreams(self, call: Call) -> web.StreamResponse:
        return json_reply(Listing(self._upstreams()))

    def _limit(self, call: Call) -> int:
        return max(1, min(call.number("limit") or 100, _MOST))

    # jobs

    async def dry_run(self, call: Call) -> web.StreamResponse:
        return json_reply(await self._retention.run(dry_run=True, repository=call.text("repository")))

    async def state(self, call: Call) -> web.StreamResponse:
        job, _ = self._jobs[self._name(call)]
        return json_reply(JobState(job.is_running, job.last))

    async def start(self, call: Call) -> web.StreamResponse:
        """Answers at once; the state tells how it goes. Raises JobRunning."""
        job, run = self._jobs[self._name(call)]
        if job.is_running:
            raise JobRunning(self._name(call))
        task = asyncio.create_task(_carried_out(run(call.text("everything") in _TRUE), self._name(call)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.sleep(0)  # as far as its first wait: by then it has begun
        return json_reply(JobState(job.is_running, job.last), 202)

    def _name(self, call: Call) -> str:
        return call.path.removeprefix(f"{PREFIX}/").partition("/")[0]


async def _carried_out(job: Coroutine[Any, Any, object], name: str) -> None:
    """Its report has the error too."""
    try:
        await job
    except SampanError as error:
        log.error("%s: %s", name, error.message)
