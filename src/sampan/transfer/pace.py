"""A body has to make progress: a peer that sends a byte a minute holds nothing for ever."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable

import msgspec
from aiohttp import ClientResponse

from .errors import ContentMismatch, TooSlow


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """So many bytes at least in each span of time. A connection on which nothing comes at all is ended by
    its own timeout."""

    bytes: int = 64 << 10
    seconds: float = 60.0


async def paced(
    response: ClientResponse, pace: Pace, clock: Callable[[], float] = time.monotonic
) -> AsyncGenerator[bytes, None]:
    """The body as it arrives. Raises TooSlow, and what the connection raises."""
    began, count = clock(), 0
    content = response.content
    while chunk := await content.readany():
        came = clock()
        yield chunk
        # what the caller did with it is not the peer's fault
        began += clock() - came
        count += len(chunk)
        if count >= pace.bytes:
            began, count = clock(), 0
        elif clock() - began > pace.seconds:
            raise TooSlow(
                response.method, str(response.url), f"only {count} bytes in {clock() - began:.0f} seconds"
            )


async def read_all(response: ClientResponse, pace: Pace, limit_bytes: int, what: str) -> bytes:
    """A body in memory. Raises ContentMismatch when it is larger than it may be, and as :func:`paced`."""
    parts: list[bytes] = []
    size = 0
    async for chunk in paced(response, pace):
        size += len(chunk)
        if size > limit_bytes:
            raise ContentMismatch(f"{what} is larger than {limit_bytes} bytes: refused")
        parts.append(chunk)
    return b"".join(parts)
