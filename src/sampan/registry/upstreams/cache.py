"""The pull-through cache: which upstream a repository is of, what is here, and what has to be fetched.

A tag is believed for a while, then asked for again by HEAD, which costs nothing of the hub's allowance; only
another digest is fetched. What is known by digest is never asked for again. When the upstream fails, what is
here is served, with a warning.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TypeVar

from sampan.base.errors import NotFound, SampanError
from sampan.model.registry import StoredManifest
from sampan.transfer.manifests import Fetched

from ..errors import BlobUnknown, Denied, TooManyRequests
from ..locks import NamedLocks
from ..names import is_tag
from ..service import Registry
from .eviction import evict
from .fetch import Fetch
from .settings import UpstreamSettings, UpstreamState
from .source import Source, UpstreamAway, UpstreamRefuses
from .sources import Sources

K = TypeVar("K")
V = TypeVar("V")
log = logging.getLogger(__name__)
_REMEMBERED = 20_000
"""Tags and missing things, each."""
_WARNED = 1000


class UpstreamForbids(Denied):
    """The settings do not let this be asked for."""


class Cache:
    """An ``Upstreams`` of several upstreams, ``Notices`` of what it served stale, and an ``Evictor``.

    ::

        cache = Cache(registry, [UpstreamSettings(prefix="docker.io", url="https://registry-1.docker.io")])
        registry.connect(upstreams=cache, notices=...)      # ask cache.warnings(repository) there, too
        garbage = Garbage(registry, settings, evictor=cache)
        ...
        await cache.close()                                 # before the registry's storage
    """

    def __init__(
        self,
        registry: Registry,
        upstreams: Sequence[UpstreamSettings],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._clock = clock
        self._sources = Sources(upstreams, clock)
        self._checked: OrderedDict[tuple[str, str], float] = OrderedDict()
        """When a tag was last compared with the upstream's."""
        self._missing: OrderedDict[tuple[str, str], float] = OrderedDict()
        """Until when something is known to be nowhere."""
        self._stale: OrderedDict[str, str] = OrderedDict()
        """By repository: what to warn of."""
        self._turns = NamedLocks()
        self._fetches: dict[tuple[str, str], Fetch] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """What is being fetched is cut off, and asked for again by the next client."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._sources.close()

    # names

    def serves(self, repository: str) -> bool:
        return self._sources.find(repository) is not None

    def local_name(self, repository: str, namespace: str = "") -> str:
        return self._sources.local_name(repository, namespace)

    def warnings(self, repository: str) -> Sequence[str]:
        text = self._stale.get(repository)
        return (text,) if text else ()

    def states(self) -> list[UpstreamState]:
        return [source.now() for source in self._sources]

    # manifests

    async def manifest(self, repository: str, reference: str) -> StoredManifest | None:
        """Raises UpstreamAway, UpstreamRefuses, UpstreamForbids, TooManyRequests when it is not here."""
        source, path = self._sources.require(repository)
        here = self._here(repository, reference)
        if here is not None and (":" in reference or self._is_fresh(source, repository, reference)):
            source.state.hits += 1
            return here
        async with self._turns.hold(f"{repository}@{reference}"):
            # somebody else may have asked while we waited
            here = self._here(repository, reference)
            if here is not None and (":" in reference or self._is_fresh(source, repository, reference)):
                source.state.hits += 1
                return here
            if self._is_missing(repository, reference):
                return None
            try:
                return await self._ask(source, path, repository, reference, here)
            except (UpstreamAway, UpstreamRefuses, UpstreamForbids, TooManyRequests) as error:
                if here is None:
                    raise
                self._warn(source, repository, error)
                return here

    def _here(self, repository: str, reference: str) -> StoredManifest | None:
        found = self._registry.manifests.find(repository, reference)
        return found[1] if found is not None else None

    async def _ask(
        self, source: Source, path: str, repository: str, reference: str, here: StoredManifest | None
    ) -> StoredManifest | None:
        """``here``: what the tag stood for until now."""
        if not source.settings.allow.match(path):
            raise UpstreamForbids(f"{path} may not be fetched from {source.settings.answers_to}")
        wanted = reference
        if here is not None:
            digest = await source.digest_of(path, reference)
            if digest is None:
                self._gone(repository, reference)
                return None
            known = self._here(repository, digest) if digest.startswith("sha256:") else None
            if known is not None:
                source.state.revalidated += 1
                return self._confirmed(repository, reference, known, moved=digest != here.digest)
            if digest.startswith("sha256:"):
                # by its digest it can be verified, and is the one that was promised
                wanted = digest
        fetched = await source.manifest(path, wanted)
        if fetched is None:
            self._gone(repository, reference)
            return None
        source.state.fetched_manifests += 1
        return self._confirmed(repository, reference, fetched, moved=True)

    def _confirmed(
        self, repository: str, reference: str, found: StoredManifest | Fetched, *, moved: bool
    ) -> StoredManifest:
        body = found.body if isinstance(found, StoredManifest) else found.data
        if moved or isinstance(found, Fetched):
            stored = self._registry.manifests.keep_copy(repository, reference, body, found.media_type)
        else:
            stored = found
        self._stale.pop(repository, None)
        self._missing.pop((repository, reference), None)
        if ":" not in reference:
            _remember(self._checked, (repository, reference), self._clock(), _REMEMBERED)
        return stored

    def _gone(self, repository: str, reference: str) -> None:
        """The upstream does not have it: neither have we, by this name."""
        self._remember_missing(repository, reference)
        if is_tag(reference):
            number = self._registry.index.repositories.find(repository)
            if number is not None:
                self._registry.index.tags.delete(number, reference)

    def _is_fresh(self, source: Source, repository: str, tag: str) -> bool:
        checked_s = self._checked.get((repository, tag))
        return checked_s is not None and self._clock() - checked_s < source.settings.fresh_s

    def _warn(self, source: Source, repository: str, error: SampanError) -> None:
        source.state.stale += 1
        text = f"this copy may be old: {error.message}"
        if self._stale.get(repository) != text:
            log.warning("%s: %s", repository, text)
        _remember(self._stale, repository, text, _WARNED)

    # blobs

    async def blob(self, repository: str, digest: str) -> bool:
        """Waits until it is here. Raises as :meth:`manifest`."""
        fetch = self._fetch(repository, digest)
        if fetch is None:
            return False
        try:
            await asyncio.shield(fetch.stored)
        except NotFound:
            return False
        return True

    async def stream(
        self, repository: str, digest: str
    ) -> tuple[int, Callable[[], AsyncIterator[bytes]]] | None:
        """Size of a blob that is being fetched and what gives its content; None when it has to be waited for
        in :meth:`blob`: its size is not known, or it is not to be had. Raises as :meth:`manifest`."""
        fetch = self._fetch(repository, digest)
        if fetch is None:
            return None
        me = fetch.join()
        try:
            await asyncio.shield(fetch.opened)
        except BaseException as error:
            fetch.leave(me)
            if isinstance(error, NotFound):
                return None
            raise
        if fetch.size_bytes is None:
            fetch.leave(me)
            return None
        return fetch.size_bytes, functools.partial(fetch.follow, me)

    def _fetch(self, repository: str, digest: str) -> Fetch | None:
        """The one that is under way, or a new one; None: it is known to be missing."""
        key = (repository, digest)
        if (found := self._fetches.get(key)) is not None:
            return found
        if self._is_missing(repository, digest):
            return None
        source, path = self._sources.require(repository)
        if not source.settings.allow.match(path):
            raise UpstreamForbids(f"{path} may not be fetched from {source.settings.answers_to}")
        fetch = self._fetches[key] = Fetch(source, path, digest, self._registry.storage)
        task = asyncio.create_task(self._carry_out(fetch, source, path, repository, digest))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return fetch

    async def _carry_out(self, fetch: Fetch, source: Source, path: str, repository: str, digest: str) -> None:
        async def store(pieces: AsyncIterator[bytes]) -> int:
            async with self._turns.hold(digest), source.places:
                size = await _adopted(self._registry, source, path, repository, digest)
                if size is None:
                    size = await self._registry.uploads.keep_copy(repository, digest, pieces)
                    source.state.fetched_blobs += 1
                return size

        try:
            await fetch.run(store)
        finally:
            del self._fetches[repository, digest]
            if fetch.stored.done() and isinstance(fetch.stored.exception(), NotFound):
                self._remember_missing(repository, digest)

    # what is nowhere

    def _is_missing(self, repository: str, reference: str) -> bool:
        return self._missing.get((repository, reference), 0.0) > self._clock()

    def _remember_missing(self, repository: str, reference: str) -> None:
        source, _ = self._sources.require(repository)
        until_s = self._clock() + source.settings.negative_s
        _remember(self._missing, (repository, reference), until_s, _REMEMBERED)

    # room

    async def evict(self) -> int:
        """Remove manifests nobody pulls, and the least recently pulled beyond the limits; how many. Their
        blobs are the collector's."""
        count = 0
        for source in self._sources:
            evicted = await evict(self._registry, source.settings)
            source.state.evicted += evicted
            count += evicted
        return count


def _remember(known: OrderedDict[K, V], key: K, value: V, limit: int) -> None:
    known[key] = value
    known.move_to_end(key)
    while len(known) > limit:
        known.popitem(last=False)


async def _adopted(registry: Registry, source: Source, path: str, repository: str, digest: str) -> int | None:
    """The size of a blob that another repository has here, when the upstream's has it too; None: it is
    not here. Raises BlobUnknown."""
    context = registry.context
    if context.index.blobs.find(digest) is None:
        return None
    if not await source.has_blob(path, digest):
        raise BlobUnknown(f"blob {digest} is not in the upstream's {path}")
    async with context.digests.hold(digest):
        blob = context.index.blobs.find(digest)
        if blob is None:
            return None
        with context.index.transaction():
            registry.blobs.adopt(repository, digest, blob.size_bytes)
    return blob.size_bytes
