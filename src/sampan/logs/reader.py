"""Reads a container's log for a client: all of it or its tail, and what comes while the client stays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from .files import LogPart, open_all, successor
from .render import LogQuery, Renderer

_MOST_OPEN = 32


class LogReader:
    """Implements engine.ports.LogSource. Holds no state between calls."""

    async def read(
        self,
        path: str,
        *,
        stdout: bool,
        stderr: bool,
        since_ns: int,
        until_ns: int,
        tail: int | None,
        timestamps: bool,
        details: bool,
        follow: AsyncIterator[None] | None,
        framed: bool,
        merged: bool = False,
    ) -> AsyncIterator[bytes]:
        """The log as clients get it, in large chunks.

        ``tail`` counts lines of both streams, as Docker does. ``follow`` gives a tick whenever there may be
        more and ends with the container; without it the log ends where it ended when the call came.
        """
        query = LogQuery(
            stdout=stdout,
            stderr=stderr,
            since_ns=since_ns,
            until_ns=until_ns,
            timestamps=timestamps,
            details=details,
            framed=framed,
            merged=merged,
        )
        renderer = Renderer(query)
        parts = open_all(path)
        try:
            if tail is not None:
                parts = _keep_tail(parts, tail)
            async for chunk in _backlog(parts, renderer):
                yield chunk
            if follow is not None:
                async with aclosing(_follow(path, parts, renderer, follow)) as chunks:
                    async for chunk in chunks:
                        yield chunk
        finally:
            for part in parts:
                part.close()
            if isinstance(follow, AsyncGenerator):
                await follow.aclose()


async def _backlog(parts: list[LogPart], renderer: Renderer) -> AsyncIterator[bytes]:
    """Everything but the current file is closed once it is read."""
    while parts:
        async for chunk in _drain(parts[0], renderer):
            yield chunk
        if renderer.finished or len(parts) == 1:
            return
        parts.pop(0).close()


async def _drain(part: LogPart, renderer: Renderer) -> AsyncIterator[bytes]:
    for block in part.blocks():
        chunk = renderer.render(block)
        if chunk:
            yield chunk
        if renderer.finished:
            return
        await asyncio.sleep(0)  # a long log must not keep other clients waiting


async def _follow(
    path: str, parts: list[LogPart], renderer: Renderer, follow: AsyncIterator[None]
) -> AsyncGenerator[bytes, None]:
    """Ticks are taken by a task of their own, so that files are opened as they are begun, also while a slow
    client keeps this from reading: rotation takes no line from it then."""
    wake = asyncio.Event()
    ticks = asyncio.create_task(_open_as_begun(path, parts, follow, wake))
    ticks.add_done_callback(lambda _: wake.set())
    try:
        while not renderer.finished:
            has_ended = ticks.done()
            wake.clear()
            async for chunk in _catch_up(path, parts, renderer):
                yield chunk
            if has_ended or renderer.finished:
                break
            if not ticks.done():
                await wake.wait()
        if ticks.done():
            ticks.result()
    finally:
        ticks.cancel()
        await asyncio.wait([ticks])


async def _open_as_begun(
    path: str, parts: list[LogPart], follow: AsyncIterator[None], wake: asyncio.Event
) -> None:
    async for _ in follow:
        _open_new(path, parts)
        wake.set()


def _open_new(path: str, parts: list[LogPart]) -> None:
    """Add the files that were begun after the last known one. Those that a reader has not come to keep
    their space on disk, so there is a bound; beyond it the oldest that is left comes next."""
    if not parts:
        parts.extend(open_all(path))
    while parts and len(parts) < _MOST_OPEN and (following := successor(path, parts[-1])) is not None:
        parts.append(following)


async def _catch_up(path: str, parts: list[LogPart], renderer: Renderer) -> AsyncIterator[bytes]:
    """What was appended, through any number of rotations."""
    _open_new(path, parts)
    while parts:
        # asked first: once there is a successor, nothing more is written to this one
        has_successor = len(parts) > 1
        parts[0].follow_to_end()
        async for chunk in _drain(parts[0], renderer):
            yield chunk
        if has_successor:
            parts.pop(0).close()
        _open_new(path, parts)
        if len(parts) < 2 and not has_successor:
            return


def _keep_tail(parts: list[LogPart], lines: int) -> list[LogPart]:
    """Position the parts before the last lines; those that are not needed are closed."""
    kept: list[LogPart] = []
    remaining = lines
    while parts:
        part = parts.pop()
        if remaining <= 0 and kept:
            part.close()
            continue
        remaining -= part.seek_tail(remaining)
        kept.insert(0, part)
    return kept
