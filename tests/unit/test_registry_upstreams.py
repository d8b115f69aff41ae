"""The pull-through cache, with a registry on the loopback address as its upstream."""

from __future__ import annotations

import asyncio
import http.client
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.fakes.blob_storage import FakeBlobStorage
from tests.support.registry import Registry as Upstream
from tests.support.registry_client import RegistryClient
from tests.support.registry_content import ACTOR, OCI_MANIFEST, Clock, push_blob
from tests.support.registry_server import RegistryServer

from sampan.base.errors import SampanError
from sampan.registry.errors import BlobUnknown, Denied, ManifestUnknown, TooManyRequests
from sampan.registry.patterns import Patterns
from sampan.registry.service import Registry
from sampan.registry.upkeep.garbage import Garbage
from sampan.registry.upkeep.garbage_rules import GarbageSettings
from sampan.registry.upstreams import fetch as fetch_module
from sampan.registry.upstreams.cache import Cache, UpstreamForbids
from sampan.registry.upstreams.settings import UpstreamSettings
from sampan.registry.upstreams.source import UpstreamAway, UpstreamRefuses
from sampan.store.registry.index import RegistryIndex

REPOSITORY = "hub.test/team/app"
PATH = "team/app"


class Bench:
    """A registry whose ``hub.test/…`` is a cache of ``upstream``."""

    def __init__(self, upstream: Upstream, **changes: Any) -> None:
        self.upstream = upstream
        self.clock = Clock()
        self.storage = FakeBlobStorage(self.clock)
        self.registry = Registry(RegistryIndex(":memory:"), self.storage)
        self.registry.context.now_ns = self.clock
        settings = UpstreamSettings(prefix="hub.test", url=f"http://{upstream.host}")
        self.settings = msgspec.structs.replace(settings, **changes)
        self.cache = Cache(self.registry, [self.settings], clock=lambda: self.clock() / 1e9)
        self.registry.connect(upstreams=self.cache)

    def pass_seconds(self, seconds: float) -> None:
        self.clock.pass_hours(seconds / 3600)

    async def pull(self, reference: str, repository: str = REPOSITORY) -> str:
        """The digest."""
        return (await self.registry.manifests.get(repository, reference)).digest

    async def blob(self, digest: str, repository: str = REPOSITORY) -> bytes:
        incoming = await self.registry.blobs.incoming(repository, digest)
        if incoming is None:
            await self.registry.blobs.require(repository, digest)
            pieces = self.storage.read(digest)
        else:
            size, pieces = incoming[0], incoming[1]()
        data = b"".join([piece async for piece in pieces])
        assert incoming is None or len(data) == size
        return data

    async def close(self) -> None:
        await self.cache.close()
        await self.registry.close()


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


@pytest.fixture
async def bench(upstream: Upstream) -> AsyncIterator[Bench]:
    bench = Bench(upstream)
    yield bench
    await bench.close()


async def collect(pieces: AsyncIterator[bytes], into: list[bytes]) -> None:
    async for piece in pieces:
        into.append(piece)  # noqa: PERF401 - what came before an error counts


