"""The registry's garbage collector: what it takes, what it leaves, and what may happen meanwhile."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest
from tests.fakes.blob_storage import FakeBlobStorage
from tests.support.registry_content import (
    ACTOR,
    OCI_INDEX,
    OCI_MANIFEST,
    Clock,
    content,
    digest_of,
    index_of,
    manifest_of,
    pieces,
    push_blob,
    push_image,
)
from tests.support.registry_server import open_registry

from sampan.base.crashpoints import VARIABLE
from sampan.base.errors import Unavailable
from sampan.registry.service import Registry
from sampan.registry.storage.port import new_upload_id
from sampan.registry.upkeep.garbage import Garbage, GarbageRunning
from sampan.registry.upkeep.garbage_rules import GarbageSettings
from sampan.store.registry.index import RegistryIndex

SETTINGS = GarbageSettings(batch=3)
"""Small steps, so that each test has several."""


class Bench:
    def __init__(self) -> None:
        self.clock = Clock()
        self.storage = FakeBlobStorage(self.clock)
        self.registry = Registry(RegistryIndex(":memory:"), self.storage)
        self.registry.context.now_ns = self.clock
        self.garbage = Garbage(self.registry, SETTINGS)

    def set(self, **changes: object) -> None:
        self.garbage.reload(msgspec.structs.replace(self.garbage.settings, **changes))

    @property
    def blobs(self) -> set[str]:
        return set(self.storage.blobs)

    def rows(self) -> set[str]:
        return {blob.digest for blob in self.registry.index.blobs.page("", 1000)}


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    await bench.registry.close()


def blobs(count: int, start: int = 0) -> list[bytes]:
    return [content(seed) for seed in range(start, start + count)]


def digests(datas: list[bytes]) -> set[str]:
    return {digest_of(data) for data in datas}


async def until(holds: Callable[[], bool]) -> None:
    """Let everybody else take one step after the other."""
    while not holds():  # noqa: ASYNC110 - each step counts
        await asyncio.sleep(0)


async def test_blobs_without_a_manifest_go_after_the_grace_time(bench: Bench) -> None:
    for data in blobs(10):
        await push_blob(bench.registry, "team/app", data)
    bench.clock.pass_hours(0.9)
    report = await bench.garbage.run()
    assert (report.links, report.blobs) == (0, 0)
    assert bench.blobs == digests(blobs(10))
    bench.clock.pass_hours(0.2)
    report = await bench.garbage.run()
    assert (report.links, report.blobs, report.freed_bytes, report.error) == (10, 10, 1000, "")
    assert bench.blobs == bench.rows() == set()
    assert report.repositories == 1
    assert bench.registry.index.repositories.find("team/app") is None


async def test_what_a_manifest_needs_stays(bench: Bench) -> None:
    body = await push_image(bench.registry, "app", "1", blobs(5))
    await push_image(bench.registry, "app", "", blobs(3, start=3))
    bench.clock.pass_hours(1000)
    report = await bench.garbage.run()
    assert report.blobs == 0
    assert bench.blobs == digests(blobs(6))
    bench.registry.manifests.delete("app", digest_of(body), ACTOR)
    report = await bench.garbage.run()
    assert (report.links, report.blobs) == (3, 3)
    assert bench.blobs == bench.rows() == digests(blobs(3, start=3))


async def test_a_blob_another_repository_has_stays(bench: Bench) -> None:
    await push_image(bench.registry, "one", "1", blobs(3))
    body = await push_image(bench.registry, "two", "1", blobs(4))
    bench.registry.manifests.delete("two", digest_of(body), ACTOR)
    bench.clock.pass_hours(2)
    report = await bench.garbage.run()
    assert (report.links, report.blobs, report.repositories) == (4, 1, 1)
    assert bench.blobs == digests(blobs(3))
    assert bench.registry.blobs.find("two", digest_of(content(0))) is None
    assert bench.registry.blobs.find("one", digest_of(content(0))) is not None


async def test_asking_for_a_blob_keeps_it(bench: Bench) -> None:
    for data in blobs(4):
        await push_blob(bench.registry, "app", data)
    bench.clock.pass_hours(0.9)
    assert bench.registry.blobs.find("app", digest_of(content(2))) is not None
    bench.clock.pass_hours(0.9)
    await bench.garbage.run()
    assert bench.blobs == digests([content(2)])


async def test_a_long_push_keeps_its_first_blobs(bench: Bench) -> None:
    await push_blob(bench.registry, "app", content(1))
    await push_blob(bench.registry, "other", content(2))
    upload_id = await bench.registry.uploads.start("app")
    for _ in range(3):
        bench.clock.pass_hours(0.9)
        size = await bench.registry.uploads.size("app", upload_id)
        await bench.registry.uploads.append("app", upload_id, size, pieces(b"slow"))
        await bench.garbage.run()
    assert bench.blobs == digests([content(1)])
    last = b"slow" * 3
    await bench.registry.uploads.finish("app", upload_id, digest_of(last), ACTOR)
    bench.registry.manifests.put("app", "1", manifest_of([content(1), last]), OCI_MANIFEST, ACTOR)


async def test_uploads_nobody_goes_on_with_are_removed(bench: Bench) -> None:
    stale = await bench.registry.uploads.start("app")
    await bench.registry.uploads.append("app", stale, 0, pieces(b"12345"))
    await bench.storage.start_upload(new_upload_id())
    bench.clock.pass_hours(20)
    fresh = await bench.registry.uploads.start("app")
    bench.clock.pass_hours(5)
    report = await bench.garbage.run()
    assert (report.uploads, report.freed_bytes) == (2, 5)
    assert set(bench.storage.parts) == {fresh}
    assert await bench.registry.uploads.size("app", fresh) == 0
    await bench.storage.abort(fresh)
    bench.clock.pass_hours(25)
    assert (await bench.garbage.run()).uploads == 1
    assert bench.registry.index.uploads.find(fresh) is None


async def test_manifests_without_a_tag_stay_unless_settings_say_otherwise(bench: Bench) -> None:
    await push_image(bench.registry, "app", "", blobs(2))
    bench.clock.pass_hours(10_000)
    assert (await bench.garbage.run()).manifests == 0
    bench.set(untagged_s=24 * 3600)
    assert (await bench.garbage.run()).manifests == 1
    assert bench.blobs == set()


async def test_what_a_tag_reaches_stays_and_what_it_left_goes(bench: Bench) -> None:
    bench.set(untagged_s=24 * 3600)
    first = await push_image(bench.registry, "app", "", blobs(2))
    second = await push_image(bench.registry, "app", "", blobs(2, start=2))
    bench.registry.manifests.put("app", "all", index_of([first, second]), OCI_INDEX, ACTOR)
    signature = manifest_of([content(0)], subject=first)
    bench.registry.manifests.put("app", digest_of(signature), signature, OCI_MANIFEST, ACTOR)
    pulled = await push_image(bench.registry, "app", "", blobs(2, start=4))
    bench.clock.pass_hours(100)
    stored = await bench.registry.manifests.get("app", digest_of(pulled))
    bench.registry.manifests.pulled("app", digest_of(pulled), stored, ACTOR)
    assert (await bench.garbage.run()).manifests == 0
    bench.registry.tags.delete("app", "all", ACTOR)
    # the index, what it was of, and the signature of that
    assert (await bench.garbage.run()).manifests == 4
    assert bench.blobs == digests(blobs(2, start=4))


async def test_bytes_without_a_row_are_removed_unless_they_are_older_than_the_index(bench: Bench) -> None:
    await bench.storage.put(digest_of(b"before"), b"before")
    bench.clock.pass_hours(1)
    await push_image(bench.registry, "app", "1", blobs(2))
    bench.clock.pass_hours(1)
    for data in blobs(5, start=10):
        await bench.storage.put(digest_of(data), data)
    report = await bench.garbage.run()
    assert report.strays == 0
    bench.clock.pass_hours(2)
    assert (await bench.garbage.run()).strays == 0, "looked for once a day only"
    bench.set(strays_interval_s=0)
    report = await bench.garbage.run()
    assert (report.strays, report.strays_kept) == (5, 1)
    assert bench.blobs == digests([*blobs(2), b"before"])
    report = await bench.garbage.run(everything=True)
    assert (report.strays, report.strays_kept) == (1, 0)
    assert bench.blobs == digests(blobs(2))


async def test_a_new_index_takes_nothing_away_from_an_old_storage(bench: Bench) -> None:
    for data in blobs(5):
        await bench.storage.put(digest_of(data), data)
    bench.clock.pass_hours(100)
    report = await bench.garbage.run()
    assert (report.strays, report.strays_kept) == (0, 5)
    assert len(bench.blobs) == 5


async def test_a_blob_pushed_again_while_it_is_collected_is_there_afterwards(bench: Bench) -> None:
    await push_blob(bench.registry, "app", content(1))
    bench.clock.pass_hours(2)
    original = bench.storage.delete
    pushes: list[asyncio.Task[str]] = []

    async def delete(digest: str) -> int:
        # the push comes while the bytes go, and ends after they are gone
        pushes.append(asyncio.create_task(push_blob(bench.registry, "app", content(1))))
        for _ in range(10):
            await asyncio.sleep(0)
        return await original(digest)

    bench.storage.delete = delete  # type: ignore[method-assign]
    report = await bench.garbage.run()
    await asyncio.gather(*pushes)
    assert len(pushes) == 1
    assert (report.links, report.error) == (1, "")
    assert bench.blobs == bench.rows() == digests([content(1)])
    bench.registry.manifests.put("app", "1", manifest_of([content(1)]), OCI_MANIFEST, ACTOR)


async def test_a_marked_blob_that_is_pushed_again_is_not_deleted(bench: Bench) -> None:
    await push_blob(bench.registry, "app", content(1))
    bench.clock.pass_hours(2)
    async with bench.registry.context.digests.hold(digest_of(content(1))):
        run = asyncio.create_task(bench.garbage.run())
        await until(lambda: bench.registry.index.garbage.is_marked(digest_of(content(1))))
        # as the end of a push does, with the lock held
        with bench.registry.index.transaction():
            bench.registry.blobs.adopt("app", digest_of(content(1)), 100)
    report = await run
    assert (report.links, report.blobs) == (1, 0)
    assert bench.blobs == bench.rows() == digests([content(1)])


async def test_what_an_interrupted_run_marked_is_collected_by_the_next(bench: Bench) -> None:
    await push_blob(bench.registry, "app", content(1))
    bench.clock.pass_hours(2)

    async def refuse(digest: str) -> int:
        raise Unavailable("the storage is away")

    working, bench.storage.delete = bench.storage.delete, refuse  # type: ignore[method-assign]
    report = await bench.garbage.run()
    assert (report.blobs, report.failures) == (0, 1)
    assert bench.blobs == digests([content(1)])
    assert bench.rows() == set(), "nobody sees it"
    bench.storage.delete = working  # type: ignore[method-assign]
    report = await bench.garbage.run()
    assert (report.blobs, report.failures) == (1, 0)
    assert bench.blobs == set()


async def test_one_run_at_a_time_and_its_state(bench: Bench) -> None:
    for data in blobs(10):
        await push_blob(bench.registry, "app", data)
    bench.clock.pass_hours(2)
    run = asyncio.create_task(bench.garbage.run())
    await until(lambda: bench.garbage.last.links >= 3)
    assert bench.garbage.is_running
    assert (bench.garbage.last.step, bench.garbage.last.finished_ns) == ("links", 0)
    with pytest.raises(GarbageRunning, match="links"):
        await bench.garbage.run()
    report = await run
    assert not bench.garbage.is_running
    assert report is bench.garbage.last
    assert (report.step, report.links, report.finished_ns) == ("", 10, bench.clock())


async def test_a_failed_run_says_why(bench: Bench) -> None:
    async def uploads() -> AsyncIterator[object]:
        raise Unavailable("the storage is away")
        yield

    bench.storage.uploads = uploads  # type: ignore[assignment,method-assign]
    with pytest.raises(Unavailable):
        await bench.garbage.run()
    assert not bench.garbage.is_running
    assert (bench.garbage.last.error, bench.garbage.last.finished_ns) == ("the storage is away", 0)


COLLECT = """
import asyncio, pathlib, sys
from tests.support.registry_server import open_registry
from sampan.registry.upkeep.garbage import Garbage
from sampan.registry.upkeep.garbage_rules import GarbageSettings

