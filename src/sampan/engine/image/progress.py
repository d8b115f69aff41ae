"""Progress as clients show it, and work that reports it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable

from sampan.model.progress import ProgressDetail, ProgressMessage

Say = Callable[[ProgressMessage], None]

_BAR = 50
_INTERVAL_S = 0.1


def bar_text(done: int, total: int) -> str:
    """``[====>    ]  1.2MB/5MB``."""
    filled = min(_BAR * done // total, _BAR) if total else _BAR
    bar = "=" * filled + ">" if filled < _BAR else "=" * _BAR + ">"
    return f"[{bar.ljust(_BAR + (filled >= _BAR))}] {human_size(done):>8}/{human_size(total)}"


def human_size(size: float) -> str:
    """Four significant digits with decimal units, as ``docker`` shows sizes."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            return f"{size:.4g}{unit}"
        size /= 1000
    raise AssertionError("unreachable")


def status(text: str, object_id: str = "") -> ProgressMessage:
    """A step of one object, or with no id of everything."""
    detail = ProgressDetail() if object_id else None
    return ProgressMessage(status=text, id=object_id, progress_detail=detail)


class Meter:
    """How far one object is, at most ten times a second."""

    def __init__(self, say: Say, text: str, object_id: str) -> None:
        self._say = say
        self._text = text
        self._id = object_id
        self._next = 0.0

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now < self._next and done < total:
            return
        self._next = now + _INTERVAL_S
        self._say(
            ProgressMessage(
                status=self._text,
                id=self._id,
                progress_detail=ProgressDetail(current=done, total=total),
                progress=bar_text(done, total),
            )
        )


async def messages_of(work: Callable[[Say], Awaitable[None]]) -> AsyncGenerator[ProgressMessage, None]:
    """What ``work`` says, as it says it; it is cancelled when nobody listens any more."""
    queue: asyncio.Queue[ProgressMessage | None] = asyncio.Queue()

    async def run() -> None:
        try:
            await work(queue.put_nowait)
        finally:
            queue.put_nowait(None)

    task = asyncio.ensure_future(run())
    try:
        while (message := await queue.get()) is not None:
            yield message
        await task
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            # raised above, unless the listener left first
            task.exception()
