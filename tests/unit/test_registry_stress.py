"""Pushes, mounts, deletions and the collector at once, on files: nothing that is referred to may disappear.

Time passes with what is done, not with the machine's clock, so that a slow machine sees the same races.
``SAMPAN_STRESS=20`` does twenty times as much.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections import Counter
from collections.abc import Coroutine
from pathlib import Path

from tests.support.registry_content import (
    ACTOR,
    OCI_MANIFEST,
    Clock,
    content,
    digest_of,
    manifest_of,
    push_blob,
)

from sampan.base.clock import now_ns
from sampan.registry.errors import (
    BlobInUse,
    BlobUnknown,
    ManifestBlobUnknown,
    ManifestUnknown,
    NameUnknown,
)
from sampan.registry.service import Registry
from sampan.registry.storage.files import FileBlobStorage
from sampan.registry.upkeep.garbage import Garbage
from sampan.registry.upkeep.garbage_rules import GarbageSettings
from sampan.store.registry.index import RegistryIndex

TIMES = int(os.environ.get("SAMPAN_STRESS", "1"))
PUSHERS = 6
PUSHES = 40 * TIMES
"""Of each."""
REPOSITORIES = ["a", "b", "c/d"]
POOL = {digest_of(data): data for data in (content(seed, 2000) for seed in range(100))}
"""So few that pushes, deletions and the collector are always about the same blobs."""
GRACE_S = 30
"""Steps of all pushers together; one push takes some 20 of them."""


class Ground:
    """What the actors share, and what they count."""

    def __init__(self, root: Path) -> None:
        self.clock = Clock()
        self.clock.time_ns = now_ns()
        self.registry = Registry(RegistryIndex(str(root / "registry.db")), FileBlobStorage(str(root)))
        self.registry.context.now_ns = self.clock
        settings = GarbageSettings(grace_s=GRACE_S, untagged_s=GRACE_S, batch=7, strays_interval_s=0)
        self.garbage = Garbage(self.registry, settings)
        self.live: dict[tuple[str, str], list[str]] = {}
        """Blobs by repository and manifest, of those that were pushed and not deleted."""
        self.deleted: set[tuple[str, str]] = set()
        self.counts: Counter[str] = Counter()
        self.lost: list[str] = []
        self.pushing = PUSHERS

    def step(self) -> None:
        self.clock.time_ns += 1_000_000_000

    async def push(self, chance: random.Random) -> None:
        repository = chance.choice(REPOSITORIES)
        digests = chance.sample(sorted(POOL), 4)
        body = manifest_of([POOL[digest] for digest in digests])
        key = (repository, digest_of(body))
        for digest in digests:
            await self.bring(repository, digest, chance)
            self.step()
        try:
            self.registry.manifests.put(repository, f"t{chance.randrange(8)}", body, OCI_MANIFEST, ACTOR)
        except ManifestBlobUnknown:
            self.counts["too slow"] += 1
            return
        self.live[key] = digests
        self.counts["pushed"] += 1

    async def bring(self, repository: str, digest: str, chance: random.Random) -> None:
        """As clients do: look, try to mount, send."""
        blobs = self.registry.blobs
        if blobs.find(repository, digest) is not None:
            self.counts["there"] += 1
            return
        source = chance.choice(["", *REPOSITORIES])
        if await blobs.mount(repository, digest, source, lambda _: True, ACTOR) is not None:
            self.counts["mounted"] += 1
            return
        await push_blob(self.registry, repository, POOL[digest])
        self.counts["sent"] += 1

    async def pusher(self, number: int) -> None:
        chance = random.Random(number)
        for _ in range(PUSHES):
            await self.push(chance)
            if chance.random() < 0.95:
                self.delete(chance)
        self.pushing -= 1

    def delete(self, chance: random.Random) -> None:
        """A manifest, a tag or a blob."""
        if self.live:
            repository, digest = chance.choice(sorted(self.live))
            try:
                self.registry.manifests.delete(repository, digest, ACTOR)
                self.counts["deleted"] += 1
            except ManifestUnknown:
                # without a tag, and collected
                self.counts["collected manifests"] += 1
            del self.live[repository, digest]
        try:
            repository, blob = chance.choice(REPOSITORIES), chance.choice(sorted(POOL))
            self.registry.blobs.delete(repository, blob, ACTOR)
            self.counts["deleted blobs"] += 1
        except (BlobUnknown, BlobInUse):
            self.counts["kept blobs"] += 1

    async def collector(self) -> None:
        while self.pushing:
            report = await self.garbage.run()
            self.counts["runs"] += 1
            for name in ("links", "blobs", "strays", "manifests"):
                self.counts[f"collected {name}"] += getattr(report, name)
            self.counts["failures"] += report.failures

    async def reader(self) -> None:
        """Reads what manifests that are there refer to."""
        chance = random.Random(0)
        while self.pushing:
            await asyncio.sleep(0)
            if not self.live:
                continue
            repository, manifest = chance.choice(sorted(self.live))
            for digest in self.live[repository, manifest]:
                if not await self.is_whole(repository, digest) and self.is_there(repository, manifest):
                    self.lost.append(f"{repository}: {digest} of {manifest}")
            self.counts["read"] += 1

    def is_there(self, repository: str, manifest: str) -> bool:
        try:
            return self.registry.manifests.find(repository, manifest) is not None
        except NameUnknown:
            return False

    async def is_whole(self, repository: str, digest: str) -> bool:
        if self.registry.blobs.find(repository, digest) is None:
            return False
        try:
            data = b"".join([piece async for piece in self.registry.storage.read(digest)])
        except BlobUnknown:
            return False
        return data == POOL[digest]


async def all_of(*actors: Coroutine[None, None, None]) -> None:
    async with asyncio.TaskGroup() as group:
        for actor in actors:
            group.create_task(actor)


async def test_nothing_that_is_referred_to_disappears(tmp_path: Path) -> None:
    ground = Ground(tmp_path)
    await all_of(
        *(ground.pusher(number) for number in range(1, PUSHERS + 1)),
        ground.collector(),
        ground.reader(),
        ground.reader(),
    )

    print(dict(ground.counts))
    assert ground.lost == []
    needed: set[str] = set()
    for repository, manifest in sorted(ground.live):
        found = ground.registry.manifests.find(repository, manifest)
        if found is None:
            # its tag went to another one: it is garbage by now
            continue
        described = json.loads(found[1].body)
        blobs = [part["digest"] for part in (described["config"], *described["layers"])]
        for digest in blobs:
            assert await ground.is_whole(repository, digest), (repository, manifest, digest)
        needed.update(blobs)
    # the test would be of no use if this did not happen
    counts = ground.counts
    assert counts["failures"] == 0
    assert counts["pushed"] >= PUSHERS * PUSHES // 4
    assert min(counts[name] for name in ("sent", "mounted", "there", "deleted", "read")) > 0
    assert min(counts["collected links"], counts["collected blobs"]) > 0

    # and when all is quiet, exactly what is needed is left
    ground.garbage.settings = GarbageSettings(grace_s=0, batch=7, strays_interval_s=0)
    ground.clock.pass_hours(1)
    await ground.garbage.run(everything=True)
    assert {blob.digest async for blob in ground.registry.storage.digests()} == needed
    assert {blob.digest for blob in ground.registry.index.blobs.page("", 1000)} == needed
    assert [upload.id async for upload in ground.registry.storage.uploads()] == []
    await ground.registry.close()


async def test_pushes_come_to_their_end_while_blobs_are_deleted(tmp_path: Path) -> None:
    ground = Ground(tmp_path)
    for seed in range(100, 140):
        await push_blob(ground.registry, "old", content(seed))
    ground.clock.pass_hours(1)
    delete = ground.registry.storage.delete
    pushed = asyncio.Event()

    async def slow_delete(digest: str) -> int:
        await pushed.wait()
        return await delete(digest)

    ground.registry.storage.delete = slow_delete  # type: ignore[method-assign]
    run = asyncio.create_task(ground.garbage.run())
    while ground.garbage.last.step != "blobs":  # noqa: ASYNC110 - each step counts
        await asyncio.sleep(0)
    for seed in range(5):
        blobs = [content(seed, 2000), content(seed + 1, 2000)]
        for data in blobs:
            await push_blob(ground.registry, "new", data)
        ground.registry.manifests.put("new", str(seed), manifest_of(blobs), OCI_MANIFEST, ACTOR)
    assert not run.done()
    pushed.set()
    report = await run
    assert (report.blobs, report.failures) == (40, 0)
    assert len(ground.registry.tags.names("new", "", 100)) == 5
    await ground.registry.close()
