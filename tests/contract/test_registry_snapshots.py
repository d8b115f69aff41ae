"""The registry's database in its bucket: saved when it changed, restored where there is none."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.support.s3_server import ACCESS_KEY, BUCKET, SECRET_KEY, rclone_server

from sampan.registry.storage.bucket import Bucket, S3Settings
from sampan.registry.storage.multipart import Multiparts
from sampan.registry.upkeep.snapshots import PREFIX, Snapshots
from sampan.store.registry.index import RegistryIndex


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with rclone_server(tmp_path_factory.mktemp("rclone")) as url:
        yield url


@pytest.fixture
async def bucket(server: str, request: pytest.FixtureRequest) -> AsyncIterator[Bucket]:
    settings = S3Settings(
        bucket=BUCKET,
        endpoint=server,
        prefix=f"{request.node.name}/",
        access_key=ACCESS_KEY,
        secret_key=SECRET_KEY,
        snapshots_kept=2,
        part_size_bytes=64 << 10,
    )
    bucket = Bucket(settings)
    yield bucket
    await bucket.close()


def names_in(path: Path) -> list[str]:
    with closing(RegistryIndex(str(path))) as index:
        index.repositories.ensure("probe", 1)
        return [usage.repository for usage in index.repositories.usages() if usage.repository != "probe"]


async def keys(bucket: Bucket) -> list[str]:
    return [found.key async for found in bucket.objects(PREFIX)]


async def test_a_lost_database_comes_back(bucket: Bucket, tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    snapshots = Snapshots(bucket, str(path))
    assert not await snapshots.restore(), "there is nothing to restore yet"
    with closing(RegistryIndex(str(path))) as index:
        index.repositories.ensure("one", 1)
        assert await snapshots.save()
        assert not await snapshots.save(), "nothing has changed"
        index.repositories.ensure("two", 2)
        assert await snapshots.save()
        index.repositories.ensure("three", 3)
        await snapshots.close()
        assert not await Snapshots(bucket, str(path)).restore(), "there is a database"
    assert len(await keys(bucket)) == 2, "older ones are removed"

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    copy = elsewhere / "registry.db"
    assert await Snapshots(bucket, str(copy)).restore()
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert names_in(copy) == ["one", "three", "two"]
    left = {name for folder in (elsewhere, tmp_path) for name in os.listdir(folder)}
    assert left <= {"elsewhere", "registry.db", "registry.db-wal", "registry.db-shm"}


async def test_a_damaged_snapshot_is_passed_over(bucket: Bucket, tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    snapshots = Snapshots(bucket, str(path))
    with closing(RegistryIndex(str(path))) as index:
        index.repositories.ensure("one", 1)
        await snapshots.close()
    await bucket.put(f"{PREFIX}99999999999999999998.zst", b"no database at all")
    await bucket.put(f"{PREFIX}99999999999999999999.zst", b"")
    path.unlink()
    (tmp_path / "registry.db-wal").write_bytes(b"of a database that is lost")
    (tmp_path / "registry.db.restore").write_bytes(b"of a process that was killed")
    assert await Snapshots(bucket, str(path)).restore()
    assert names_in(path) == ["one"]


async def test_a_large_database_is_sent_in_parts(bucket: Bucket, tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE large (data BLOB)")
        database.execute("INSERT INTO large VALUES (randomblob(9000000))")
        database.commit()
    snapshots = Snapshots(bucket, str(path))
    await snapshots.close()
    assert await Multiparts(bucket).all(PREFIX) == []
    (key,) = await keys(bucket)
    found = await bucket.find(key)
    assert found is not None
    assert found.size_bytes > 9_000_000
    before = path.read_bytes()
    path.unlink()
    assert await Snapshots(bucket, str(path)).restore()
    with closing(sqlite3.connect(path)) as database, closing(sqlite3.connect(":memory:")) as original:
        original.deserialize(before)
        assert [*database.execute("SELECT * FROM large")] == [*original.execute("SELECT * FROM large")]
