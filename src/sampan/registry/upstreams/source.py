"""One upstream registry: asked through ``sampan.transfer``, left alone while it fails or says to wait."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TypeVar

from sampan.base.errors import SampanError, Unavailable
from sampan.transfer.credentials import Credentials
from sampan.transfer.errors import (
    ContentMismatch,
    RegistryRefused,
    RegistryUnreachable,
    UnsupportedManifest,
)
from sampan.transfer.http import Http
from sampan.transfer.manifests import ACCEPTED, Fetched
from sampan.transfer.registry import Registry
from sampan.transfer.repository import BlobStream, Repository
from sampan.transfer.settings import RegistrySettings

from ..errors import Denied, TooManyRequests
from .settings import UpstreamSettings, UpstreamState

T = TypeVar("T")
_DEFAULT_PAUSE_S = 60.0
_LONGEST_PAUSE_S = 3600.0
_FETCHES = 12
_TOKENS_LIFE_S = 3600.0
"""For so long one client with its tokens, one for each repository, is used."""


class UpstreamAway(Unavailable):
    """It does not answer, or answers that it cannot (HTTP 503)."""


class UpstreamRefuses(Denied):
    """The upstream does not let us: our credentials there are wrong, or it hides that there is nothing."""


class Source:
    """Raises UpstreamAway, UpstreamRefuses and TooManyRequests; what is missing there is None."""

    def __init__(self, settings: UpstreamSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self.settings = settings
        self.state = UpstreamState(prefix=settings.prefix, url=settings.url, namespace=settings.answers_to)
        self._clock = clock
        # no second attempts: a client waits, and what is here may be good enough
        self._http = Http(RegistrySettings(), attempts=1)
        self.places = asyncio.Semaphore(_FETCHES)
        """For blobs that are fetched at once: the connections to one host are few, and one in use for a
        long time must not look to the next one like an upstream that does not answer."""
        self._registry: Registry | None = None
        self._made_s = 0.0
        self._away: SampanError | None = None
        self._away_until_s = 0.0

    async def close(self) -> None:
        await self._http.close()

    def _repository(self, path: str) -> Repository:
        if self._registry is None or self._clock() - self._made_s > _TOKENS_LIFE_S:
            credentials = Credentials(username=self.settings.username, password=self.settings.password)
            self._registry = Registry(self._http, self.settings.endpoint, credentials)
            self._made_s = self._clock()
        return Repository(self._registry, path)

    # questions

    async def digest_of(self, path: str, tag: str) -> str | None:
        """The digest a tag stands for now; "" when the upstream does not say it without sending it all."""

        async def ask(repository: Repository) -> str:
            async with repository.registry.send(
                "HEAD",
                f"/v2/{path}/manifests/{tag}",
                scope=f"repository:{path}:pull",
                headers={"Accept": ", ".join(ACCEPTED)},
                wanted=(200, 405),
            ) as response:
                return response.headers.get("Docker-Content-Digest", "") if response.status == 200 else ""

        return await self._ask(path, ask)

    async def manifest(self, path: str, reference: str) -> Fetched | None:
        return await self._ask(path, lambda repository: repository.manifest(reference))

    async def has_blob(self, path: str, digest: str) -> bool:
        async def ask(repository: Repository) -> bool:
            async with repository.registry.send(
                "HEAD", f"/v2/{path}/blobs/{digest}", scope=f"repository:{path}:pull"
            ):
                return True

        return bool(await self._ask(path, ask))

    async def _ask(self, path: str, question: Callable[[Repository], Awaitable[T]]) -> T | None:
        self._check_here()
        with self._failures(trips=True) as outcome:
            async with asyncio.timeout(self.settings.timeout_s):
                return await question(self._repository(path))
        return outcome.missing()

    @contextlib.asynccontextmanager
    async def blob(self, path: str, digest: str, offset: int) -> AsyncIterator[BlobStream | None]:
        """From ``offset`` on, or from the beginning. What the body of the ``with`` raises of the
        connection's errors becomes ours too."""
        if offset == 0:
            self._check_here()
        yielded = False
        with self._failures(trips=offset == 0):
            async with (
                asyncio.timeout(self.settings.timeout_s) as limit,
                self._repository(path).blob(digest, offset) as stream,
            ):
                limit.reschedule(None)
                yielded = True
                yield stream
        if not yielded:
            yield None

    # failures

    @property
    def is_away(self) -> bool:
        return self._clock() < self._away_until_s

    def now(self) -> UpstreamState:
        """The state as of now."""
        self.state.away_s = round(max(self._away_until_s - self._clock(), 0.0), 3)
        self.state.away = self._away.message if self._away is not None and self.state.away_s else ""
        return self.state

    def _check_here(self) -> None:
        if not self.is_away or self._away is None:
            return
        if isinstance(self._away, TooManyRequests):
            left_s = max(int(self._away_until_s - self._clock()) + 1, 1)
            raise TooManyRequests(self._away.message, left_s)
        raise UpstreamAway(self._away.message)

    @contextlib.contextmanager
    def _failures(self, *, trips: bool) -> Iterator[_Outcome]:
        """``trips``: the next ones who ask are told the same for a while."""
        outcome = _Outcome()
        name = f"upstream {self.settings.answers_to}"
        try:
            yield outcome
        except RegistryRefused as error:
            if error.status == 404:
                outcome.is_missing = True
                return
            text = f"{name}: {error.message}"
            if error.status in (401, 403):
                raise self._failed(UpstreamRefuses(text)) from error
            if error.status == 429:
                pause_s = min(error.retry_after_s or _DEFAULT_PAUSE_S, _LONGEST_PAUSE_S)
                limited = TooManyRequests(text, max(round(pause_s), 1))
                raise self._failed(limited, pause_s) from error
            pause_s = error.retry_after_s or self.settings.negative_s
            raise self._failed(
                UpstreamAway(text), min(pause_s, _LONGEST_PAUSE_S) if trips else 0.0
            ) from error
        except (RegistryUnreachable, ContentMismatch, UnsupportedManifest) as error:
            pause_s = self.settings.negative_s if trips and isinstance(error, RegistryUnreachable) else 0.0
            raise self._failed(UpstreamAway(f"{name}: {error.message}"), pause_s) from error
        except TimeoutError as error:
            text = f"{name}: no answer in {self.settings.timeout_s:g} seconds"
            raise self._failed(UpstreamAway(text), self.settings.negative_s if trips else 0.0) from error

    def _failed(self, error: SampanError, pause_s: float = 0.0) -> SampanError:
        self.state.failures += 1
        self.state.last_error = error.message
        if pause_s:
            self._away, self._away_until_s = error, self._clock() + pause_s
        return error


class _Outcome:
    def __init__(self) -> None:
        self.is_missing = False

    def missing(self) -> None:
        assert self.is_missing
