"""Reads a container's log for a client: all of it or its tail, and what comes while the client stays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

from .files import LogPart, open_all, successor
from .render import LogQuery, Renderer


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
                async for chunk in _follow(path, parts, renderer, follow):
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
) -> AsyncIterator[bytes]:
    running = True
    while not renderer.finished:
        async for chunk in _catch_up(path, parts, renderer):
            yield chunk
        if not running or renderer.finished:
            return
        try:
            await anext(follow)
        except StopAsyncIteration:
            running = False


async def _catch_up(path: str, parts: list[LogPart], renderer: Renderer) -> AsyncIterator[bytes]:
    """What was appended, through any number of rotations."""
    if not parts:
        parts.extend(open_all(path))
    while parts:
        # asked first: once there is a successor, nothing more is written to this one
        following = successor(path, parts[-1])
        parts[-1].follow_to_end()
        async for chunk in _drain(parts[-1], renderer):
            yield chunk
        if following is None:
            return
        parts.append(following)
        parts.pop(0).close()


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