def layer(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


# names


def test_names_of_what_is_asked_for() -> None:
    registry = Registry(RegistryIndex(":memory:"), FakeBlobStorage())
    cache = Cache(
        registry,
        [
            UpstreamSettings(prefix="docker.io", url="https://registry-1.docker.io"),
            UpstreamSettings(prefix="mirrors/ghcr", url="https://ghcr.io", namespace="ghcr.io"),
        ],
    )
    assert [name for name in ("docker.io/a/b", "docker.iox/a", "docker.io", "a") if cache.serves(name)] == [
        "docker.io/a/b"
    ]
    assert cache.local_name("busybox", "docker.io") == "docker.io/library/busybox"
    assert cache.local_name("team/app", "docker.io") == "docker.io/team/app"
    assert cache.local_name("docker.io/busybox") == "docker.io/library/busybox"
    assert cache.local_name("team/app", "ghcr.io") == "mirrors/ghcr/team/app"
    assert cache.local_name("team/app", "quay.io") == "team/app"
    assert cache.local_name("team/app") == "team/app"
    mirror = Cache(registry, [UpstreamSettings(prefix="", url="https://registry-1.docker.io")])
    assert mirror.serves("library/busybox")
    assert mirror.local_name("busybox") == "library/busybox"
    registry.index.close()


# manifests


async def test_a_tag_is_fetched_once_and_then_believed(bench: Bench) -> None:
    digest = bench.upstream.add_image(PATH, "1", [{"a": b"1"}])
    assert [await bench.pull("1") for _ in range(3)] == [digest] * 3
    assert bench.upstream.requests == [f"GET /v2/{PATH}/manifests/1"]
    bench.pass_seconds(61)
    assert await bench.pull("1") == digest
    assert bench.upstream.requests[1:] == [f"HEAD /v2/{PATH}/manifests/1"]
    assert await bench.pull(digest) == digest
    assert len(bench.upstream.requests) == 2, "what a digest names never changes"
    (state,) = bench.cache.states()
    assert (state.fetched_manifests, state.revalidated, state.hits) == (1, 1, 3)


async def test_many_who_ask_at_once_are_one_for_the_upstream(bench: Bench) -> None:
    digest = bench.upstream.add_image(PATH, "1", [{"a": b"1"}])
    assert await asyncio.gather(*(bench.pull("1") for _ in range(10))) == [digest] * 10
    assert bench.upstream.requests == [f"GET /v2/{PATH}/manifests/1"]


async def test_a_tag_that_moved_is_fetched_by_its_digest(bench: Bench) -> None:
    first = bench.upstream.add_image(PATH, "1", [{"a": b"1"}])
    await bench.pull("1")
    second = bench.upstream.add_image(PATH, "1", [{"a": b"2"}])
    bench.pass_seconds(61)
    assert await bench.pull("1") == second
    assert bench.upstream.requests[1:] == [
        f"HEAD /v2/{PATH}/manifests/1",
        f"GET /v2/{PATH}/manifests/{second}",
    ]
    # back to what is here: nothing is sent
    bench.upstream.manifests[PATH]["1"] = bench.upstream.manifests[PATH][first]
    bench.pass_seconds(61)
    assert await bench.pull("1") == first
    assert bench.upstream.requests[3:] == [f"HEAD /v2/{PATH}/manifests/1"]


async def test_what_is_here_is_served_while_the_upstream_fails(bench: Bench) -> None:
    digest = bench.upstream.add_image(PATH, "1", [{"a": b"1"}])
    await bench.pull("1")
    assert bench.cache.warnings(REPOSITORY) == ()
    bench.pass_seconds(61)
    bench.upstream.faults.failures = [(503, {})]
    assert await bench.pull("1") == digest
    (warning,) = bench.cache.warnings(REPOSITORY)
    assert "may be old" in warning
    assert "503" in warning
    before = len(bench.upstream.requests)
    assert await bench.pull("1") == digest
    with pytest.raises(UpstreamAway, match="503"):
        await bench.pull("2")
    assert len(bench.upstream.requests) == before, "it is left alone for a while"
    (state,) = bench.cache.states()
    assert (state.stale, state.away_s) == (2, 10.0)
    bench.pass_seconds(11)
    assert await bench.pull("1") == digest
    assert bench.cache.warnings(REPOSITORY) == ()
    assert bench.cache.states()[0].away == ""


async def test_an_upstream_that_is_not_there() -> None:
    with Upstream() as upstream:
        bench = Bench(upstream)
        digest = upstream.add_image(PATH, "1", [{"a": b"1"}])
        await bench.pull("1")
    bench.pass_seconds(61)
    assert await bench.pull("1") == digest
    with pytest.raises(UpstreamAway, match=r"upstream hub\.test"):
        await bench.pull("2")
    with pytest.raises(UpstreamAway):
        await bench.blob(upstream.layers_of(PATH, "1")[0])
    await bench.close()


async def test_it_waits_as_long_as_the_upstream_asks_for(bench: Bench) -> None:
    digest = bench.upstream.add_image(PATH, "1", [{"a": b"1"}])
    bench.upstream.faults.failures = [(429, {"Retry-After": "300"})]
    with pytest.raises(TooManyRequests) as refused:
        await bench.pull("1")
    assert refused.value.retry_after_s == 300
    bench.pass_seconds(290)
    with pytest.raises(TooManyRequests) as refused:
        await bench.pull("1")
    assert 10 <= refused.value.retry_after_s <= 11
    assert len(bench.upstream.requests) == 1
    bench.pass_seconds(11)
    assert await bench.pull("1") == digest


async def test_what_is_missing_is_not_asked_for_again_at_once(bench: Bench) -> None:
    bench.upstream.add_image(PATH, "1", [{"a": b"1"}])
    for _ in range(3):
        with pytest.raises(ManifestUnknown):
            await bench.pull("2")
        with pytest.raises(BlobUnknown):
            await bench.blob(f"sha256:{'0' * 64}")
    assert len(bench.upstream.requests) == 2
    bench.pass_seconds(11)
    digest = bench.upstream.add_image(PATH, "2", [{"a": b"1"}])
    assert await bench.pull("2") == digest


async def test_a_tag_the_upstream_removed_is_gone(bench: Bench) -> None:
    digest = bench.upstream.add_image(PATH, "1", [{"a": b"1"}])
    await bench.pull("1")
    del bench.upstream.manifests[PATH]["1"]
    bench.pass_seconds(61)
    with pytest.raises(ManifestUnknown):
        await bench.pull("1")
    assert bench.registry.tags.names(REPOSITORY, "", 10) == []
    assert await bench.pull(digest) == digest


async def test_only_what_is_allowed_is_fetched(upstream: Upstream) -> None:
    bench = Bench(upstream, allow=Patterns(("team/*",)))
    digest = upstream.add_image(PATH, "1", [{"a": b"1"}])
    assert await bench.pull("1") == digest
    with pytest.raises(UpstreamForbids, match="other/app may not be fetched"):
        await bench.pull("1", "hub.test/other/app")
    with pytest.raises(UpstreamForbids):
        await bench.blob(digest, "hub.test/other/app")
    assert len(upstream.requests) == 1
    await bench.close()


@pytest.mark.parametrize("tokens", [False, True])
async def test_credentials_for_the_upstream(tokens: bool) -> None:
    with Upstream(users={"robot": "secret"}, tokens=tokens) as upstream:
        digest = upstream.add_image(PATH, "1", [{"a": b"1"}])
        nobody, robot = Bench(upstream), Bench(upstream, username="robot", password="secret")
        with pytest.raises(UpstreamRefuses):
            await nobody.pull("1")
        assert await robot.pull("1") == digest
        (blob,) = upstream.layers_of(PATH, "1")
        assert await robot.blob(blob) == upstream.blobs[blob]
        assert "secret" not in repr(robot.settings)
        await nobody.close()
        await robot.close()


async def test_a_copy_is_not_pushed_to(bench: Bench) -> None:
    with pytest.raises(Denied, match="cache"):
        await push_blob(bench.registry, REPOSITORY, b"content")
    with pytest.raises(Denied):
        bench.registry.manifests.put(REPOSITORY, "1", b"{}", OCI_MANIFEST, ACTOR)
    await push_blob(bench.registry, "own/app", b"content")


# blobs


def add_layer(upstream: Upstream, size: int, path: str = PATH) -> str:
    return str(upstream.add_blob(path, layer(size))["digest"])


async def test_one_fetch_however_many_ask(bench: Bench) -> None:
    digest = add_layer(bench.upstream, 3 << 20)
    found = await asyncio.gather(*(bench.blob(digest) for _ in range(8)))
    assert set(found) == {layer(3 << 20)}
    assert bench.upstream.count("GET", "/blobs/") == 1
    assert await bench.blob(digest) == layer(3 << 20)
    assert bench.upstream.count("GET", "/blobs/") == 1
    assert bench.storage.parts == {}
    (state,) = bench.cache.states()
    assert (state.fetched_blobs, state.fetched_bytes) == (1, 3 << 20)


async def test_a_blob_is_sent_while_it_comes(bench: Bench) -> None:
    digest = add_layer(bench.upstream, 1 << 20)
    bench.upstream.faults.stall_after_bytes = 512 << 10
    incoming = await bench.registry.blobs.incoming(REPOSITORY, digest)
    assert incoming is not None
    size, pieces = incoming[0], incoming[1]()
    received = b""
    async for piece in pieces:
        received += piece
        if len(received) == 512 << 10:
            # the upstream stands still: this came before the rest
            assert digest not in bench.storage.blobs
            bench.upstream.faults.stall_after_bytes = 0
            bench.upstream.released.set()
    assert (size, received) == (1 << 20, layer(1 << 20))
    assert bench.upstream.blob_bytes == 1 << 20, "it went on where it was cut off"


async def test_the_blob_is_stored_also_when_the_client_leaves(bench: Bench) -> None:
    digest = add_layer(bench.upstream, 1 << 20)
    incoming = await bench.registry.blobs.incoming(REPOSITORY, digest)
    assert incoming is not None
    pieces = incoming[1]()
    assert await anext(pieces)
    await pieces.aclose()  # type: ignore[attr-defined]
    assert await bench.blob(digest) == layer(1 << 20)
    assert bench.upstream.count("GET", "/blobs/") == 1


async def test_a_slow_client_holds_up_nobody(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch_module, "WINDOW_BYTES", 128 << 10)
    digest = add_layer(bench.upstream, 4 << 20)
    slow = await bench.registry.blobs.incoming(REPOSITORY, digest)
    assert slow is not None
    pieces = slow[1]()
    first = await anext(pieces)
    assert await bench.blob(digest) == layer(4 << 20), "the other one takes all"
    rest = b"".join([piece async for piece in pieces])
    assert first + rest == layer(4 << 20)
    assert bench.upstream.count("GET", "/blobs/") == 1


async def test_no_more_is_held_in_memory_than_the_window(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch_module, "WINDOW_BYTES", 256 << 10)
    digest = add_layer(bench.upstream, 4 << 20)
    incoming = await bench.registry.blobs.incoming(REPOSITORY, digest)
    assert incoming is not None
    (fetch,) = bench.cache._fetches.values()
    received = 0
    async for piece in incoming[1]():
        received += len(piece)
        if not fetch.stored.done():
            # a chunk of the connection's may come on top
            assert fetch._end - received <= (256 << 10) + (2 << 20)
    assert received == 4 << 20


async def test_a_cut_connection_goes_on_where_it_was(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch_module, "_PAUSE_S", 0.0)
    digest = add_layer(bench.upstream, 1 << 20)
    bench.upstream.faults.cut_after_bytes = 300_000
    assert await bench.blob(digest) == layer(1 << 20)
    assert bench.upstream.blob_bytes == 1 << 20
    assert bench.upstream.count("GET", "/blobs/") == 4


async def test_an_upstream_without_ranges_sends_it_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch_module, "_PAUSE_S", 0.0)
    digest = add_layer(bench.upstream, 1 << 20)
    bench.upstream.faults.no_ranges = True
    bench.upstream.faults.cut_after_bytes = 300_000
    incoming = await bench.registry.blobs.incoming(REPOSITORY, digest)
    assert incoming is not None
    bench.upstream.faults.cut_after_bytes = 0
    received = b"".join([piece async for piece in incoming[1]()])
    assert received == layer(1 << 20)


