"""One attached client: output of the process (after what its log already has, if asked), input to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Protocol

from sampan.base.errors import Conflict
from sampan.engine.ports import ByteStream, Supervised

from .detach import DetachFilter


class Converter(Protocol):
    def feed(self, data: bytes) -> bytes:
        """b"" while there is nothing to tell yet."""


class AttachSession:
    """Also an :class:`~sampan.engine.ports.Attachment`: before the start it waits to be connected."""

    def __init__(
        self,
        *,
        tty: bool,
        stdin: bool,
        stdout: bool,
        stderr: bool,
        detach_keys: bytes = b"",
        prelude: AsyncIterator[bytes] | None = None,
        stream: bool = True,
    ) -> None:
        """``detach_keys``: empty for none. ``prelude`` is read first. ``stream``: the live output follows."""
        self.tty = tty
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr
        self._prelude = prelude
        self._filter = DetachFilter(detach_keys) if detach_keys and stdin else None
        self._live: ByteStream | None = None
        self._reading: asyncio.Future[bytes] | None = None
        self._settled = asyncio.Event()
        self._ended = False
        self._eof_sent = False
        self.on_detach: Callable[[], None] = _nothing
        self.on_close: Callable[[AttachSession], None] = _ignore
        self.before_end: Callable[[], Awaitable[None]] = _at_once
        """Awaited between the last output and telling that it was the last."""
        self.convert: Converter | None = None
        if not stream:
            self.abandon()

    # --- the supervisor's side ----------------------------------------------------------------------------

    def connected(self, stream: ByteStream) -> None:
        """The process is about to run; called by the launch, before its first output could be lost."""
        if self._ended:
            stream.close()
            return
        self._live = stream
        if self._eof_sent:
            stream.write_eof()
        self._settled.set()

    async def attach_to(self, process: Supervised) -> None:
        """Join a process that runs already. One that has just ended has nothing more to say."""
        try:
            live = await process.attach(stdin=self.stdin, stdout=self.stdout, stderr=self.stderr)
        except Conflict:
            self.abandon()
        else:
            self.connected(live)

    def abandon(self) -> None:
        """There will be no live output."""
        self._ended = True
        self._settled.set()

    # --- the client's side --------------------------------------------------------------------------------

    async def read(self, limit: int = 65536) -> bytes:
        """Output: raw with a tty, else framed. b"" is the end: the process has ended, or the client
        detached."""
        if self._prelude is not None:
            async for chunk in self._prelude:
                if chunk:
                    return chunk
            self._prelude = None
        await self._settled.wait()
        if self._live is None or self._ended:
            return b""
        while (live := self._live) is not None:
            data = await self._read_live(live, limit)
            if not data:
                await self.before_end()
                if self._live is live:
                    return b""
                continue  # the start failed: another stream says why
            if self.convert is None or (data := self.convert.feed(data)):
                return data
        return b""

    async def _read_live(self, live: ByteStream, limit: int) -> bytes:
        self._reading = asyncio.ensure_future(live.read(limit))
        try:
            return await self._reading
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._ended and task is not None and not task.cancelling():
                return b""  # close() ended the read, nobody cancelled us
            raise
        finally:
            self._reading = None

    async def write(self, data: bytes) -> None:
        """Input. Waits for the start, and while the process does not read. Completing the detach keys ends
        the session's output."""
        if not self.stdin:
            return
        await self._settled.wait()
        if self._live is None or self._ended:
            return
        detached = False
        if self._filter is not None:
            data, detached = self._filter.feed(data)
        if data:
            await self._live.write(data)
        if detached:
            self.on_detach()
            await self.close()

    def write_eof(self) -> None:
        """No more input from this client."""
        if self._eof_sent:
            return
        self._eof_sent = True
        if self._live is not None and self.stdin and not self._ended:
            self._live.write_eof()

    async def close(self) -> None:
        """Idempotent."""
        live, self._live = self._live, None
        prelude, self._prelude = self._prelude, None
        self.abandon()
        if isinstance(prelude, AsyncGenerator):
            await prelude.aclose()
        if live is not None:
            if self._reading is not None:
                # the reader must have let go of the descriptor before its number is free for others
                self._reading.cancel()
                await asyncio.wait((self._reading,))
            live.close()
        self.on_close(self)


def _nothing() -> None:
    return None


async def _at_once() -> None:
    return None


def _ignore(_: AttachSession) -> None:
    return None
