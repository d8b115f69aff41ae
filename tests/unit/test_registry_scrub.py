"""Re-reading blobs: damage is found, told, and repaired by a push."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest
from tests.fakes.blob_storage import FakeBlobStorage
from tests.support.registry_content import (
    ACTOR,
    OCI_MANIFEST,
    content,
    digest_of,
    manifest_of,
    push_blob,
    push_image,
)

from sampan.base.errors import Unavailable
from sampan.registry.errors import BlobUnknown, ManifestBlobUnknown
from sampan.registry.service import Registry
from sampan.registry.upkeep.schedule import Schedule
from sampan.registry.upkeep.scrub import Scrub, ScrubRunning, ScrubSettings
from sampan.store.registry.index import RegistryIndex


class Pace:
    """A clock that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 0.0

    async def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        await asyncio.sleep(0)

    def clock(self) -> float:
        return self.now_s


class Bench:
    def __init__(self) -> None:
        self.storage = FakeBlobStorage()
        self.registry = Registry(RegistryIndex(":memory:"), self.storage)
        self.pace = Pace()
        self.scrub = Scrub(
            self.registry,
            ScrubSettings(bytes_per_s=1 << 20),
            sleep=self.pace.sleep,
            clock=self.pace.clock,
        )


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    await bench.registry.close()


async def test_whole_blobs_are_left_alone(bench: Bench) -> None:
    await push_image(bench.registry, "app", "1", [content(seed, 1000) for seed in range(150)])
    report = await bench.scrub.run()
    assert (report.blobs, report.bytes, report.damaged, report.error) == (150, 150_000, [], "")
    assert (report.total_blobs, report.total_bytes) == (150, 150_000)
    assert report.finished_ns >= report.started_ns > 0
    assert len(bench.storage.blobs) == 150


async def test_it_reads_at_its_rate(bench: Bench) -> None:
    await push_blob(bench.registry, "app", content(1, 3 << 20))
    await push_blob(bench.registry, "app", content(2, 1 << 20))
    await bench.scrub.run()
    assert bench.pace.now_s == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: bytes([data[0] ^ 1]) + data[1:], "other content"),
        (lambda data: data[:-1], "99 bytes instead of 100"),
        (None, "missing"),
    ],
)
async def test_damage_is_set_aside_and_repaired_by_a_push(
    bench: Bench, damage: object, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    blobs = [content(seed) for seed in range(3)]
    await push_image(bench.registry, "one", "1", blobs)
    await push_image(bench.registry, "two", "1", blobs)
    digest = digest_of(blobs[1])
    if callable(damage):
        bench.storage.blobs[digest] = damage(blobs[1])
    else:
        del bench.storage.blobs[digest]

    with caplog.at_level(logging.ERROR):
        report = await bench.scrub.run()

    assert report.damaged_blobs == 1
    assert [(one.digest, one.reason, one.repositories) for one in report.damaged] == [
        (digest, reason, ["one", "two"])
    ]
    assert "push it again to one, two" in caplog.text
    assert set(bench.storage.set_aside_blobs) == ({digest} if damage else set())
    assert digest not in bench.storage.blobs
    # clients are told, so that they send it again
    with pytest.raises(BlobUnknown):
        await bench.registry.blobs.require("two", digest)
    with pytest.raises(ManifestBlobUnknown):
        bench.registry.manifests.put("two", "2", manifest_of(blobs), OCI_MANIFEST, ACTOR)
    assert await bench.registry.blobs.mount("three", digest, "one", lambda _: True, ACTOR) is None

    await push_blob(bench.registry, "one", blobs[1])
    assert bench.registry.blobs.find("two", digest) is not None
    report = await bench.scrub.run()
    assert (report.blobs, report.damaged_blobs) == (3, 0)


async def test_what_cannot_be_read_is_not_called_damaged(bench: Bench) -> None:
    await push_blob(bench.registry, "app", content(1))

    async def read(digest: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        raise Unavailable("the storage is away")
        yield b""

    bench.storage.read = read  # type: ignore[method-assign]
    report = await bench.scrub.run()
    assert (report.blobs, report.unreadable, report.damaged_blobs) == (1, 1, 0)
    assert bench.registry.blobs.find("app", digest_of(content(1))) is not None


async def test_one_pass_at_a_time(bench: Bench) -> None:
    await push_blob(bench.registry, "app", content(1))
    run = asyncio.create_task(bench.scrub.run())
    await asyncio.sleep(0)
    assert bench.scrub.is_running
    with pytest.raises(ScrubRunning):
        await bench.scrub.run()
    await run
    assert not bench.scrub.is_running


async def test_a_schedule_goes_on_after_failures(caplog: pytest.LogCaptureFixture) -> None:
    outcomes: list[Exception | None] = [Unavailable("away"), ScrubRunning("busy"), ZeroDivisionError(), None]
    done = asyncio.Event()
    schedule = Schedule()

    async def run() -> None:
        outcome = outcomes.pop(0)
        if outcome is not None:
            raise outcome
        done.set()
        await asyncio.Event().wait()

    schedule.add("upkeep", lambda: 0.001, run)
    schedule.start()
    async with asyncio.timeout(60):
        await done.wait()
        await schedule.close()
    assert outcomes == []
    assert "upkeep: away" in caplog.text
    assert "ZeroDivisionError" in caplog.text
    assert "busy" not in caplog.text
