"""The registry's services: who is asked and told, what is refused, and that refusals leave nothing."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.registry_client import OCI_INDEX, OCI_LAYER, OCI_MANIFEST, descriptor, digest_of
from tests.support.registry_content import (
    ACTOR,
    Clock,
    content,
    index_of,
    manifest_of,
    pieces,
    push_blob,
    push_image,
)

from sampan.model.registry import RegistryEvent, StoredManifest
from sampan.registry.contents import read_manifest
from sampan.registry.context import Context
from sampan.registry.errors import (
    BlobUnknown,
    Denied,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestUnknown,
    QuotaExceeded,
    TagImmutable,
    UploadUnknown,
)
from sampan.registry.ports import NoUpstreams
from sampan.registry.service import Registry
from sampan.registry.storage.files import FileBlobStorage
from sampan.store.db import Database
from sampan.store.registry.index import RegistryIndex
from sampan.store.registry.migrations import REGISTRY_MIGRATIONS

MINUTE_NS = 60 * 1_000_000_000
CONFIG, LAYER = b"{}", content(1, 1000)


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[Registry]:
    made = Registry(RegistryIndex(":memory:"), FileBlobStorage(str(tmp_path)))
    yield made
    await made.close()


class Strict:
    """No more than ``limit`` bytes at once; no tag is moved."""

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def check_push(self, repository: str, size_bytes: int) -> None:
        if size_bytes > self.limit:
            raise QuotaExceeded(f"{repository} takes no {size_bytes} bytes")

    def check_tag(self, repository: str, tag: str, old_digest: str | None, new_digest: str | None) -> None:
        if old_digest is not None and new_digest != old_digest:
            raise TagImmutable(f"{tag} stays")


class Listener:
    def __init__(self) -> None:
        self.events: list[RegistryEvent] = []

    def happened(self, event: RegistryEvent) -> None:
        self.events.append(event)


class Cache(NoUpstreams):
    """Has one manifest and one blob of ``hub/``."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.asked: list[str] = []

    def serves(self, repository: str) -> bool:
        return repository.startswith("hub/")

    async def manifest(self, repository: str, reference: str) -> StoredManifest | None:
        self.asked.append(reference)
        body = manifest_of([CONFIG, LAYER])
        if reference not in ("latest", digest_of(body)):
            return None
        return self.registry.manifests.keep_copy(repository, reference, body, OCI_MANIFEST)

    async def blob(self, repository: str, digest: str) -> bool:
        self.asked.append(digest)
        if digest != digest_of(LAYER):
            return False
        await self.registry.uploads.keep_copy(repository, digest, pieces(LAYER))
        return True


def files(root: Path) -> list[str]:
    return sorted(path.name for path in root.rglob("*") if path.is_file() and path.name != "oci-layout")


async def test_a_push_over_the_quota_leaves_nothing(registry: Registry, tmp_path: Path) -> None:
    registry.connect(gate=Strict(500))
    upload_id = await registry.uploads.start("a")
    await registry.uploads.append("a", upload_id, 0, pieces(LAYER))
    with pytest.raises(QuotaExceeded):
        await registry.uploads.finish("a", upload_id, digest_of(LAYER), ACTOR)
    with pytest.raises(UploadUnknown):
        await registry.uploads.size("a", upload_id)
    assert files(tmp_path) == []
    assert registry.blobs.find("a", digest_of(LAYER)) is None