async def test_damaged_content_is_neither_stored_nor_sent_whole(bench: Bench) -> None:
    digest = add_layer(bench.upstream, 100_000)
    bench.upstream.faults.flip_blobs = True
    incoming = await bench.registry.blobs.incoming(REPOSITORY, digest)
    assert incoming is not None
    received: list[bytes] = []
    with pytest.raises(SampanError, match="content"):
        await collect(incoming[1](), received)
    assert len(b"".join(received)) < 100_000
    assert bench.storage.blobs == {}
    assert bench.storage.parts == {}
    bench.upstream.faults.flip_blobs = False
    assert await bench.blob(digest) == layer(100_000)


async def test_a_blob_of_another_repository_is_taken_when_the_upstream_has_it_there_too(
    bench: Bench,
) -> None:
    digest = add_layer(bench.upstream, 1000)
    await bench.blob(digest)
    other = "hub.test/other/app"
    with pytest.raises(BlobUnknown):
        await bench.blob(digest, other)
    bench.pass_seconds(11)
    bench.upstream.add_blob("other/app", layer(1000))
    assert await bench.blob(digest, other) == layer(1000)
    assert bench.upstream.count("HEAD", "/blobs/") == 2
    assert bench.upstream.count("GET", "/blobs/") == 1


# room


