"""``logs``: which file, from where, and until when; the format is the log source's business."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Protocol, TypedDict

from sampan.base.errors import Conflict, InvalidArgument, NotImplementedYet
from sampan.engine.container.ledger import Ledger
from sampan.engine.container.lifecycle import ALIVE
from sampan.engine.container.registry import Entry
from sampan.engine.ports import LogSource

READABLE_DRIVERS = ("", "json-file", "local")


class Follow(Protocol):
    """Answers whenever there may be more to read, until the log's writer has ended."""

    def __aiter__(self) -> AsyncIterator[None]: ...

    async def __anext__(self) -> None: ...

    async def aclose(self) -> None: ...


Watch = Callable[[str, Coroutine[object, object, object]], Follow]
"""A log file's path and what returns when its writer has ended."""


class _Options(TypedDict):
    stdout: bool
    stderr: bool
    since_ns: int
    until_ns: int
    tail: int | None
    timestamps: bool
    details: bool
    framed: bool
    merged: bool


class LogReader:
    def __init__(self, ledger: Ledger, source: LogSource, watch: Watch) -> None:
        self._ledger = ledger
        self._source = source
        self._watch = watch

    def read(
        self,
        entry: Entry,
        *,
        stdout: bool,
        stderr: bool,
        since_ns: int,
        until_ns: int,
        timestamps: bool,
        tail: int | None,
        follow: bool,
        details: bool,
        merged: bool = False,
    ) -> AsyncIterator[bytes]:
        """Raises InvalidArgument without any stream, Conflict for one being removed, NotImplementedYet for
        drivers that keep nothing."""
        if not stdout and not stderr:
            raise InvalidArgument("You must choose at least one stream")
        if entry.life.phase in ("removing", "dead"):
            raise Conflict("can not get logs from container which is dead or marked for removal")
        if entry.record.host.log_config.type not in READABLE_DRIVERS:
            raise NotImplementedYet("configured logging driver does not support reading")
        path = self._ledger.layout.log(entry.id)
        options = _Options(
            stdout=stdout,
            stderr=stderr,
            since_ns=since_ns,
            until_ns=until_ns,
            tail=tail,
            timestamps=timestamps,
            details=details,
            framed=not entry.record.config.tty,
            merged=merged,
        )
        if follow and entry.life.phase in ALIVE:
            return self._followed(entry, path, options)
        return self._source.read(path, **options, follow=None)

    def everything(self, entry: Entry, *, stdout: bool, stderr: bool) -> AsyncIterator[bytes]:
        """What was written so far, for ``attach`` with logs."""
        return self._source.read(
            self._ledger.layout.log(entry.id),
            stdout=stdout,
            stderr=stderr,
            since_ns=0,
            until_ns=0,
            tail=None,
            timestamps=False,
            details=False,
            follow=None,
            framed=not entry.record.config.tty,
        )

    async def _followed(self, entry: Entry, path: str, options: _Options) -> AsyncIterator[bytes]:
        """Until the container has ended: as in Docker, its next run is not followed."""
        follow = self._watch(path, self._ended(entry))
        try:
            async for chunk in self._source.read(path, **options, follow=follow):
                yield chunk
        finally:
            await follow.aclose()

    async def _ended(self, entry: Entry) -> None:
        stopped = self._ledger.wait(entry, "not-running")
        try:
            await stopped
        finally:
            stopped.cancel()