async def main():
    registry = open_registry(pathlib.Path(sys.argv[1]))
    await Garbage(registry, GarbageSettings(grace_s=-1)).run()
    await registry.close()

asyncio.run(main())
"""
"""A grace time below zero: what was pushed just now is old enough."""


async def collect_in_a_process(root: Path, *, crash_at: str = "") -> int:
    """How it ended."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", COLLECT, str(root)),
        env={**os.environ, "PYTHONPATH": os.getcwd(), VARIABLE: crash_at},
    )
    return await process.wait()


@pytest.mark.parametrize("point", ["registry.garbage.marked", "registry.garbage.deleted"])
async def test_a_killed_collector_leaves_what_the_next_one_and_a_push_can_use(
    tmp_path: Path, point: str
) -> None:
    registry = open_registry(tmp_path)
    await push_image(registry, "app", "1", blobs(2))
    for data in blobs(4, start=10):
        await push_blob(registry, "app", data)
    await registry.close()
    assert await collect_in_a_process(tmp_path, crash_at=point) == -signal.SIGKILL

    registry = open_registry(tmp_path)
    await push_blob(registry, "app", content(10))
    body = manifest_of([content(10)])
    registry.manifests.put("app", "2", body, OCI_MANIFEST, ACTOR)
    await registry.close()
    assert await collect_in_a_process(tmp_path) == 0

    registry = open_registry(tmp_path)
    wanted = digests([*blobs(2), content(10)])
    assert {blob.digest async for blob in registry.storage.digests()} == wanted
    assert {blob.digest for blob in registry.index.blobs.page("", 100)} == wanted
    await registry.close()
