"""The event stream: the last events kept in a ring, everything new handed to each subscriber.

Filter semantics are those of Docker's ``GET /events``.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from sampan.base.clock import now_ns
from sampan.model.event import Event

from .filters import Filters

log = logging.getLogger(__name__)

KEPT = 256
"""Events that a later ``since`` can still see; Docker keeps as many."""
BACKLOG_LIMIT = 8192
"""Undelivered events after which a subscriber that does not read is cut off."""

ACTION_PREFIXES = ("health_status", "exec_create", "exec_start")
"""Actions that carry a value behind a colon: an ``event`` filter naming one matches by prefix."""
NAMED_TYPES = ("daemon", "container", "plugin", "volume", "network", "node", "service", "secret", "config")
ACCEPTED = {*NAMED_TYPES, "event", "image", "label", "scope", "type"}


class EventStream:
    """One reader: an async iterator that is subscribed from its making until :meth:`aclose`."""

    def __init__(self, owner: Events, matches: Callable[[Event], bool], until_ns: int) -> None:
        self._owner = owner
        self._matches = matches
        self._until_ns = until_ns
        self._pending: deque[Event] = deque()
        self._overrun = False
        self._wake = asyncio.Event()

    def offer(self, event: Event) -> None:
        if self._overrun or not self._matches(event) or (self._until_ns and event.time_ns > self._until_ns):
            return
        if len(self._pending) >= BACKLOG_LIMIT:
            self._overrun = True
            log.warning("a reader of events does not read: cut off after %d events", BACKLOG_LIMIT)
        else:
            self._pending.append(event)
        self._wake.set()

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> Event:
        while not self._pending:
            timeout_s = (self._until_ns - self._owner.now()) / 1e9 if self._until_ns else None
            if self._overrun or (timeout_s is not None and timeout_s <= 0):
                await self.aclose()
                raise StopAsyncIteration
            self._wake.clear()
            try:
                await asyncio.wait_for(self._wake.wait(), timeout_s)
            except TimeoutError:
                continue
        return self._pending.popleft()

    async def aclose(self) -> None:
        """Unsubscribe. Idempotent."""
        self._owner.forget(self)


class Events:
    """Publishing is synchronous and never waits for a reader."""

    def __init__(self, now: Callable[[], int] = now_ns) -> None:
        self.now = now
        self._recent: deque[Event] = deque(maxlen=KEPT)
        self._streams: set[EventStream] = set()

    def publish(self, type_: str, action: str, actor_id: str, attributes: dict[str, str]) -> None:
        """``attributes`` belongs to the event from here on."""
        event = Event(type=type_, action=action, actor_id=actor_id, attributes=attributes, time_ns=self.now())
        self._recent.append(event)
        for stream in self._streams:
            stream.offer(event)

    @property
    def subscriber_count(self) -> int:
        return len(self._streams)

    def subscribe(
        self, since_ns: int = 0, until_ns: int = 0, filters: Mapping[str, Sequence[str]] | None = None
    ) -> EventStream:
        """Events from ``since_ns`` (0: from now on) to ``until_ns`` (0: for ever), in order.

        Raises InvalidArgument for unknown filters. The caller must ``aclose`` what it does not read to
        the end.
        """
        accepted = Filters(filters or {})
        accepted.require_known(ACCEPTED)
        stream = EventStream(self, lambda event: event_matches(accepted, event), until_ns)
        if since_ns:
            for event in self._recent:
                if event.time_ns >= since_ns:
                    stream.offer(event)
        self._streams.add(stream)
        return stream

    def forget(self, stream: EventStream) -> None:
        self._streams.discard(stream)


def event_matches(filters: Filters, event: Event) -> bool:
    """All of the filters' keys agree; within one key, any value."""
    if not filters:
        return True
    return (
        _action_matches(filters, event.action)
        and filters.exact("type", event.type)
        and filters.exact("scope", event.scope)
        and all(
            filters.prefix(kind, event.actor_id) or filters.prefix(kind, event.attributes.get("name", ""))
            for kind in NAMED_TYPES
        )
        and _image_matches(filters, event)
        and filters.labels("label", event.attributes)
    )


def _action_matches(filters: Filters, action: str) -> bool:
    if any(value in ACTION_PREFIXES for value in filters.get("event")):
        return filters.prefix("event", action)
    return filters.exact("event", action)


def _image_matches(filters: Filters, event: Event) -> bool:
    if "image" not in filters:
        return True
    name = event.attributes.get("name" if event.type == "image" else "image", "")
    return any(
        filters.exact("image", candidate)
        for text in (event.actor_id, name)
        for candidate in (text, _without_tag(text))
    )


def _without_tag(name: str) -> str:
    head = name.partition("@")[0]
    colon = head.rfind(":")
    return head[:colon] if colon > head.rfind("/") else head