async def pull_whole(bench: Bench, tag: str) -> None:
    digest = await bench.pull(tag)
    stored = bench.registry.manifests.find(REPOSITORY, digest)
    assert stored is not None
    bench.registry.manifests.pulled(REPOSITORY, tag, stored[1], ACTOR)
    for blob in bench.upstream.layers_of(PATH, tag):
        await bench.blob(blob)


async def test_what_nobody_pulls_goes(upstream: Upstream) -> None:
    bench = Bench(upstream, unused_s=30 * 24 * 3600.0)
    garbage = Garbage(bench.registry, GarbageSettings(untagged_s=0), evictor=bench.cache)
    for tag in "12":
        upstream.add_image(PATH, tag, [{"a": tag.encode()}])
        await pull_whole(bench, tag)
    bench.clock.pass_hours(20 * 24)
    await pull_whole(bench, "2")
    assert (await garbage.run()).evicted == 0
    bench.clock.pass_hours(15 * 24)
    report = await garbage.run()
    assert (report.evicted, report.blobs) == (1, 1)
    assert bench.registry.tags.names(REPOSITORY, "", 10) == ["2"]
    assert set(bench.storage.blobs) == set(upstream.layers_of(PATH, "2"))
    await pull_whole(bench, "1")
    assert len(bench.storage.blobs) == 2
    await bench.close()


