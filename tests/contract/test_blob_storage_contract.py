"""What every storage of blobs does: files, object stores, and the fake."""

from __future__ import annotations

import itertools
import random
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import aiohttp
import msgspec
import pytest
from tests.fakes.blob_storage import FakeBlobStorage, digest_of
from tests.support.s3_server import ACCESS_KEY, BUCKET, SECRET_KEY, moto_server, rclone_server

from sampan.base.clock import now_ns
from sampan.base.errors import FailedPrecondition, SystemFailure
from sampan.registry.errors import BlobUnknown, DigestInvalid, RangeInvalid, UploadUnknown
from sampan.registry.storage.files import FileBlobStorage
from sampan.registry.storage.port import BlobStorage, new_upload_id
from sampan.registry.storage.s3 import S3BlobStorage, S3Settings

Open = Callable[[], BlobStorage]
"""A storage on what the one before has left: what a restart sees."""
UNIT = 64 << 10
PART = 5 * UNIT
"""Of uploads to object stores; several fit into what the tests send."""
_prefixes = itertools.count()


def content(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


async def pieces(data: bytes, length: int = 50_000) -> AsyncIterator[bytes]:
    for at in range(0, len(data), length):
        yield data[at : at + length]


async def broken(data: bytes) -> AsyncIterator[bytes]:
    async for piece in pieces(data):
        yield piece
    raise ConnectionResetError("the client went away")


async def read(storage: BlobStorage, digest: str, start: int = 0, end: int | None = None) -> bytes:
    return b"".join([piece async for piece in storage.read(digest, start, end)])


async def begun(storage: BlobStorage, data: bytes) -> str:
    upload_id = new_upload_id()
    await storage.start_upload(upload_id)
    assert await storage.append(upload_id, 0, pieces(data)) == len(data)
    return upload_id


async def all_digests(storage: BlobStorage) -> dict[str, int]:
    return {found.digest: found.size_bytes async for found in storage.digests()}


async def all_uploads(storage: BlobStorage) -> dict[str, int]:
    return {found.id: found.size_bytes async for found in storage.uploads()}


@pytest.fixture(scope="module")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with rclone_server(tmp_path_factory.mktemp("rclone")) as url:
        yield url


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    with moto_server() as url:
        yield url


def s3_settings(url: str) -> S3Settings:
    return S3Settings(
        bucket=BUCKET,
        endpoint=url,
        prefix=f"test-{next(_prefixes)}/",
        access_key=ACCESS_KEY,
        secret_key=SECRET_KEY,
        part_size_bytes=PART,
    )


@pytest.fixture(params=["fake", "files", "rclone", "moto"])
async def opened(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Open]:
    storages: list[BlobStorage] = []
    if request.param == "fake":
        fake = FakeBlobStorage()
        yield lambda: fake
        return
    if request.param == "files":

        def create() -> BlobStorage:
            return FileBlobStorage(str(tmp_path))
    else:
        settings = s3_settings(request.getfixturevalue(request.param))
        if request.param == "moto":
            await ensure_bucket(settings)

        def create() -> BlobStorage:
            return S3BlobStorage(settings)

    def another() -> BlobStorage:
        storages.append(create())
        return storages[-1]

    yield another
    for storage in storages:
        await storage.close()


async def ensure_bucket(settings: S3Settings) -> None:
    from aiobotocore.session import get_session

    async with get_session().create_client(
        "s3",
        endpoint_url=settings.endpoint,
        region_name=settings.region,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
    ) as client:
        await client.create_bucket(Bucket=settings.bucket)


async def test_a_small_blob_is_stored_and_read(opened: Open) -> None:
    storage = opened()
    data = content(1000)
    before_ns = now_ns() - 2_000_000_000  # object stores keep whole seconds
    await storage.put(digest_of(data), data)
    found = await storage.find(digest_of(data))
    assert found is not None
    assert (found.digest, found.size_bytes) == (digest_of(data), 1000)
    assert before_ns <= found.stored_ns <= now_ns() + 2_000_000_000
    assert await read(storage, digest_of(data)) == data
    path = storage.local_path(digest_of(data))
    assert path is None or Path(path).read_bytes() == data
    await storage.put(digest_of(data), data)
    assert await all_digests(storage) == {digest_of(data): 1000}


async def test_parts_of_a_blob_are_read(opened: Open) -> None:
    storage = opened()
    data = content(2 * UNIT)
    await storage.put(digest_of(data), data)
    for start, end in ((0, 1), (7, 70_000), (UNIT, None), (len(data) - 1, None), (0, len(data))):
        assert await read(storage, digest_of(data), start, end) == data[start:end], (start, end)


async def test_what_is_not_there_is_unknown(opened: Open) -> None:
    storage = opened()
    digest = digest_of(b"nothing")
    assert await storage.find(digest) is None
    assert await storage.delete(digest) == 0
    with pytest.raises(BlobUnknown):
        await read(storage, digest)
    assert await storage.upload_size(new_upload_id()) is None
    await storage.abort(new_upload_id())
    with pytest.raises(UploadUnknown):
        await storage.append(new_upload_id(), 0, pieces(b"x"))
    with pytest.raises(UploadUnknown):
        await storage.finish(new_upload_id(), digest)


async def test_content_of_another_digest_is_refused(opened: Open) -> None:
    storage = opened()
    wrong = digest_of(b"something else")
    with pytest.raises(DigestInvalid):
        await storage.put(wrong, b"content")
    upload_id = await begun(storage, b"content")
    with pytest.raises(DigestInvalid):
        await storage.finish(upload_id, wrong)
    assert await storage.find(wrong) is None
    assert await storage.upload_size(upload_id) is None
    assert await all_uploads(storage) == {}
    assert await all_digests(storage) == {}


@pytest.mark.parametrize("size", [0, 1, PART, 11 * UNIT + 17])
async def test_an_upload_in_one_piece(opened: Open, size: int) -> None:
    storage = opened()
    data = content(size)
    upload_id = await begun(storage, data)
    assert await storage.find(digest_of(data)) is None
    assert await storage.finish(upload_id, digest_of(data)) == size
    assert await read(storage, digest_of(data)) == data
    assert await storage.upload_size(upload_id) is None
    assert await all_uploads(storage) == {}


async def test_an_upload_of_sha512(opened: Open) -> None:
    storage = opened()
    data = content(6 * UNIT)
    digest = digest_of(data, "sha512")
    upload_id = await begun(storage, data)
    assert await storage.finish(upload_id, digest) == len(data)
    assert await read(storage, digest) == data
    assert await all_digests(storage) == {digest: len(data)}


async def test_an_upload_in_chunks_goes_on_after_a_restart(opened: Open) -> None:
    data = content(13 * UNIT)
    ends = [100, 100, 4 * UNIT, 6 * UNIT, 12 * UNIT + 5, 13 * UNIT]
    upload_id = new_upload_id()
    await opened().start_upload(upload_id)
    at = 0
    for end in ends:
        storage = opened()
        assert await storage.upload_size(upload_id) == at
        assert await storage.append(upload_id, at, pieces(data[at:end])) == end
        assert await all_uploads(storage) == {upload_id: end}
        at = end
    last = opened()
    assert await last.finish(upload_id, digest_of(data)) == len(data)
    assert await read(last, digest_of(data)) == data
    assert await all_uploads(last) == {}


async def test_a_wrong_digest_after_a_restart_is_found(opened: Open) -> None:
    storage = opened()
    upload_id = await begun(storage, content(6 * UNIT))
    with pytest.raises(DigestInvalid):
        await opened().finish(upload_id, digest_of(b"something else"))
    assert await all_uploads(opened()) == {}
    assert await all_digests(opened()) == {}


async def test_what_came_before_a_cut_is_kept(opened: Open) -> None:
    storage = opened()
    data = content(7 * UNIT)
    upload_id = new_upload_id()
    await storage.start_upload(upload_id)
    with pytest.raises(ConnectionResetError):
        await storage.append(upload_id, 0, broken(data[: 6 * UNIT]))
    kept = await storage.upload_size(upload_id)
    assert kept == 6 * UNIT
    assert await storage.append(upload_id, kept, pieces(data[kept:])) == len(data)
    assert await storage.finish(upload_id, digest_of(data)) == len(data)
    assert await read(storage, digest_of(data)) == data


async def test_a_chunk_goes_where_the_upload_ends(opened: Open) -> None:
    storage = opened()
    upload_id = await begun(storage, b"0123456789")
    for offset in (0, 9, 11):
        with pytest.raises(RangeInvalid) as refused:
            await storage.append(upload_id, offset, pieces(b"x"))
        assert refused.value.size_bytes == 10
    assert await storage.append(upload_id, 10, pieces(b"ab")) == 12
    assert await storage.finish(upload_id, digest_of(b"0123456789ab")) == 12


async def test_an_aborted_upload_leaves_nothing(opened: Open) -> None:
    storage = opened()
    upload_id = await begun(storage, content(11 * UNIT))
    await opened().abort(upload_id)
    assert await all_uploads(opened()) == {}
    assert await opened().upload_size(upload_id) is None


async def test_two_uploads_of_one_blob(opened: Open) -> None:
    storage = opened()
    data = content(6 * UNIT)
    first, second = await begun(storage, data), await begun(storage, data)
    assert await storage.finish(first, digest_of(data)) == len(data)
    assert await storage.finish(second, digest_of(data)) == len(data)
    assert await read(storage, digest_of(data)) == data
    assert await all_uploads(storage) == {}


async def test_deleting_says_what_it_freed(opened: Open) -> None:
    storage = opened()
    data = content(5000)
    await storage.put(digest_of(data), data)
    assert await storage.delete(digest_of(data)) == 5000
    assert await storage.find(digest_of(data)) is None
    assert await storage.delete(digest_of(data)) == 0


async def test_a_blob_set_aside_can_be_stored_again(opened: Open) -> None:
    storage = opened()
    data = content(5000)
    await storage.put(digest_of(data), data)
    await storage.set_aside(digest_of(data))
    assert await storage.find(digest_of(data)) is None
    assert await all_digests(storage) == {}
    await storage.set_aside(digest_of(data))
    upload_id = await begun(storage, data)
    await storage.finish(upload_id, digest_of(data))
    assert await read(storage, digest_of(data)) == data


# what object stores alone have


async def test_a_large_blob_is_copied_in_parts(moto: str) -> None:
    settings = s3_settings(moto)
    await ensure_bucket(settings)
    storage = S3BlobStorage(settings, copy_limit_bytes=6 * UNIT, copied_part_bytes=PART)
    data = content(12 * UNIT)
    upload_id = await begun(storage, data)
    assert await storage.finish(upload_id, digest_of(data)) == len(data)
    assert await read(storage, digest_of(data)) == data
    assert await storage.multiparts.all("") == []
    await storage.close()


async def test_a_store_that_cannot_copy_parts_is_told_of(rclone: str) -> None:
    storage = S3BlobStorage(s3_settings(rclone), copy_limit_bytes=6 * UNIT, copied_part_bytes=PART)
    data = content(12 * UNIT)
    upload_id = await begun(storage, data)
    with pytest.raises(ExceptionGroup) as failed:
        await storage.finish(upload_id, digest_of(data))
    assert "cannot copy parts" in str(failed.value.exceptions[0])
    assert await storage.find(digest_of(data)) is None
    # nothing is lost: a client may finish it again
    assert await storage.upload_size(upload_id) == len(data)
    await storage.abort(upload_id)
    assert await all_uploads(storage) == {}
    await storage.close()


async def test_a_client_reads_from_the_bucket_itself(rclone: str) -> None:
    storage = S3BlobStorage(msgspec.structs.replace(s3_settings(rclone), redirect=True))
    await storage.put(digest_of(b"content"), b"content")
    url = await storage.redirect(digest_of(b"content"))
    assert url is not None
    async with aiohttp.ClientSession() as session, session.get(url, headers={"Range": "bytes=3-"}) as answer:
        assert await answer.read() == b"tent"
    await storage.close()


async def test_redirects_are_an_option(rclone: str) -> None:
    storage = S3BlobStorage(s3_settings(rclone))
    assert await storage.redirect(digest_of(b"content")) is None
    await storage.close()


@pytest.mark.parametrize(
    ("change", "kind", "text"),
    [
        ({"bucket": "missing"}, FailedPrecondition, "create it first"),
        ({"secret_key": "wrongsecret"}, SystemFailure, "check access-key and secret-key"),
    ],
)
async def test_a_bucket_that_cannot_be_used_is_told_of(
    rclone: str, change: dict[str, str], kind: type[Exception], text: str
) -> None:
    storage = S3BlobStorage(msgspec.structs.replace(s3_settings(rclone), **change))
    with pytest.raises(kind, match=text):
        await storage.check()
    await storage.close()


async def test_secrets_are_not_shown() -> None:
    assert SECRET_KEY not in repr(s3_settings("http://127.0.0.1:1"))