async def test_a_quota_is_asked_before_and_while_bytes_come(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.connect(gate=Strict(500))
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += 100
            yield bytes(100)

    upload_id = await registry.uploads.start("a")
    with pytest.raises(QuotaExceeded):
        await registry.uploads.append("a", upload_id, 0, endless(), length=501)
    assert taken == 0
    monkeypatch.setattr("sampan.registry.uploads.ASK_BYTES", 200)
    with pytest.raises(QuotaExceeded):
        await registry.uploads.receive("a", digest_of(LAYER), endless(), ACTOR)
    assert taken == 600
    assert files(tmp_path) == []


async def test_a_refused_tag_refuses_the_whole_push(registry: Registry) -> None:
    first = await push_image(registry, "a", "v1", [CONFIG])
    registry.connect(gate=Strict(1 << 30))
    second = manifest_of([CONFIG, CONFIG])
    with pytest.raises(TagImmutable):
        registry.manifests.put("a", "v2", second, OCI_MANIFEST, ACTOR, tags=["v1"])
    assert registry.tags.names("a", "", 10) == ["v1"]
    with pytest.raises(ManifestUnknown):
        await registry.manifests.get("a", digest_of(second))
    with pytest.raises(TagImmutable):
        registry.manifests.delete("a", digest_of(first), ACTOR)
    with pytest.raises(TagImmutable):
        registry.tags.delete("a", "v1", ACTOR)
    assert (await registry.manifests.get("a", "v1")).body == first


async def test_a_sparse_repository_takes_what_is_there(registry: Registry) -> None:
    registry.connect(sparse=lambda name: name.startswith("mirror/"))
    here = await push_image(registry, "mirror/app", "", [CONFIG])
    index = index_of([here, b"another platform"])
    pushed = registry.manifests.put("mirror/app", "v1", index, OCI_INDEX, ACTOR)
    assert pushed.absent == [digest_of(b"another platform")]
    await push_image(registry, "app", "", [CONFIG])
    with pytest.raises(ManifestBlobUnknown):
        registry.manifests.put("app", "v1", index, OCI_INDEX, ACTOR)


async def test_mounts_come_from_what_the_caller_may_pull(registry: Registry) -> None:
    digest = await push_blob(registry, "secret/app", LAYER)
    for source in ("secret/app", ""):
        mounted = await registry.blobs.mount("mine", digest, source, lambda name: False, ACTOR)
        assert mounted is None
    assert await registry.blobs.mount("mine", digest, "other", lambda name: True, ACTOR) is None
    mounted = await registry.blobs.mount("mine", digest, "", lambda name: name == "secret/app", ACTOR)
    assert mounted is not None
    assert mounted.size_bytes == len(LAYER)


async def test_what_happens_is_told(registry: Registry) -> None:
    listener = Listener()
    registry.connect(observer=listener)
    body = await push_image(registry, "a", "v1", [CONFIG])
    digest = digest_of(body)
    registry.manifests.pulled("a", "v1", await registry.manifests.get("a", "v1"), ACTOR)
    await registry.blobs.mount("b", digest_of(CONFIG), "a", lambda name: True, ACTOR)
    registry.manifests.delete("a", digest, ACTOR)
    registry.blobs.delete("a", digest_of(CONFIG), ACTOR)
    told = [(event.action, event.kind, event.repository, event.tag) for event in listener.events]
    assert told == [
        ("push", "blob", "a", ""),
        ("push", "manifest", "a", "v1"),
        ("pull", "manifest", "a", "v1"),
        ("mount", "blob", "b", ""),
        ("delete", "tag", "a", "v1"),
        ("delete", "manifest", "a", ""),
        ("delete", "blob", "a", ""),
    ]
    assert listener.events[3].from_repository == "a"
    assert {event.actor for event in listener.events} == {ACTOR}


async def test_a_cache_fetches_and_takes_no_pushes(registry: Registry) -> None:
    cache = Cache(registry)
    registry.connect(upstreams=cache)
    with pytest.raises(Denied):
        await registry.uploads.start("hub/app")
    with pytest.raises(Denied):
        registry.manifests.put("hub/app", "latest", b"{}", OCI_MANIFEST, ACTOR)
    stored = await registry.manifests.get("hub/app", "latest")
    assert stored.digest == digest_of(stored.body)
    with pytest.raises(ManifestUnknown):
        await registry.manifests.get("hub/app", "other")
    link = await registry.blobs.require("hub/app", digest_of(LAYER))
    assert link.size_bytes == len(LAYER)
    with pytest.raises(BlobUnknown):
        await registry.blobs.require("hub/app", digest_of(CONFIG))
    asked = len(cache.asked)
    assert await registry.blobs.require("hub/app", digest_of(LAYER)) == link
    assert len(cache.asked) == asked
    assert registry.tags.names("hub/app", "", 10) == ["latest"]


async def test_a_copy_with_another_digest_is_not_kept(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(DigestInvalid):
        await registry.uploads.keep_copy("hub/app", digest_of(CONFIG), pieces(LAYER))
    assert files(tmp_path) == []
    with pytest.raises(DigestInvalid):
        registry.manifests.keep_copy("hub/app", digest_of(LAYER), manifest_of([CONFIG]), OCI_MANIFEST)


async def test_asking_for_a_blob_is_remembered_to_the_minute(registry: Registry) -> None:
    clock = Clock()
    registry.context.now_ns = clock
    digest = await push_blob(registry, "a", LAYER)
    pushed_ns = clock.time_ns
    clock.time_ns += MINUTE_NS
    link = registry.blobs.find("a", digest)
    assert link is not None
    assert link.touched_ns == pushed_ns
    clock.time_ns += 1
    registry.blobs.find("a", digest)
    again = registry.blobs.find("a", digest)
    assert again is not None
    assert again.touched_ns == clock.time_ns


async def test_sizes_count_what_a_tag_stands_for_once(registry: Registry) -> None:
    first = await push_image(registry, "a", "one", [CONFIG, LAYER])
    second = await push_image(registry, "a", "two", [CONFIG, LAYER, content(2, 500)])
    index = index_of([first, second])
    registry.manifests.put("a", "all", index, OCI_INDEX, ACTOR)
    sizes = {tag.name: tag.size_bytes for tag in registry.tags.details("a")}
    assert sizes["one"] == len(first) + len(CONFIG) + len(LAYER)
    assert sizes["all"] == len(index) + len(CONFIG) + len(LAYER) + 500
    usage = registry.repositories.usage("a")
    assert usage is not None
    assert (usage.tags, usage.manifests, usage.blobs) == (3, 3, 3)
    assert usage.size_bytes == sizes["all"] + len(first) + len(second)


async def test_the_same_blob_is_stored_once(registry: Registry, tmp_path: Path) -> None:
    digests = await asyncio.gather(*(push_blob(registry, f"r{number}", LAYER) for number in range(5)))
    assert len(set(digests)) == 1
    assert files(tmp_path) == [digests[0].partition(":")[2]]
    assert registry.index.blobs.totals() == (1, len(LAYER))
    assert registry.index.blobs.repositories_with(digests[0]) == [f"r{number}" for number in range(5)]


async def test_uploads_are_forgotten_but_not_while_one_sends(registry: Registry) -> None:
    upload_id = await registry.uploads.start("a")
    first, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield LAYER
        first.set()
        await go_on.wait()
        yield LAYER

    sending = asyncio.create_task(registry.uploads.append("a", upload_id, 0, slow()))
    await first.wait()
    assert not await registry.uploads.expire(upload_id)
    go_on.set()
    assert await sending == 2 * len(LAYER)
    assert await registry.uploads.expire(upload_id)
    with pytest.raises(UploadUnknown):
        await registry.uploads.size("a", upload_id)


async def test_hidden_repositories_do_not_shorten_pages(registry: Registry) -> None:
    body = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}).encode()
    with registry.index.transaction():
        for number in range(350):
            registry.manifests.put(f"r{number:03}", "v1", body, OCI_INDEX, ACTOR)
    seen = registry.repositories.names("", 3, lambda name: name.endswith("00"))
    assert seen == ["r000", "r100", "r200"]
    assert registry.repositories.names("r200", 3, lambda name: name.endswith("00")) == ["r300"]


