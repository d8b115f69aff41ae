"""The client of registries against one in memory, over real sockets."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from tests.support.registry import Registry
from tests.support.transfers import fetch

from sampan.base.errors import Unauthorized
from sampan.transfer.credentials import NOBODY, Credentials
from sampan.transfer.downloads import Downloads
from sampan.transfer.errors import (
    ContentMismatch,
    NoCredentials,
    RegistryRefused,
    RegistryUnreachable,
)
from sampan.transfer.registries import LoginFailed, Registries
from sampan.transfer.repository import Repository
from sampan.transfer.settings import RegistrySettings

ADA = Credentials(username="ada", password="secret")


@pytest.fixture
def server() -> Iterator[Registry]:
    with Registry() as registry:
        yield registry


@pytest.fixture
async def registries() -> AsyncIterator[Registries]:
    made = Registries(RegistrySettings(), attempts=3, first_wait_s=0.001)
    yield made
    await made.close()


async def repository(
    registries: Registries, server: Registry, name: str = "a/b", who: Credentials = NOBODY
) -> Repository:
    [found] = await registries.repositories(server.host, name, who)
    return found


class Watching:
    """What a download tells."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.waits = 0
        self.pauses: list[int] = []

    def waiting(self) -> None:
        self.waits += 1

    def progress(self, done: int, total: int) -> None:
        self.seen.append(done)

    def retrying(self, seconds: int) -> None:
        self.pauses.append(seconds)


ignore = Watching()


async def until(reached: Callable[[], bool]) -> None:
    """For what happens in the registry's thread."""
    async with asyncio.timeout(20):
        while not reached():  # noqa: ASYNC110 - no event of this loop tells it
            await asyncio.sleep(0.005)


async def test_manifest_comes_as_it_was_pushed(registries: Registries, server: Registry) -> None:
    digest = server.add_image("a/b", "1", [{"f": b"x"}])
    target = await repository(registries, server)
    by_tag = await target.manifest("1")
    assert by_tag.digest == digest
    assert by_tag == await target.manifest(digest)


async def test_missing_manifest_has_the_registrys_words(registries: Registries, server: Registry) -> None:
    target = await repository(registries, server)
    with pytest.raises(RegistryRefused, match="manifest unknown: manifest unknown") as caught:
        await target.manifest("1")
    assert caught.value.code == "MANIFEST_UNKNOWN"


async def test_manifest_of_another_digest_is_refused(registries: Registries, server: Registry) -> None:
    digest = server.add_image("a/b", "1", [{"f": b"x"}])
    server.manifests["a/b"][digest] = ("application/json", b'{"schemaVersion":2}')
    target = await repository(registries, server)
    with pytest.raises(ContentMismatch, match=f"manifest verification failed for digest {digest}"):
        await target.manifest(digest)


async def test_busy_registry_is_asked_again(registries: Registries, server: Registry) -> None:
    server.add_image("a/b", "1", [{"f": b"x"}])
    target = await repository(registries, server)
    await target.registry.base()
    server.faults.failures = [(503, {}), (429, {"Retry-After": "0"})]
    await target.manifest("1")
    assert server.count("GET", "/manifests/1") == 3


async def test_registry_that_stays_busy_is_given_up(registries: Registries, server: Registry) -> None:
    target = await repository(registries, server)
    await target.registry.base()
    server.faults.failures = [(503, {})] * 9
    with pytest.raises(RegistryRefused, match="received unexpected HTTP status: 503 Service Unavailable"):
        await target.manifest("1")
    assert len(server.faults.failures) == 6


async def test_nobody_listens(registries: Registries) -> None:
    with Registry() as gone:
        pass
    target = await repository(registries, gone)
    with pytest.raises(RegistryUnreachable, match="connection refused"):
        await target.manifest("1")


