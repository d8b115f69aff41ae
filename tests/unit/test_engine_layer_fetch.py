"""Layers that several pulls want, with a store that only counts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from tests.support.registry import Registry, digest_of

from sampan.base.errors import InvalidArgument
from sampan.content.images import ImageStore
from sampan.content.layers import StagedLayer
from sampan.content.streams import Workers
from sampan.content.unpack import UnpackResult
from sampan.engine.image.layer_fetch import FetchedLayers, LayerFetch, WantedLayer
from sampan.model.image import Descriptor
from sampan.model.progress import ProgressMessage
from sampan.transfer.credentials import NOBODY, Credentials
from sampan.transfer.downloads import Downloads
from sampan.transfer.errors import ContentMismatch, NoCredentials
from sampan.transfer.registries import Registries
from sampan.transfer.repository import Repository
from sampan.transfer.settings import RegistrySettings

DATA = os.urandom(300_000)
ADA = Credentials(username="ada", password="secret")


class Layers:
    """Where layers are unpacked."""

    policy = "auto"
    space = SimpleNamespace(require=lambda size, what: None)

    def __init__(self) -> None:
        self.staged: list[bytes] = []
        self.discarded = 0
        self.may_discard = threading.Event()
        self.may_discard.set()
        self.failures: list[Exception] = []

    def stage(self, source: Callable[[], bytes], diff_id: str = "", *, trusted: bool = False) -> StagedLayer:
        if self.failures:
            source()
            raise self.failures.pop(0)
        seen = b""
        while chunk := source():
            seen += chunk
        self.staged.append(seen)
        result = UnpackResult(size_bytes=0, entries=0, skipped_xattrs=0)
        return StagedLayer(path="", diff_id=diff_id, result=result)

    def discard(self, staged: StagedLayer) -> None:
        self.may_discard.wait(10)
        self.discarded += 1


class Box:
    """A layer fetch and everything around it."""

    def __init__(self, folder: Path, workers: Workers) -> None:
        self.layers = Layers()
        self.folder = folder
        nothing = SimpleNamespace(find=lambda digest: None)
        store = SimpleNamespace(layer=lambda chain: None, layer_blobs=nothing, layers=self.layers)
        self.downloads = Downloads(str(folder), attempts=2, first_wait_s=0.001)
        self.fetch = LayerFetch(cast(ImageStore, store), self.downloads, workers)
        self.said: list[ProgressMessage] = []

    @contextlib.asynccontextmanager
    async def pull(
        self, source: Repository, *chains: str, data: bytes = DATA
    ) -> AsyncIterator[FetchedLayers]:
        blob = Descriptor(digest=digest_of(data), size=len(data))
        layers = [WantedLayer(blob=blob, diff_id="sha256:plain", chain_id=chain) for chain in chains]

        def say(message: ProgressMessage) -> None:
            self.said.append(message)

        async with self.fetch.fetched(layers, [source], say) as fetched:
            yield fetched

    def steps(self) -> list[str]:
        return [one.status for one in self.said if not one.progress]


@pytest.fixture
def server() -> Iterator[Registry]:
    with Registry(users={"ada": "secret"}) as registry:
        registry.add_blob("a/b", DATA)
        yield registry


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    workers = Workers(8)
    yield Box(tmp_path / "downloads", workers)
    workers.close()


@pytest.fixture
async def registries() -> AsyncIterator[Registries]:
    made = Registries(RegistrySettings(), attempts=2, first_wait_s=0.001)
    yield made
    await made.close()


async def source(registries: Registries, server: Registry, who: Credentials = ADA) -> Repository:
    [found] = await registries.repositories(server.host, "a/b", who)
    return found


async def test_two_pulls_share_a_layer(box: Box, registries: Registries, server: Registry) -> None:
    target = await source(registries, server)
    async with box.pull(target, "sha256:c") as first, box.pull(target, "sha256:c") as second:
        assert first.staged[0] is second.staged[0]
        assert first.paths == second.paths
    assert box.layers.staged == [DATA]
    assert box.layers.discarded == 1
    assert server.blob_bytes == len(DATA)
    one = ["Pulling fs layer", "Verifying Checksum", "Download complete", "Pull complete"]
    assert box.steps() == one * 2


async def test_one_download_for_two_chains(box: Box, registries: Registries, server: Registry) -> None:
    target = await source(registries, server)
    async with box.pull(target, "sha256:c", "sha256:d") as fetched:
        assert sorted(fetched.staged) == [0, 1]
    assert box.layers.staged == [DATA, DATA]
    assert server.blob_bytes == len(DATA)


async def test_who_joins_tries_with_what_they_have(
    box: Box, registries: Registries, server: Registry
) -> None:
    nobody, ada = await source(registries, server, NOBODY), await source(registries, server)

    async def pull(target: Repository, chain: str) -> int:
        async with box.pull(target, chain) as fetched:
            return len(fetched.staged)

    for other in ("sha256:c", "sha256:other"):
        results = await asyncio.gather(pull(nobody, "sha256:c"), pull(ada, other), return_exceptions=True)
        assert isinstance(results[0], NoCredentials)
        assert results[1] == 1
        box.downloads.drop(digest_of(DATA))


async def test_who_comes_while_the_last_one_leaves(
    box: Box, registries: Registries, server: Registry
) -> None:
    target = await source(registries, server)
    box.layers.may_discard.clear()

    async def pull() -> bool:
        async with box.pull(target, "sha256:c") as fetched:
            return bool(fetched.staged)

    first = asyncio.ensure_future(pull())
    async with asyncio.timeout(20):
        while "Pull complete" not in box.steps():  # noqa: ASYNC110 - told by the message alone
            await asyncio.sleep(0.001)
        second = asyncio.ensure_future(pull())
        await asyncio.sleep(0)
        box.layers.may_discard.set()
        assert await asyncio.gather(first, second) == [True, True]


async def test_wrong_bytes_are_blamed_and_not_what_they_look_like(
    box: Box, registries: Registries, server: Registry
) -> None:
    """An archive that cannot be read is a registry's fault when its digest is wrong."""
    server.faults.flip_blobs = True
    box.layers.failures = [InvalidArgument("no archive")]
    with pytest.raises(ContentMismatch, match="filesystem layer verification failed"):
        async with box.pull(await source(registries, server), "sha256:c"):
            pass
    server.faults.flip_blobs = False
    box.layers.failures = [InvalidArgument("no archive")]
    with pytest.raises(InvalidArgument, match="no archive"):
        async with box.pull(await source(registries, server), "sha256:c"):
            pass
    # the same bytes would be as wrong the next time
    assert list(box.folder.iterdir()) == []


async def test_damage_of_an_earlier_download_is_read_again(
    box: Box, registries: Registries, server: Registry
) -> None:
    (box.folder / digest_of(DATA)[7:]).write_bytes(DATA[:1000] + b"damage")
    async with box.pull(await source(registries, server), "sha256:c") as fetched:
        assert len(fetched.staged) == 1
    assert box.layers.staged == [DATA]


async def test_pull_that_is_cancelled_ends_the_unpacking(
    box: Box, registries: Registries, server: Registry
) -> None:
    server.faults.stall_after_bytes = 100_000
    target = await source(registries, server)

    async def pull() -> None:
        async with box.pull(target, "sha256:c"):
            pass

    running = asyncio.ensure_future(pull())
    await asyncio.to_thread(server.stalled.wait, 10)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(running, 20)
    assert box.layers.staged == []
    server.faults.stall_after_bytes = 0
    async with box.pull(target, "sha256:c"):
        pass
    assert box.layers.staged == [DATA]
