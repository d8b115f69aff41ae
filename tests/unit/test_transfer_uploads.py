"""Blobs on their way to a registry that cuts connections, forgets, and loses answers."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Iterator

import pytest
from tests.support.registry import Registry

from sampan.transfer.credentials import NOBODY
from sampan.transfer.errors import RegistryRefused, RegistryUnreachable
from sampan.transfer.registries import Registries
from sampan.transfer.repository import Repository
from sampan.transfer.settings import RegistrySettings
from sampan.transfer.uploads import Upload

LARGE = 2_000_000


class Bytes:
    """An outgoing blob; with ``made`` its size and digest are known once it has been read."""

    def __init__(self, data: bytes, made: bool = False) -> None:
        self._data = data
        self.size_bytes: int | None = None if made else len(data)
        self.digest = "" if made else digest_of(data)

    async def chunks(self, offset: int) -> AsyncIterator[bytes]:
        while offset < len(self._data):
            chunk = self._data[offset : offset + 100_000]
            offset += len(chunk)
            yield chunk
        if self.size_bytes is None:
            self.size_bytes, self.digest = len(self._data), digest_of(self._data)


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@pytest.fixture
def server() -> Iterator[Registry]:
    with Registry() as registry:
        yield registry


@pytest.fixture
async def target(server: Registry) -> AsyncIterator[Repository]:
    registries = Registries(RegistrySettings(), attempts=3, first_wait_s=0.001)
    [found] = await registries.repositories(server.host, "a/b", NOBODY)
    yield found
    await registries.close()


async def upload(target: Repository, blob: Bytes) -> list[int]:
    """The pauses it was told of."""
    pauses: list[int] = []
    await Upload(target, blob, attempts=3, first_wait_s=0.001, retrying=pauses.append).run()
    return pauses


@pytest.mark.parametrize("made", [False, True])
@pytest.mark.parametrize("size", [0, 2500, LARGE])
async def test_upload(target: Repository, server: Registry, size: int, made: bool) -> None:
    data = os.urandom(size)
    assert not await target.has_blob(digest_of(data))
    await upload(target, Bytes(data, made))
    assert await target.has_blob(digest_of(data))
    assert server.blobs[digest_of(data)] == data
    assert server.uploads == {}


@pytest.mark.parametrize("made", [False, True])
async def test_upload_that_is_cut_at_every_tenth_goes_on(
    target: Repository, server: Registry, made: bool
) -> None:
    data = os.urandom(LARGE)
    server.faults.cut_uploads_after_bytes = LARGE // 10
    await upload(target, Bytes(data, made))
    assert server.blobs[digest_of(data)] == data
    assert server.upload_bytes == LARGE
    assert server.count("POST", "/uploads/") == 1


async def test_upload_that_the_registry_forgets_begins_anew(target: Repository, server: Registry) -> None:
    data = os.urandom(LARGE)
    server.faults.cut_uploads_after_bytes = LARGE // 2
    server.faults.forget_uploads = True
    with pytest.raises(RegistryUnreachable):
        await upload(target, Bytes(data))
    assert server.count("POST", "/uploads/") == 3
    server.faults.cut_uploads_after_bytes = 0
    await upload(target, Bytes(data))
    assert server.blobs[digest_of(data)] == data


async def test_upload_that_cannot_be_continued_begins_anew(target: Repository, server: Registry) -> None:
    data = os.urandom(LARGE)
    server.faults.cut_uploads_after_bytes = LARGE // 2
    server.faults.void_uploads = True
    blob = Bytes(data)
    began = blob.chunks
    starts: list[int] = []

    async def noting(offset: int) -> AsyncIterator[bytes]:
        starts.append(offset)
        if len(starts) == 2:
            server.faults.cut_uploads_after_bytes = 0
        async for chunk in began(offset):
            yield chunk

    blob.chunks = noting  # type: ignore[method-assign]
    await upload(target, blob)
    assert starts == [0, 0]
    assert server.blobs[digest_of(data)] == data
    assert server.uploads == {}


async def test_lost_answer_is_found_out(target: Repository, server: Registry) -> None:
    data = os.urandom(LARGE)
    server.faults.lose_verdicts = 1
    await upload(target, Bytes(data))
    assert server.upload_bytes == LARGE
    assert server.blobs[digest_of(data)] == data


async def test_registry_that_damages_what_it_kept_gets_it_again(target: Repository, server: Registry) -> None:
    data = os.urandom(LARGE)
    server.faults.cut_uploads_after_bytes = LARGE // 2 + 1
    blob = Bytes(data)
    began = blob.chunks

    async def spoil(offset: int) -> AsyncIterator[bytes]:
        if offset:
            server.faults.cut_uploads_after_bytes = 0
            for content in server.uploads.values():
                content[0] ^= 1
        async for chunk in began(offset):
            yield chunk

    blob.chunks = spoil  # type: ignore[method-assign]
    await upload(target, blob)
    assert server.blobs[digest_of(data)] == data


async def test_upload_that_is_refused_is_abandoned(target: Repository, server: Registry) -> None:
    blob = Bytes(os.urandom(LARGE))
    blob.digest = digest_of(b"something else")
    with pytest.raises(RegistryRefused, match="provided digest did not match"):
        await upload(target, blob)
    assert server.uploads == {}


async def test_busy_registry_says_when_to_come_back(target: Repository, server: Registry) -> None:
    await target.has_blob(digest_of(b""))
    server.faults.failures = [(503, {"Retry-After": "1"})]
    await upload(target, Bytes(b"small"))
    assert server.count("POST", "/uploads/") == 2


async def test_mount(target: Repository, server: Registry) -> None:
    digest = str(server.add_blob("other", b"shared")["digest"])
    assert await target.start_upload(digest, "nowhere") != ""
    assert await target.start_upload(digest, "other") == ""
    assert await target.has_blob(digest)
