"""Blobs on their way out: continued where the connection broke off, begun anew only when nothing is left.

distribution-spec, "Pushing a blob in chunks": the registry says how far an upload has come.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from .errors import DIGEST_INVALID, RANGE_NOT_SATISFIABLE, RegistryRefused, RegistryUnreachable
from .repository import Repository
from .retries import is_passing, pause_s

log = logging.getLogger(__name__)

_FAREWELL_S = 5
_SMALL_BYTES = 64 << 10
"""Sent in one request; not worth being continued."""
_LOOK_EVERY = 0.1
"""Of the first wait."""
_MOST_LOOKS = 50
_GONE = (404, RANGE_NOT_SATISFIABLE)
"""The registry has lost the upload, or has other bytes of it than we thought."""


class Outgoing(Protocol):
    """A blob that can be read any number of times, also one that is made while it is read."""

    @property
    def size_bytes(self) -> int | None:
        """None while nobody knows: it has not been read to its end."""

    @property
    def digest(self) -> str:
        """Of all of it, once it has been read to its end."""

    def chunks(self, offset: int) -> AsyncIterator[bytes]:
        """From ``offset`` on."""


class Upload:
    """One blob on its way to one repository."""

    def __init__(
        self,
        repository: Repository,
        blob: Outgoing,
        *,
        attempts: int,
        first_wait_s: float,
        retrying: Callable[[int], None],
    ) -> None:
        """``retrying`` is told of pauses, in seconds."""
        self._repository = repository
        self._blob = blob
        self._attempts = max(attempts, 1)
        self._first_wait_s = first_wait_s
        self._retrying = retrying
        self._location = ""
        self._offset = 0
        self._resumed = False
        self._failures = 0
        """Since there was progress."""

    async def run(self) -> None:
        """Send all of it. Raises RegistryRefused, RegistryUnreachable."""
        failure: RegistryRefused | RegistryUnreachable | None = None
        try:
            while True:
                try:
                    if failure is not None and await self._recover(failure):
                        return
                    await self._send()
                    return
                except (RegistryRefused, RegistryUnreachable) as error:
                    self._failures += 1
                    if not self._can_go_on(error) or self._failures >= self._attempts:
                        raise
                    failure = error
        except BaseException:
            await self._abandon()
            raise

    async def _send(self) -> None:
        blob = self._blob
        if not self._location:
            self._location, self._offset = await self._repository.start_upload(), 0
        offset = self._offset
        if not offset and blob.size_bytes is not None and blob.size_bytes <= _SMALL_BYTES:
            data = b"".join([chunk async for chunk in blob.chunks(0)])
            await self._repository.put_blob(self._location, blob.digest, data)
            self._location = ""
            return
        if offset != blob.size_bytes:
            self._location = await self._repository.append(
                self._location, offset, blob.size_bytes, lambda: blob.chunks(offset)
            )
            self._offset = blob.size_bytes or offset
        await self._repository.finish_upload(self._location, blob.digest)
        self._location = ""

    def _can_go_on(self, error: RegistryRefused | RegistryUnreachable) -> bool:
        if isinstance(error, RegistryRefused) and self._location:
            if error.code == DIGEST_INVALID and self._resumed:
                # what it had kept was not what we had sent
                self._location, self._resumed = "", False
                return True
            if error.status in _GONE:
                return True
        return is_passing(error)

    async def _recover(self, failure: RegistryRefused | RegistryUnreachable) -> bool:
        """Learn how far it has come. True when only the answer was lost: the blob is there."""
        asked = isinstance(failure, RegistryRefused) and failure.retry_after_s > 0
        if self._failures > 1 or asked:
            wait_s = pause_s(failure, max(self._failures - 2, 0), self._first_wait_s)
            if wait_s >= 1:
                self._retrying(math.ceil(wait_s))
            await asyncio.sleep(wait_s)
        if not self._location:
            return False
        size = self._blob.size_bytes
        if size is not None and self._offset == size and await self._repository.has_blob(self._blob.digest):
            self._location = ""
            return True
        state = await self._settled_state()
        if state is None or (size is not None and state[0] > size):
            await self._abandon()
            self._offset = 0
            return False
        if state[0] > self._offset:
            self._failures = 0
        self._offset, self._location = state
        self._resumed = True
        log.info("upload to %s goes on at %d bytes: %s", self._repository.path, state[0], failure.message)
        return False

    async def _settled_state(self) -> tuple[int, str] | None:
        """How far it has come, once the registry has taken in what was still on its way when the connection
        broke: what is sent before would come twice."""
        state = await self._repository.upload_state(self._location)
        for _ in range(_MOST_LOOKS):
            await asyncio.sleep(self._first_wait_s * _LOOK_EVERY)
            before, state = state, await self._repository.upload_state(self._location)
            if state == before or state is None:
                break
        return state

    async def _abandon(self) -> None:
        """Let the registry forget what came, as far as it listens."""
        location, self._location = self._location, ""
        if location:
            try:
                async with asyncio.timeout(_FAREWELL_S):
                    await self._repository.cancel_upload(location)
            except (RegistryRefused, RegistryUnreachable, TimeoutError) as error:
                log.debug("the registry keeps the rest of an upload: %s", error)
