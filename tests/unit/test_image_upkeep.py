"""Which images garbage collection takes, and that it takes nothing anybody needs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.image_box import Box, config_of, docker_archive
from tests.support.images import tar_of

from sampan.engine.image.catalog import NoSuchImage
from sampan.engine.image.last_use import LastUse
from sampan.engine.image.upkeep import ImageUpkeep, UpkeepSettings
from sampan.engine.image.upkeep_plan import Candidate, Disk, Eviction, Rules, plan
from sampan.engine.image.users import ImageUser
from sampan.store.db import Database
from sampan.store.image_use import ImageUseTable
from sampan.transfer.downloads import Downloads

DAY_NS = 24 * 3600 * 1_000_000_000
NOW_NS = 1_000 * DAY_NS
EMPTY_DISK = Disk(total_bytes=1000, free_bytes=1000)


def candidate(name: str, days_ago: int, *layers: tuple[str, int], **more: str) -> Candidate:
    return Candidate(
        id=name, names=[name], last_used_ns=NOW_NS - days_ago * DAY_NS, layers=list(layers), **more
    )


def ids(evictions: list[Eviction]) -> list[str]:
    return [one.image.id for one in evictions]


def test_without_rules_nothing_goes() -> None:
    images = [candidate("a", 900, ("x", 10))]
    assert plan(images, Rules(), Disk(total_bytes=1000, free_bytes=0), NOW_NS) == []


def test_age_takes_what_nobody_used_for_so_long() -> None:
    images = [candidate("new", 1), candidate("old", 40), candidate("older", 50), candidate("edge", 30)]
    gone = plan(images, Rules(unused_for_ns=30 * DAY_NS), EMPTY_DISK, NOW_NS)
    assert ids(gone) == ["older", "old"]
    assert {one.reason for one in gone} == {"age"}


def test_a_full_disk_takes_those_used_least_recently_until_the_low_mark() -> None:
    images = [candidate(str(days), days, (f"layer{days}", 100)) for days in (5, 1, 4, 2, 3)]
    rules = Rules(high_percent=80, low_percent=60)
    assert plan(images, rules, Disk(total_bytes=1000, free_bytes=200), NOW_NS) == []
    gone = plan(images, rules, Disk(total_bytes=1000, free_bytes=150), NOW_NS)
    assert ids(gone) == ["5", "4", "3"]
    assert {(one.reason, one.freed_bytes) for one in gone} == {("disk", 100)}


def test_shared_layers_free_nothing_until_the_last_image_goes() -> None:
    images = [candidate("a", 3, ("base", 500), ("a", 1)), candidate("b", 2, ("base", 500))]
    gone = plan(images, Rules(high_percent=50, low_percent=10), Disk(total_bytes=1000, free_bytes=0), NOW_NS)
    assert [(one.image.id, one.freed_bytes) for one in gone] == [("a", 1), ("b", 500)]


def test_a_parent_goes_after_its_children_and_stays_with_them() -> None:
    rules = Rules(unused_for_ns=DAY_NS)
    images = [candidate("parent", 30), candidate("child", 20, parent="parent")]
    assert ids(plan(images, rules, EMPTY_DISK, NOW_NS)) == ["child", "parent"]
    images = [candidate("parent", 30), candidate("child", 20, parent="parent", protected="used")]
    assert ids(plan(images, rules, EMPTY_DISK, NOW_NS)) == []


candidates = st.lists(
    st.builds(
        candidate,
        st.sampled_from("abcdefgh"),
        st.integers(0, 60),
        st.tuples(st.sampled_from("xyz"), st.integers(0, 300)),
        parent=st.sampled_from(("", "a", "b", "c")),
        protected=st.sampled_from(("", "", "used")),
    ),
    unique_by=lambda one: one.id,
)


@given(candidates, st.integers(0, 50), st.integers(0, 100), st.integers(0, 100), st.integers(0, 1000))
def test_what_is_protected_or_has_children_never_goes(
    images: list[Candidate], days: int, high: int, low: int, free: int
) -> None:
    rules = Rules(unused_for_ns=days * DAY_NS, high_percent=high, low_percent=low)
    gone = plan(images, rules, Disk(total_bytes=1000, free_bytes=free), NOW_NS)
    assert not any(one.image.protected for one in gone)
    left = {image.id for image in images} - set(ids(gone))
    parents = {image.parent for image in images if image.id in left}
    assert not parents & set(ids(gone))
    for one in gone:
        if one.reason == "age":
            assert NOW_NS - one.image.last_used_ns > days * DAY_NS


# the service


class Kept:
    """A box with an upkeep of its own."""

    def __init__(self, folder: Path) -> None:
        self.box = Box(folder)
        self.last_use = LastUse(ImageUseTable(self.box.db))
        self.downloads = Downloads(str(folder / "downloads"), limit=1)
        images = self.box.images
        self.upkeep = ImageUpkeep(
            images.catalog,
            images.removal,
            self.box.users,
            self.last_use,
            self.downloads,
            self.box.workers,
            UpkeepSettings(data_root=str(folder)),
        )

    async def load(self, name: str) -> str:
        layer = tar_of({name: name.encode() * 1000})
        await self.box.load(docker_archive(([f"{name}:1"], config_of([layer]), [layer])))
        return self.box.images.catalog.find(f"{name}:1").id


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    made = Kept(tmp_path)
    yield made
    made.box.close()


EVERYTHING = Rules(unused_for_ns=1)


async def test_collecting_tells_why_and_frees_the_content(kept: Kept) -> None:
    image_id = await kept.load("gone")
    done = await kept.upkeep.collect(EVERYTHING)
    assert [(one.id, one.names, one.reason) for one in done.images] == [(image_id, ["gone:1"], "age")]
    assert done.space_reclaimed == 4000
    assert kept.box.nothing_left()
    deleted = [event for event in kept.box.events._recent if event.action == "delete"]
    assert [(event.actor_id, event.attributes["reason"]) for event in deleted] == [(image_id, "age")]


async def test_a_dry_run_removes_nothing(kept: Kept) -> None:
    await kept.load("stays")
    done = await kept.upkeep.collect(EVERYTHING, dry_run=True)
    assert [one.names for one in done.images] == [["stays:1"]]
    assert [image.repo_tags for image in kept.box.store.all()] == [["stays:1"]]


async def test_images_of_containers_mounts_and_leases_stay(kept: Kept) -> None:
    used, mounted, leased = [await kept.load(name) for name in ("used", "mounted", "leased")]
    kept.box.users.users = [
        ImageUser(id="c1", image_id=used, running=False, layer_ids=[], mounted_images=[mounted])
    ]
    with kept.box.store.lease() as lease:
        lease.add(leased)
        assert (await kept.upkeep.collect(EVERYTHING)).images == []
    kept.box.users.users = []
    assert len((await kept.upkeep.collect(EVERYTHING)).images) == 3


@pytest.mark.parametrize("pattern", ["base", "base:*", "docker.io/library/base", "b?se:1"])
async def test_names_of_the_settings_stay(kept: Kept, pattern: str) -> None:
    await kept.load("base")
    await kept.load("other")
    kept.upkeep.settings = msgspec.structs.replace(kept.upkeep.settings, kept_names=[pattern])
    assert [one.names for one in (await kept.upkeep.collect(EVERYTHING)).images] == [["other:1"]]


async def test_a_use_makes_an_image_young(kept: Kept) -> None:
    await kept.load("idle")
    image_id = await kept.load("busy")
    later_ns = max(image.last_tagged_ns for image in kept.box.store.all()) + 90 * DAY_NS
    kept.last_use.used(image_id, later_ns)
    rules = Rules(high_percent=1, low_percent=1)
    order = [one.names for one in (await kept.upkeep.collect(rules, dry_run=True)).images]
    assert order == [["idle:1"], ["busy:1"]]


async def test_old_downloads_go_and_others_stay(kept: Kept, tmp_path: Path) -> None:
    for name, age_s in (("old", 8 * 24 * 3600), ("new", 0)):
        path = tmp_path / "downloads" / name
        path.write_bytes(bytes(10_000))
        changed = path.stat().st_mtime - age_s
        os.utime(path, (changed, changed))
    expected = (tmp_path / "downloads" / "old").stat().st_blocks * 512
    assert (await kept.upkeep.collect(dry_run=True)).downloads_reclaimed == expected
    assert (await kept.upkeep.collect()).space_reclaimed == expected
    assert os.listdir(tmp_path / "downloads") == ["new"]


def test_uses_survive_and_many_at_once_are_written_once(tmp_path: Path) -> None:
    path = str(tmp_path / "db")
    with Database(path) as db:
        use = LastUse(ImageUseTable(db))
        use.used("sha256:a", NOW_NS)
        use.used("sha256:a", NOW_NS + 1)
        use.used("sha256:b", NOW_NS + 2)
        use.keep(["sha256:a"])
    with Database(path) as db:
        use = LastUse(ImageUseTable(db))
        assert (use.of("sha256:a"), use.of("sha256:b")) == (NOW_NS, None)


async def test_a_full_disk_keeps_nothing_from_starting(kept: Kept) -> None:
    kept.box.db._connection.execute("PRAGMA query_only=ON")
    kept.last_use.used("sha256:c", NOW_NS)
    assert kept.last_use.of("sha256:c") == NOW_NS


async def test_nothing_that_is_referred_to_disappears(kept: Kept) -> None:
    """Loads, saves and removals of images that share layers, with collections all the time."""
    random = Random(7)
    layers = [
        tar_of({f"{number}/{file}": random.randbytes(3000) for file in range(100)}) for number in range(5)
    ]
    stacks = [random.sample(layers, random.randint(1, 4)) for _ in range(6)]
    archives = [
        docker_archive(([f"image{number}:1"], config_of(stack, author=str(number)), stack))
        for number, stack in enumerate(stacks)
    ]
    saved = 0

    async def work(choices: Random) -> None:
        nonlocal saved
        for _ in range(20):
            number = choices.randrange(len(stacks))
            what = choices.choice(("load", "load", "save", "save", "remove", "collect"))
            try:
                if what == "load":
                    await kept.box.load(archives[number])
                elif what == "save":
                    data = await kept.box.save(f"image{number}:1")
                    assert all(layer in data for layer in stacks[number])
                    saved += 1
                elif what == "remove":
                    await kept.box.images.remove(f"image{number}:1", force=True)
                else:
                    await kept.upkeep.collect(EVERYTHING if choices.random() < 0.3 else None)
            except NoSuchImage:
                continue  # not at this moment

    await asyncio.gather(*(work(Random(seed)) for seed in range(4)))
    assert saved
    await kept.upkeep.collect(EVERYTHING)
    assert kept.box.nothing_left()
