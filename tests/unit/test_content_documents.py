"""Names, indexes and images in the store: what belongs together, what stays, and what a restart finds."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.base.errors import NotFound
from sampan.content.assembly import parse_config
from sampan.content.blobs import BlobStore, digest_of
from sampan.content.images import OCI_INDEX, OCI_MANIFEST, ImageStore, NewImage, build_manifest
from sampan.content.layers import LayerStore
from sampan.content.streams import Workers
from sampan.engine.events import Events
from sampan.engine.image.images import Images
from sampan.engine.image.users import ImageUser
from sampan.model.image import Descriptor
from sampan.store.db import Database
from sampan.store.images import ManifestRecord

ARCHITECTURES = ("amd64", "arm64", "s390x")


class NoUsers:
    def image_users(self) -> list[ImageUser]:
        return []


class Shelf:
    """A store of images that have no layers."""

    def __init__(self, root: Path) -> None:
        self.blobs = BlobStore(str(root / "image"), str(root / "tmp"))
        self.layers = LayerStore(str(root / "layers"), str(root / "tmp"))
        self.db = Database(str(root / "sampan.db"))
        self.workers = Workers(1)
        self.open()

    def open(self) -> None:
        """As after a restart."""
        self.store = ImageStore(self.db, self.blobs, self.layers)
        self.images = Images(self.store, NoUsers(), Events(), self.workers)

    def close(self) -> None:
        self.workers.close()
        self.db.close()

    def manifest(self, architecture: str, version: int = 0) -> Descriptor:
        config = self.config(architecture, version)
        data = build_manifest(Descriptor(digest=digest_of(config), size=len(config)), [])
        platform = {"os": "linux", "architecture": architecture}
        return Descriptor(media_type=OCI_MANIFEST, digest=digest_of(data), size=len(data), platform=platform)

    def config(self, architecture: str, version: int) -> bytes:
        return json.dumps({"architecture": architecture, "os": "linux", "author": str(version)}).encode()

    def image_id(self, architecture: str, version: int = 0) -> str:
        return digest_of(self.config(architecture, version))

    def add_image(self, architecture: str, version: int = 0, now_ns: int = 1) -> str:
        """An image that comes without a name; the digest of its manifest."""
        config = self.config(architecture, version)
        self.blobs.put(config)
        data = build_manifest(Descriptor(digest=digest_of(config), size=len(config)), [])
        digest = self.blobs.put(data)
        new = NewImage(
            id=digest_of(config),
            config=parse_config(config),
            manifest_digest=digest,
            chain_ids=[],
            layer_sizes=[],
        )
        self.store.register(new, [], [], now_ns)
        return digest

    def add_index(self, name: str, *, here: tuple[str, ...], version: int = 0, now_ns: int = 1) -> str:
        """An index of all architectures under a name, with the images of some of them."""
        entries = [self.manifest(one, version) for one in ARCHITECTURES]
        data = json.dumps(
            {
                "schemaVersion": 2,
                "manifests": [
                    {
                        "mediaType": one.media_type,
                        "digest": one.digest,
                        "size": one.size,
                        "platform": one.platform,
                    }
                    for one in entries
                ],
            }
        ).encode()
        digest = self.blobs.put(data)
        for architecture in here:
            self.add_image(architecture, version, now_ns)
        record = ManifestRecord(digest=digest, media_type=OCI_INDEX)
        self.store.point(
            {name: "tag", f"{name.partition(':')[0]}@{digest}": "digest"}, digest, now_ns, documents=[record]
        )
        return digest

    def here(self, name: str) -> set[str]:
        target = self.store.names.find(name)
        entries = self.store.documents.entries(target) if target is not None else []
        return {
            entry.platform.architecture for entry in entries if entry.image_id and entry.platform is not None
        }

    def state(self) -> object:
        images = {image.id: (image.repo_tags, image.repo_digests) for image in self.store.all()}
        return images, self.store.names.all(), sorted(self.store.documents.digests())


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    made = Shelf(tmp_path)
    yield made
    made.close()


def test_an_image_that_comes_later_belongs_to_the_index_at_once(shelf: Shelf) -> None:
    shelf.add_index("a:1", here=("amd64",))
    assert shelf.here("a:1") == {"amd64"}
    shelf.add_image("s390x")
    assert shelf.here("a:1") == {"amd64", "s390x"}
    image = shelf.store.find(shelf.image_id("s390x"))
    assert image is not None
    shelf.open()
    assert shelf.here("a:1") == {"amd64", "s390x"}
    found = shelf.store.find(shelf.image_id("s390x"))
    assert found is not None
    assert found.repo_tags == ["a:1"]


async def test_two_indexes_can_share_an_image(shelf: Shelf) -> None:
    shelf.add_index("a:1", here=("amd64", "arm64"))
    own = shelf.add_image("amd64")
    shelf.store.name("b:1", own, 2)
    await shelf.images.remove("a:1")
    assert {image.id for image in shelf.store.all()} == {shelf.image_id("amd64")}
    assert (await shelf.images.resolve("b:1")).id == shelf.image_id("amd64")
    # the index went with its last name, and took nothing along that another name needs
    assert set(shelf.blobs.digests()) == {own, shelf.image_id("amd64")}


async def test_removing_a_platform_takes_it_from_every_index(shelf: Shelf) -> None:
    shelf.add_index("a:1", here=("amd64", "arm64"))
    shelf.store.name("b:1", shelf.add_image("arm64"), 2)
    records = await shelf.images.remove("a:1", force=True, platforms=["linux/arm64"])
    assert [record.untagged for record in records if record.untagged] == ["b:1"]
    assert shelf.here("a:1") == {"amd64"}
    with pytest.raises(NotFound):
        await shelf.images.resolve("b:1")


async def test_an_index_that_is_lost_leaves_its_images(shelf: Shelf) -> None:
    digest = shelf.add_index("a:1", here=("amd64", "arm64"))
    os.unlink(shelf.blobs.path(digest))
    shelf.open()
    assert (await shelf.images.resolve(shelf.image_id("arm64"))).config.architecture == "arm64"
    with pytest.raises(NotFound, match="No such image: a:1"):
        await shelf.images.resolve("a:1")
    await shelf.images.recover()
    assert len(shelf.store.all()) == 2
    # when it comes again, everything is as it was
    assert shelf.add_index("a:1", here=()) == digest
    assert shelf.here("a:1") == {"amd64", "arm64"}


async def test_one_image_in_two_packings(shelf: Shelf) -> None:
    """The same config behind two manifests: the second one is kept for the name that stands for it."""
    first = shelf.add_image("amd64")
    shelf.store.name("a:1", first, 1)
    other = build_manifest(Descriptor(digest=shelf.image_id("amd64"), size=1), [], oci=False)
    second = shelf.blobs.put(other)
    record = ManifestRecord(digest=second, image_id=shelf.image_id("amd64"))
    shelf.store.point({"b:1": "tag"}, second, 2, documents=[record])
    image = shelf.store.find(shelf.image_id("amd64"))
    assert image is not None
    assert image.repo_tags == ["a:1", "b:1"]
    assert image.manifest_digest == first
    await shelf.images.remove("b:1")
    assert shelf.blobs.find(second) is None
    assert (await shelf.images.resolve("a:1")).id == image.id


NAMES = st.sampled_from(["a:1", "a:2", "b:1"])
VERSIONS = st.integers(0, 1)
STEPS = st.one_of(
    st.tuples(
        st.just("index"), NAMES, st.integers(0, 1), st.sets(st.sampled_from(ARCHITECTURES), min_size=1)
    ),
    st.tuples(st.just("image"), NAMES, st.integers(0, 1), st.sampled_from(ARCHITECTURES)),
    st.tuples(st.just("tag"), NAMES, NAMES),
    st.tuples(st.just("remove"), NAMES),
    st.tuples(st.just("remove id"), VERSIONS, st.sampled_from(ARCHITECTURES)),
    st.tuples(st.just("remove platform"), NAMES, st.sampled_from(ARCHITECTURES)),
    st.tuples(
        st.just("prune"),
    ),
)


async def take(shelf: Shelf, step: tuple, now_ns: int) -> None:  # type: ignore[type-arg]
    match step:
        case ("index", name, version, architectures):
            shelf.add_index(name, here=tuple(sorted(architectures)), version=version, now_ns=now_ns)
        case ("image", name, version, architecture):
            shelf.store.name(name, shelf.add_image(architecture, version, now_ns), now_ns)
        case ("tag", source, target):
            await shelf.images.tag(source, target)
        case ("remove", name):
            await shelf.images.remove(name)
        case ("remove id", version, architecture):
            await shelf.images.remove(shelf.image_id(architecture, version), force=True)
        case ("remove platform", name, architecture):
            await shelf.images.remove(name, force=True, platforms=[f"linux/{architecture}"])
        case ("prune",):
            await shelf.images.prune({"dangling": ["false"]})


@given(st.lists(STEPS, max_size=12))
@settings(max_examples=40, deadline=None)
async def test_whatever_is_done_a_restart_finds_the_same(steps: list[tuple]) -> None:  # type: ignore[type-arg]
    with tempfile.TemporaryDirectory() as folder:
        shelf = Shelf(Path(folder))
        try:
            for number, step in enumerate(steps):
                try:
                    await take(shelf, step, number + 1)
                except NotFound:
                    continue
                # a name that is there means an image, and nothing is kept that nothing leads to
                for name in shelf.store.names.all():
                    assert (await shelf.images.resolve(name)).id
            await shelf.images.recover()
            before = shelf.state()
            documents = shelf.store.documents.digests()
            assert set(shelf.blobs.digests()) == {*documents, *(image.id for image in shelf.store.all())}
            shelf.open()
            assert shelf.state() == before
        finally:
            shelf.close()