async def test_all_pages_of_tags(registries: Registries, server: Registry) -> None:
    for tag in ("a", "b", "c", "d", "e"):
        server.add_image("a/b", tag, [])
    assert await (await repository(registries, server)).tags() == ["a", "b", "c", "d", "e"]


@pytest.mark.parametrize("tokens", [False, True])
async def test_credentials(registries: Registries, tokens: bool) -> None:
    with Registry(users={"ada": "secret"}, tokens=tokens) as server:
        digest = server.add_image("a/b", "1", [{"f": b"x"}])
        target = await repository(registries, server, who=ADA)
        assert (await target.manifest("1")).digest == digest
        await target.manifest(digest)
        assert server.count("GET", "/token") == (1 if tokens else 0)
        assert await registries.login(server.host, ADA) == ""
        with pytest.raises(
            LoginFailed, match=r"login attempt to http://.* failed with status: 401"
        ) as caught:
            await registries.login(server.host, Credentials(username="ada", password="wrong"))
        assert isinstance(caught.value, Unauthorized)


async def test_without_credentials(registries: Registries) -> None:
    with Registry(users={"ada": "secret"}) as server:
        target = await repository(registries, server)
        with pytest.raises(NoCredentials, match="no basic auth credentials"):
            await target.manifest("1")
    with Registry(users={"ada": "secret"}, tokens=True) as server:
        target = await repository(registries, server)
        with pytest.raises(RegistryRefused, match="unauthorized: ") as caught:
            await target.manifest("1")
        assert not isinstance(caught.value, Unauthorized)


async def test_mirrors_come_first_and_never_see_credentials(server: Registry) -> None:
    with Registry(users={"ada": "secret"}) as origin:
        origin.add_image("a/b", "1", [])
        settings = RegistrySettings(mirrors={origin.host: [f"http://{server.host}"]})
        registries = Registries(settings, attempts=2, first_wait_s=0.001)
        mirror, last = await registries.repositories(origin.host, "a/b", ADA)
        with pytest.raises(RegistryRefused):
            await mirror.manifest("1")
        await last.manifest("1")
        assert server.count("GET", "/v2/a/b/manifests/1") == 1
        [only] = await registries.repositories(origin.host, "a/b", ADA, mirrors=False)
        assert not only.registry.endpoint.mirror
        await registries.close()


# downloads


@pytest.fixture
def blob(server: Registry) -> tuple[str, bytes]:
    data = os.urandom(3 << 20)
    return str(server.add_blob("a/b", data)["digest"]), data


def downloads(folder: Path, **options: float) -> Downloads:
    return Downloads(str(folder / "downloads"), attempts=2, first_wait_s=0.001, **options)  # type: ignore[arg-type]


async def test_cut_connections_are_continued(
    registries: Registries, server: Registry, blob: tuple[str, bytes], tmp_path: Path
) -> None:
    digest, data = blob
    server.faults.cut_after_bytes = 300_000
    target = await repository(registries, server)
    path = await fetch(downloads(tmp_path), digest, len(data), [target], ignore)
    assert Path(path).read_bytes() == data
    assert server.count("GET", "/blobs/") > 5
    assert server.blob_bytes <= len(data) * 1.05


async def test_registry_without_ranges_starts_again(
    registries: Registries, server: Registry, blob: tuple[str, bytes], tmp_path: Path
) -> None:
    digest, data = blob
    target = await repository(registries, server)
    server.faults.no_ranges = True
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / digest[7:]).write_bytes(data[:1000])
    path = await fetch(downloads(tmp_path), digest, len(data), [target], ignore)
    assert Path(path).read_bytes() == data


@pytest.mark.parametrize("left", [b"damaged", b"\0" * (4 << 20)], ids=["other bytes", "more than all"])
async def test_damaged_rest_is_fetched_again(
    registries: Registries, server: Registry, blob: tuple[str, bytes], tmp_path: Path, left: bytes
) -> None:
    digest, data = blob
    target = await repository(registries, server)
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / digest[7:]).write_bytes(left)
    path = await fetch(downloads(tmp_path), digest, len(data), [target], ignore)
    assert Path(path).read_bytes() == data