async def test_beyond_its_limit_the_least_recently_pulled_goes(upstream: Upstream) -> None:
    bench = Bench(upstream, limit_bytes=250_000)
    garbage = Garbage(bench.registry, GarbageSettings(), evictor=bench.cache)
    for number in range(4):
        # 60 kB each that cannot be compressed
        upstream.add_image(PATH, str(number), [{"a": layer(60_000, number)}])
        await pull_whole(bench, str(number))
        bench.clock.pass_hours(2)
    assert (await garbage.run()).evicted == 0
    await pull_whole(bench, "0")
    upstream.add_image(PATH, "4", [{"a": layer(60_000, 4)}])
    await pull_whole(bench, "4")
    bench.clock.pass_hours(2)
    report = await garbage.run()
    assert (report.evicted, report.blobs) == (2, 2)
    assert bench.registry.tags.names(REPOSITORY, "", 10) == ["0", "3", "4"]
    assert bench.cache.states()[0].evicted == 2
    await bench.close()


async def test_manifests_fetched_by_digest_are_no_garbage(bench: Bench) -> None:
    digest = bench.upstream.add_image(PATH, "1", [{"a": b"1"}])
    await bench.pull(digest)
    bench.clock.pass_hours(24)
    garbage = Garbage(bench.registry, GarbageSettings(untagged_s=3600), evictor=bench.cache)
    assert (await garbage.run()).manifests == 0


# through HTTP


@pytest.fixture
def server(upstream: Upstream, tmp_path: Path) -> Iterator[RegistryServer]:
    caches: list[Cache] = []

    def connect(registry: Registry) -> None:
        settings = UpstreamSettings(prefix="hub.test", url=f"http://{upstream.host}", fresh_s=0)
        caches.append(Cache(registry, [settings]))
        registry.connect(upstreams=caches[0], notices=caches[0])

    with RegistryServer(tmp_path, connect=connect) as server:
        yield server
        asyncio.run_coroutine_threadsafe(caches[0].close(), server.loop).result(20)


def test_clients_pull_through_it(upstream: Upstream, server: RegistryServer) -> None:
    digest = upstream.add_image(PATH, "1", [{"a": layer(500_000)}])
    (blob,) = upstream.layers_of(PATH, "1")
    with RegistryClient(server.port) as client:
        for path, query in ((f"/v2/{REPOSITORY}", {}), (f"/v2/{PATH}", {"ns": "hub.test"})):
            head = client.call("HEAD", f"{path}/manifests/1", **query)
            assert (head.status, head.headers["Docker-Content-Digest"]) == (200, digest)
            answer = client.call("GET", f"{path}/manifests/{digest}", **query)
            assert (answer.status, answer.body) == (200, upstream.manifests[PATH]["1"][1])
            answer = client.call("GET", f"{path}/blobs/{blob}", **query)
            assert (answer.status, answer.body) == (200, upstream.blobs[blob])
            answer = client.call("GET", f"{path}/blobs/{blob}", headers={"Range": "bytes=10-19"}, **query)
            assert (answer.status, answer.body) == (206, upstream.blobs[blob][10:20])
            assert client.call("HEAD", f"{path}/blobs/{blob}", **query).status == 200
        assert client.call("GET", f"/v2/{PATH}/manifests/1").status == 404
        assert client.call("POST", f"/v2/{REPOSITORY}/blobs/uploads/", b"").status == 403
        missing = client.call("GET", f"/v2/{REPOSITORY}/blobs/sha256:{'0' * 64}")
        assert (missing.status, missing.codes) == (404, ["BLOB_UNKNOWN"])
        upstream.faults.failures = [(429, {"Retry-After": "7"})]
        stale = client.call("GET", f"/v2/{REPOSITORY}/manifests/1")
        assert (stale.status, stale.headers["Warning"][:6]) == (200, "299 - ")
        limited = client.call("GET", f"/v2/{REPOSITORY}/manifests/2")
        assert limited.status == 429
        assert 1 <= int(limited.headers["Retry-After"]) <= 7
    assert upstream.count("GET", "/blobs/") == 2


def test_damage_ends_the_connection(upstream: Upstream, server: RegistryServer) -> None:
    digest = add_layer(upstream, 500_000)
    upstream.faults.flip_blobs = True
    with RegistryClient(server.port) as client, pytest.raises(http.client.IncompleteRead):
        client.call("GET", f"/v2/{REPOSITORY}/blobs/{digest}")
    with RegistryClient(server.port) as client:
        upstream.faults.flip_blobs = False
        assert client.call("GET", f"/v2/{REPOSITORY}/blobs/{digest}").body == layer(500_000)
