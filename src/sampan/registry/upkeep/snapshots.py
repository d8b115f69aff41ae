"""Copies of the registry's database beside its blobs in the bucket, so that a lost disk loses little.

A snapshot is taken by SQLite's backup API on a connection and in a thread of its own: in WAL mode a reader
holds up nobody who writes. It is one object, ``database/<when>.zst``, where ``<when>`` sorts; the newest that
can be read is restored where a registry finds no database of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
from collections.abc import AsyncIterator, Coroutine, Iterator

import zstandard

from sampan.base.clock import now_ns
from sampan.base.errors import SystemFailure

from ..storage.bucket import Bucket
from ..storage.multipart import Multiparts, Part

log = logging.getLogger(__name__)
PREFIX = "database/"
_SUFFIX = ".zst"
_PAGES_AT_ONCE = 1024
_READ_BYTES = 4 << 20


class Snapshots:
    """``await snapshots.restore()`` before the database is opened, :meth:`save` from then on."""

    def __init__(self, bucket: Bucket, path: str) -> None:
        """``path``: of the database."""
        self.path = path
        self._bucket = bucket
        self._multiparts = Multiparts(bucket)
        self._watcher: sqlite3.Connection | None = None
        self._saved_version = -1
        self._saving = asyncio.Lock()

    async def restore(self) -> bool:
        """Whether a snapshot became the database. Nothing happens where there is one."""
        if os.path.exists(self.path):
            return False
        for key in reversed(await self._keys()):
            try:
                await self._restore(key)
            except (sqlite3.DatabaseError, zstandard.ZstdError) as error:
                log.warning("snapshot %s cannot be used: %s", key, error)
                continue
            log.warning("the database is restored from %s of bucket %s", key, self._bucket.settings.bucket)
            return True
        return False

    async def _restore(self, key: str) -> None:
        copy = f"{self.path}.restore"
        with _removed(copy):
            decompressor = zstandard.ZstdDecompressor().decompressobj()
            with open(copy, "wb", opener=_private) as file:  # noqa: ASYNC230 - nothing else runs yet
                async for piece in self._bucket.read(key):
                    file.write(decompressor.decompress(piece))
                if not decompressor.eof:
                    raise zstandard.ZstdError("it ends too early")
                file.flush()
                os.fsync(file.fileno())
            with contextlib.closing(sqlite3.connect(copy)) as connection:
                (verdict,) = connection.execute("PRAGMA quick_check").fetchone()
                if verdict != "ok":
                    raise sqlite3.DatabaseError(f"damaged: {verdict}")
            # a log that a lost database left would be applied to this one
            _remove(f"{self.path}-wal", f"{self.path}-shm")
            os.rename(copy, self.path)
        directory = os.open(os.path.dirname(self.path), os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    async def save(self) -> bool:
        """Whether a snapshot was needed: nothing has changed since the last one otherwise."""
        async with self._saving:
            version = self._version()
            if version == self._saved_version:
                return False
            copy = f"{self.path}.snapshot"
            with _removed(copy):
                await _to_its_end(asyncio.to_thread(_back_up, self.path, copy))
                await self._upload(f"{PREFIX}{now_ns():020d}{_SUFFIX}", copy)
            self._saved_version = version
            stale = (await self._keys())[: -max(self._bucket.settings.snapshots_kept, 1)]
            if stale:
                await self._bucket.delete(stale)
            return True

    async def _upload(self, key: str, path: str) -> None:
        """Compressed; in parts when it is large, so that memory stays bounded."""
        multipart = ""
        parts: list[Part] = []
        try:
            async for data, is_last in _packed(path, self._bucket.settings.part_size_bytes):
                if is_last and not multipart:
                    await self._bucket.put(key, data)
                    return
                multipart = multipart or await self._multiparts.start(key)
                if data:
                    parts.append(await self._multiparts.put(key, multipart, len(parts) + 1, data))
            await self._multiparts.complete(key, multipart, parts)
        except BaseException:
            if multipart:
                await self._multiparts.abort(key, multipart)
            raise

    async def close(self) -> None:
        """With a last snapshot."""
        try:
            await self.save()
        finally:
            if self._watcher is not None:
                self._watcher.close()
                self._watcher = None

    async def _keys(self) -> list[str]:
        return sorted([found.key async for found in self._bucket.objects(PREFIX)])

    def _version(self) -> int:
        """Another number after each commit of another connection (sqlite.org, "PRAGMA data_version")."""
        if self._watcher is None:
            if not os.path.exists(self.path):
                raise SystemFailure(f"{self.path} is gone: stop the registry and look at its disk")
            self._watcher = sqlite3.connect(self.path)
        return int(self._watcher.execute("PRAGMA data_version").fetchone()[0])


@contextlib.contextmanager
def _removed(copy: str) -> Iterator[None]:
    """Afterwards, and before: a killed process may have left it."""
    leftovers = (copy, f"{copy}-journal", f"{copy}-wal", f"{copy}-shm")
    _remove(*leftovers)
    try:
        yield
    finally:
        _remove(*leftovers)


def _remove(*paths: str) -> None:
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


async def _to_its_end(work: Coroutine[None, None, None]) -> None:
    """A thread cannot be cancelled: what it writes to is not taken away before it has ended."""
    job = asyncio.create_task(work)
    try:
        await asyncio.shield(job)
    except asyncio.CancelledError:
        await asyncio.wait((job,))
        raise


def _back_up(path: str, copy: str) -> None:
    os.close(_private(copy, os.O_WRONLY | os.O_CREAT))
    with (
        contextlib.closing(sqlite3.connect(path)) as source,
        contextlib.closing(sqlite3.connect(copy)) as target,
    ):
        source.backup(target, pages=_PAGES_AT_ONCE)


async def _packed(path: str, length: int) -> AsyncIterator[tuple[bytes, bool]]:
    """The compressed file in pieces of at least ``length`` but for the last one, which may be empty."""
    compressor = zstandard.ZstdCompressor(level=3).compressobj()
    held = bytearray()

    def more() -> bool:
        piece = file.read(_READ_BYTES)
        held.extend(compressor.compress(piece) if piece else compressor.flush())
        return bool(piece)

    with open(path, "rb") as file:  # noqa: ASYNC230 - read in a thread
        while await asyncio.to_thread(more):
            if len(held) >= length:
                yield bytes(held), False
                held.clear()
    yield bytes(held), True
