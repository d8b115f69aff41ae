"""Webhooks: tell others over HTTP what happened.

Each has a queue of its own with an end: a receiver that is away costs its own oldest notifications and
nothing else. What is queued is lost when the process is killed; a receiver that must miss nothing also
compares from time to time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence

import aiohttp
import msgspec

from sampan.model.registry import RegistryEvent

from ..metrics import Counter
from ..patterns import EVERYTHING, Patterns
from .envelope import MEDIA_TYPE, SIGNATURE, Source, envelope, signature

log = logging.getLogger(__name__)

_FIRST_WAIT_S = 1.0
_LONGEST_WAIT_S = 300.0
_AGAIN = frozenset((408, 425, 429))
"""Of the statuses below 500, those that say "later"."""


class WebhookSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One receiver."""

    url: str
    secret: bytes = b""
    """Signs the body (HMAC-SHA256), so that the receiver knows that it came from here."""
    repositories: Patterns = EVERYTHING
    actions: frozenset[str] = frozenset(("push", "pull", "delete", "mount"))
    kinds: frozenset[str] = frozenset(("manifest", "tag"))
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)
    timeout_s: float = 10.0
    attempts: int = 8
    queue_length: int = 1000

    def wants(self, event: RegistryEvent) -> bool:
        return (
            event.action in self.actions
            and event.kind in self.kinds
            and self.repositories.match(event.repository)
        )


class Refused(Exception):
    """The receiver will not take this notification, now or ever."""


class Later(Exception):
    """The receiver does not take it now."""

    def __init__(self, reason: str, after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.after_s = after_s
        """As the receiver asked."""


def wait_s(attempt: int, asked_s: float, chance: float) -> float:
    """Seconds before the next attempt: doubling, spread, and never shorter than asked (within bounds).

    ``attempt`` counts from 1, ``chance`` is between 0 and 1.
    """
    doubled = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * float(1 << min(attempt - 1, 20)))
    return max(doubled * (0.5 + chance / 2), min(asked_s, _LONGEST_WAIT_S))


class Webhook:
    """One receiver, its queue and the task that empties it."""

    def __init__(
        self,
        settings: WebhookSettings,
        source: Source,
        session: Callable[[], aiohttp.ClientSession],
        *,
        base_url: str = "",
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        outcomes: Counter,
    ) -> None:
        self._settings = settings
        self._source = source
        self._session = session
        self._base_url = base_url
        self._sleep = sleep
        self._outcomes = outcomes
        self._queue: deque[bytes] = deque()
        self._filled = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._task: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        return self._settings.url

    @property
    def waiting(self) -> int:
        """Notifications in the queue."""
        return len(self._queue)

    def tell(self, event: RegistryEvent) -> None:
        if not self._settings.wants(event):
            return
        if len(self._queue) >= self._settings.queue_length:
            self._queue.popleft()
            self._outcomes.add(1, self._settings.url, "dropped")
        body = envelope(event, event_id=str(uuid.uuid4()), source=self._source, base_url=self._base_url)
        self._queue.append(body)
        self._idle.clear()
        self._filled.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            while self._queue:
                await self._deliver(self._queue.popleft())
            self._idle.set()
            self._filled.clear()
            await self._filled.wait()

    async def _deliver(self, body: bytes) -> None:
        for attempt in range(1, self._settings.attempts + 1):
            try:
                await self._post(body)
            except Later as problem:
                if attempt < self._settings.attempts:
                    await self._sleep(wait_s(attempt, problem.after_s, random.random()))  # noqa: S311
                    continue
                log.warning("webhook %s: given up: %s", self._settings.url, problem)
                self._outcomes.add(1, self._settings.url, "failed")
            except Refused as problem:
                log.warning("webhook %s: %s", self._settings.url, problem)
                self._outcomes.add(1, self._settings.url, "refused")
            else:
                self._outcomes.add(1, self._settings.url, "delivered")
            return

    async def _post(self, body: bytes) -> None:
        headers = {**self._settings.headers, "Content-Type": MEDIA_TYPE}
        if self._settings.secret:
            headers[SIGNATURE] = signature(self._settings.secret, body)
        timeout = aiohttp.ClientTimeout(total=self._settings.timeout_s)
        try:
            async with self._session().post(
                self._settings.url, data=body, headers=headers, timeout=timeout, allow_redirects=False
            ) as answer:
                status, asked = answer.status, answer.headers.get("Retry-After", "")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Later(f"{type(error).__name__}: {error}") from None
        if status < 300:
            return
        if status in _AGAIN or status >= 500:
            raise Later(f"status {status}", float(asked) if asked.isdecimal() else 0.0)
        raise Refused(f"refused with status {status}")

    async def close(self, patience_s: float) -> None:
        """Deliver what is queued if that takes no longer than allowed, then give up."""
        if self._task is None:
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), patience_s)
        if not self._idle.is_set():
            log.warning("webhook %s: %d notifications not delivered", self._settings.url, self.waiting + 1)
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._task = None


class Webhooks:
    """All of them. Passes the contract of :class:`sampan.registry.ports.Observer`."""

    def __init__(
        self, settings: Sequence[WebhookSettings], source: Source, outcomes: Counter, *, base_url: str = ""
    ) -> None:
        self._client: aiohttp.ClientSession | None = None
        self.hooks = tuple(
            Webhook(one, source, self._session, base_url=base_url, outcomes=outcomes) for one in settings
        )

    def _session(self) -> aiohttp.ClientSession:
        if self._client is None:
            self._client = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        return self._client

    def happened(self, event: RegistryEvent) -> None:
        for hook in self.hooks:
            hook.tell(event)

    async def close(self, patience_s: float = 5.0) -> None:
        await asyncio.gather(*(hook.close(patience_s) for hook in self.hooks))
        if self._client is not None:
            await self._client.close()
            self._client = None