def test_lists_are_read_from_indexes(tmp_path: Path) -> None:
    """A page costs what is on it, however many repositories and tags there are."""
    db = Database(str(tmp_path / "registry.db"), REGISTRY_MIGRATIONS)
    index = RegistryIndex(":memory:")
    seen: list[str] = []
    index._db._connection.set_trace_callback(seen.append)
    index.repositories.names("m", 10)
    index.tags.names(1, "m", 10)
    index.blobs.find_link("a", "sha256:x")
    index.manifests.find_tagged("a", "latest")
    index.manifests.referrers("a", "sha256:x", None, "", 10)
    assert len(seen) == 5
    for statement in seen:
        plan = " ".join(str(row[-1]) for row in db.rows(f"EXPLAIN QUERY PLAN {statement}"))
        assert "SCAN" not in plan, (statement, plan)
    index.close()
    db.close()


# durability


async def test_one_sync_is_for_all_that_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who comes while one runs waits for the next, with all others who do."""
    entered, gate = threading.Semaphore(0), threading.Semaphore(0)
    syncs: list[int] = []

    def gated(fd: int) -> None:
        syncs.append(fd)
        entered.release()
        assert gate.acquire(timeout=20)

    index, storage = RegistryIndex(str(tmp_path / "registry.db")), FileBlobStorage(str(tmp_path))
    context = Context(index, storage)
    monkeypatch.setattr(os, "fdatasync", gated)

    async def changed(name: str) -> None:
        with context.change():
            index.repositories.ensure(name, 1)
        await context.durability.reached()

    first = asyncio.create_task(changed("first"))
    assert await asyncio.to_thread(entered.acquire, timeout=20)
    others = [asyncio.create_task(changed(f"r{number}")) for number in range(50)]
    await asyncio.sleep(0)
    gate.release(2)
    await asyncio.gather(first, *others)
    assert len(syncs) == 2
    await context.durability.reached()
    assert len(syncs) == 2
    context.durability.close()
    await storage.close()
    index.close()


# what manifests say


def read(content_type: str = OCI_MANIFEST, **fields: object) -> object:
    return read_manifest(json.dumps(fields).encode(), content_type)


def test_the_type_comes_from_the_manifest_or_the_header() -> None:
    assert read_manifest(b'{"manifests": []}', "").media_type == OCI_INDEX
    assert read_manifest(b'{"layers": []}', "application/json").media_type == OCI_MANIFEST
    assert (
        read_manifest(b"{}", "Application/Vnd.Example; charset=utf-8").media_type == "application/vnd.example"
    )
    assert read_manifest(b'{"mediaType": "a/B"}', "a/b").media_type == "a/B"
    with pytest.raises(ManifestInvalid):
        read_manifest(b'{"mediaType": "a/b\\r\\nX: y"}', "")


def test_one_digest_has_one_size() -> None:
    layer = descriptor(LAYER, OCI_LAYER)
    contents = read_manifest(json.dumps({"layers": [layer, layer]}).encode(), OCI_MANIFEST)
    assert [need.digest for need in contents.blobs] == [digest_of(LAYER)]
    with pytest.raises(ManifestInvalid):
        read(layers=[layer, {**layer, "size": 1}])


def test_a_layer_that_may_lie_elsewhere_is_needed_when_another_says_so() -> None:
    foreign = descriptor(LAYER, "application/vnd.oci.image.layer.nondistributable.v1.tar")
    plain = descriptor(LAYER, OCI_LAYER)
    for layers in ([foreign, plain], [plain, foreign]):
        contents = read_manifest(json.dumps({"layers": layers}).encode(), OCI_MANIFEST)
        assert [need.required for need in contents.blobs] == [True]