async def test_wrong_bytes_are_refused_and_not_kept(
    registries: Registries, server: Registry, blob: tuple[str, bytes], tmp_path: Path
) -> None:
    digest, data = blob
    server.faults.flip_blobs = True
    target = await repository(registries, server)
    with pytest.raises(ContentMismatch, match=f"filesystem layer verification failed for digest {digest}"):
        await fetch(downloads(tmp_path), digest, len(data), [target], ignore)
    assert list((tmp_path / "downloads").iterdir()) == []


async def test_blob_larger_than_promised_is_refused(
    registries: Registries, server: Registry, blob: tuple[str, bytes], tmp_path: Path
) -> None:
    digest, _ = blob
    target = await repository(registries, server)
    with pytest.raises(ContentMismatch, match="larger than the 1000 bytes promised"):
        await fetch(downloads(tmp_path), digest, 1000, [target], ignore)


async def test_two_who_want_a_blob_fetch_it_once(
    registries: Registries, server: Registry, blob: tuple[str, bytes], tmp_path: Path
) -> None:
    digest, data = blob
    target = await repository(registries, server)
    shared = downloads(tmp_path)
    watching = Watching()
    both = await asyncio.gather(
        fetch(shared, digest, len(data), [target], ignore),
        fetch(shared, digest, len(data), [target], watching),
    )
    assert both[0] == both[1]
    assert server.blob_bytes == len(data)
    assert watching.seen == sorted(watching.seen)
    assert watching.seen[-1] == len(data)


async def test_cancelled_download_goes_on_where_it_was(
    registries: Registries, server: Registry, blob: tuple[str, bytes], tmp_path: Path
) -> None:
    digest, data = blob
    target = await repository(registries, server)
    server.faults.stall_after_bytes = 2 << 20
    first = asyncio.ensure_future(fetch(downloads(tmp_path), digest, len(data), [target], ignore))
    partial = tmp_path / "downloads" / digest[7:]
    await until(lambda: partial.exists() and partial.stat().st_size >= 1 << 20)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    server.faults.stall_after_bytes = 0
    sent, here = server.blob_bytes, partial.stat().st_size
    path = await fetch(downloads(tmp_path), digest, len(data), [target], ignore)
    assert Path(path).read_bytes() == data
    assert server.blob_bytes - sent == len(data) - here


async def test_one_of_two_who_leaves_does_not_stop_the_other(
    registries: Registries, server: Registry, blob: tuple[str, bytes], tmp_path: Path
) -> None:
    digest, data = blob
    target = await repository(registries, server)
    shared = downloads(tmp_path)
    server.faults.stall_after_bytes = 1 << 20
    leaves = asyncio.ensure_future(fetch(shared, digest, len(data), [target], ignore))
    stays = asyncio.ensure_future(fetch(shared, digest, len(data), [target], ignore))
    await asyncio.to_thread(server.stalled.wait, 10)
    leaves.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaves
    server.faults.stall_after_bytes = 0
    server.released.set()
    assert Path(await stays).read_bytes() == data
    assert server.blob_bytes == len(data)


async def test_other_credentials_may_do(registries: Registries, tmp_path: Path) -> None:
    """Who joins a download is told that it failed with what somebody else had."""
    data = os.urandom(1000)
    with Registry(users={"ada": "secret"}) as private:
        digest = str(private.add_blob("a/b", data)["digest"])
        nobody = await repository(registries, private)
        ada = await repository(registries, private, who=ADA)
        shared = downloads(tmp_path)
        async with (
            shared.joined(digest, len(data), [nobody], ignore) as first,
            shared.joined(digest, len(data), [ada], ignore) as second,
        ):
            for download in (first, second):
                with pytest.raises(NoCredentials):
                    await download.finished()
            assert (first.joined, second.joined) == (False, True)
            assert second.failed
            # who joined it begins anew
            path = await fetch(shared, digest, len(data), [ada], ignore)
        assert Path(path).read_bytes() == data


