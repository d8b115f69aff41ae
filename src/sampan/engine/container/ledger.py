"""Applies steps of containers' lives: one transaction, then memory, then the world is told.

The only writer of container rows. What cannot be done at once (timers, removal) goes back to the caller
as the remaining effects.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Literal

from sampan.base.errors import InvalidArgument, SampanError
from sampan.engine.events import Events
from sampan.model.container import Container, ExitRecord, HealthState
from sampan.store.containers import ContainerTable, RunRecord

from .layout import Layout
from .lifecycle import (
    Effect,
    Event,
    Exited,
    Life,
    NotifyStopped,
    Publish,
    RemoveFailed,
    Save,
    StartFailed,
    StopAsked,
    Unpause,
    step,
)
from .registry import Entry, Registry
from .views import ContainerView, WaitResult

log = logging.getLogger(__name__)

Condition = Literal["not-running", "next-exit", "removed"]
CONDITIONS: tuple[Condition, ...] = ("not-running", "next-exit", "removed")

_USES = frozenset(("create", "start"))
"""Events by which a container uses its image."""

HAPPENED = (Exited, StartFailed, StopAsked, RemoveFailed, Unpause)
"""Events that cannot be refused: a full disk must not keep a container from being stopped."""


class Ledger:
    """The registry's writer, and the place where callers wait for changes."""

    def __init__(self, registry: Registry, table: ContainerTable, events: Events, layout: Layout) -> None:
        self.registry = registry
        self.events = events
        self.layout = layout
        self.image_used: Callable[[str], None] = lambda _image_id: None
        """Told of each container that is made or started; set where the parts are put together."""
        self._table = table
        self._waiters: dict[str, set[tuple[Condition, asyncio.Future[WaitResult]]]] = {}

    def view(self, entry: Entry) -> ContainerView:
        return entry.view(self.layout)

    # --- changes ------------------------------------------------------------------------------------------

    def insert(self, record: Container) -> Entry:
        """A new container, in state created."""
        exit_record = ExitRecord()
        self._table.insert(record, exit_record)
        entry = Entry(record, Life(phase="created", exit=exit_record), None)
        self.registry.insert(entry)
        return entry

    def replace_record(self, entry: Entry, record: Container) -> None:
        """Rename or update."""
        self._table.replace(record)
        if record.name != entry.name:
            self.registry.rename(entry, record)
        else:
            entry.replace_record(record)

    def replace_run(self, entry: Entry, run: RunRecord) -> None:
        """What a running container holds of the host is different now: its networks."""
        self._table.set_run(entry.id, entry.life.exit, run)
        entry.run = run
        entry.changed()

    def apply(
        self, entry: Entry, event: Event, run: RunRecord | Literal["same"] | None = "same"
    ) -> tuple[Effect, ...]:
        """Take one step. ``run`` is what the container holds of the host after it.

        Raises what :func:`step` raises, and what the store raises; then nothing has changed. What has
        already happened to the container is kept in memory even if the disk is full.
        """
        if run == "same":
            run = entry.run
        life, effects = step(entry.life, event, entry.rules)
        if any(type(effect) is Save for effect in effects):
            try:
                self._table.set_run(entry.id, life.exit, run)
            except SampanError:
                if not isinstance(event, HAPPENED):
                    raise
                log.exception("container %s: could not record %s", entry.id, type(event).__name__)
        entry.life = life
        entry.run = run
        entry.changed()
        remaining: list[Effect] = []
        for effect in effects:
            match effect:
                case Save():
                    pass
                case Publish(action=action, attributes=attributes):
                    self.publish(entry, action, attributes)
                case NotifyStopped():
                    self.notify_stopped(entry)
                case _:
                    remaining.append(effect)
        return tuple(remaining)

    def set_health(self, entry: Entry, health: HealthState | None) -> None:
        entry.health = health
        entry.changed()

    def set_execs(self, entry: Entry, exec_ids: tuple[str, ...]) -> None:
        entry.exec_ids = exec_ids
        entry.changed()

    def delete(self, entry: Entry) -> None:
        """Gone: from the store, from memory, and everybody who waited for that knows."""
        self._table.delete(entry.record)
        self.registry.delete(entry)
        self.publish(entry, "destroy")
        self.notify_removed(entry)

    # --- telling ------------------------------------------------------------------------------------------

    def publish(self, entry: Entry, action: str, attributes: dict[str, str] | None = None) -> None:
        """A container event: labels, image and name go along. As in Docker labels do not win over them."""
        record = entry.record
        if action in _USES:
            self.image_used(record.image_id)
        merged = dict(attributes) if attributes else {}
        if record.config.labels:
            merged.update(record.config.labels)
        if record.config.image:
            merged["image"] = record.config.image
        merged["name"] = record.name
        self.events.publish("container", action, record.id, merged)

    def wait(self, entry: Entry, condition: str) -> asyncio.Future[WaitResult]:
        """A future that is done when the condition is met; cancel it to stop waiting.

        Raises InvalidArgument for an unknown condition.
        """
        for known in CONDITIONS:
            if condition == known:
                break
        else:
            raise InvalidArgument(f'invalid condition: "{condition}"')
        future: asyncio.Future[WaitResult] = asyncio.get_running_loop().create_future()
        if known == "not-running" and entry.life.phase not in ("running", "paused", "restarting"):
            future.set_result(_result(entry))
            return future
        waiters = self._waiters.setdefault(entry.id, set())
        waiter = (known, future)
        waiters.add(waiter)

        def forget(_: asyncio.Future[WaitResult]) -> None:
            waiters.discard(waiter)
            if not waiters and self._waiters.get(entry.id) is waiters:
                del self._waiters[entry.id]

        future.add_done_callback(forget)
        return future

    def notify_stopped(self, entry: Entry) -> None:
        self._notify(entry, ("not-running", "next-exit"), _result(entry))

    def notify_removed(self, entry: Entry, error: str = "") -> None:
        """``error``: why the removal failed. That of an earlier start is not the removal's."""
        self._notify(entry, CONDITIONS, WaitResult(exit_code=entry.life.exit.exit_code, error=error))

    def _notify(self, entry: Entry, conditions: tuple[Condition, ...], result: WaitResult) -> None:
        for condition, future in tuple(self._waiters.get(entry.id, ())):
            if condition in conditions and not future.done():
                future.set_result(result)


def _result(entry: Entry) -> WaitResult:
    return WaitResult(exit_code=entry.life.exit.exit_code, error=entry.life.exit.error)