async def test_who_comes_while_the_last_one_leaves(
    registries: Registries, server: Registry, blob: tuple[str, bytes], tmp_path: Path
) -> None:
    digest, data = blob
    target = await repository(registries, server)
    shared = downloads(tmp_path)
    server.faults.stall_after_bytes = 1 << 20
    leaves = asyncio.ensure_future(fetch(shared, digest, len(data), [target], ignore))
    await asyncio.to_thread(server.stalled.wait, 10)
    server.faults.stall_after_bytes = 0
    leaves.cancel()
    await asyncio.sleep(0)
    comes = asyncio.ensure_future(fetch(shared, digest, len(data), [target], ignore))
    assert Path(await comes).read_bytes() == data
    with pytest.raises(asyncio.CancelledError):
        await leaves
    never = asyncio.ensure_future(fetch(shared, digest, len(data), [target], ignore))
    never.cancel()
    with pytest.raises(asyncio.CancelledError):
        await never
    assert Path(await fetch(shared, digest, len(data), [target], ignore)).read_bytes() == data


async def test_proxy_is_asked_for_the_rest_of_the_world(server: Registry) -> None:
    server.add_image("a/b", "1", [{"file": b"x"}])
    settings = RegistrySettings(insecure=("registry.invalid",), http_proxy=f"http://{server.host}")
    registries = Registries(settings, attempts=1)
    [target] = await registries.repositories("registry.invalid", "a/b", NOBODY)
    assert await target.tags() == ["1"]
    assert [one["Host"] for one in server.headers][-1] == "registry.invalid"
    await registries.close()


async def test_another_address_takes_over(
    registries: Registries, server: Registry, blob: tuple[str, bytes], tmp_path: Path
) -> None:
    digest, data = blob
    with Registry() as empty:
        sources = [await repository(registries, empty), await repository(registries, server)]
        path = await fetch(downloads(tmp_path), digest, len(data), sources, ignore)
    assert Path(path).read_bytes() == data


async def test_bound_of_downloads(registries: Registries, server: Registry, tmp_path: Path) -> None:
    wanted = [str(server.add_blob("a/b", os.urandom(1000))["digest"]) for _ in range(4)]
    server.faults.stall_after_bytes = 500
    target = await repository(registries, server)
    shared = downloads(tmp_path, limit=2)
    tasks = [asyncio.ensure_future(fetch(shared, one, 1000, [target], ignore)) for one in wanted]
    await until(lambda: server.most_at_once == 2)
    server.released.set()
    server.faults.stall_after_bytes = 0
    await asyncio.gather(*tasks)
    assert server.most_at_once == 2


async def test_what_begins_while_others_are_removed_stays(
    registries: Registries, server: Registry, blob: tuple[str, bytes], tmp_path: Path
) -> None:
    digest, data = blob
    target = await repository(registries, server)
    shared = downloads(tmp_path)
    (tmp_path / "downloads" / "idle").write_bytes(b"x")
    for _ in range(10):
        _, path = await asyncio.gather(shared.clear(), fetch(shared, digest, len(data), [target], ignore))
        assert Path(path).read_bytes() == data
        assert not (tmp_path / "downloads" / "idle").exists()


async def test_old_rests_are_swept(tmp_path: Path) -> None:
    shared = downloads(tmp_path)
    for name, age_s in (("old", 8 * 86400), ("new", 86400)):
        path = tmp_path / "downloads" / name
        path.write_bytes(b"x")
        os.utime(path, (1_000_000_000 - age_s,) * 2)
    shared.sweep(1_000_000_000)
    assert [path.name for path in (tmp_path / "downloads").iterdir()] == ["new"]
