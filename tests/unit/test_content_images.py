"""Images end to end without root: blobs, load, save, import, names, removal, over a real store in memory."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import json
import os
import tarfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from tests.support.image_box import Box, config_of, docker_archive, files_of
from tests.support.images import tar_of

from sampan.base.errors import Conflict, InvalidArgument, NotFound
from sampan.content.assembly import parse_config
from sampan.content.blobs import BlobStore, digest_of
from sampan.content.bootstrap import BootstrapOptions
from sampan.content.errors import BadArchive, BlobNotFound, ContentDamaged, DigestMismatch, HostileArchive
from sampan.content.images import OCI_INDEX, OCI_MANIFEST, NewImage, build_manifest
from sampan.content.layer_intake import take_packed
from sampan.content.unpack import ArchiveLimits
from sampan.engine.image.transfer import ImageTransfer
from sampan.engine.image.users import ImageUser
from sampan.formats.tar import BadTar
from sampan.model.image import Descriptor, ImageConfig


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    made = Box(tmp_path)
    yield made
    made.close()


def oci_archive(*images: tuple[bytes, list[bytes], dict[str, str], dict[str, str] | None]) -> bytes:
    files: dict[str, bytes] = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}
    entries = []

    def put(data: bytes, kind: str, **fields: object) -> dict[str, object]:
        files[f"blobs/sha256/{digest_of(data)[7:]}"] = data
        return {"mediaType": kind, "digest": digest_of(data), "size": len(data), **fields}

    for config, layers, notes, platform in images:
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": put(config, "application/vnd.oci.image.config.v1+json"),
            "layers": [
                put(gzip.compress(layer, mtime=0), "application/vnd.oci.image.layer.v1.tar+gzip")
                for layer in layers
            ],
        }
        extra: dict[str, object] = {"annotations": notes}
        if platform:
            extra["platform"] = platform
        entries.append(
            put(json.dumps(manifest).encode(), "application/vnd.oci.image.manifest.v1+json", **extra)
        )
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": entries}).encode()
    return tar_of(files)


ONE, TWO = tar_of({"one": b"1" * 300_000}), tar_of({"two": b"2"})


# blobs


def test_blob_appears_only_when_committed(tmp_path: Path) -> None:
    blobs = BlobStore(str(tmp_path / "image"), str(tmp_path / "tmp"))
    with blobs.ingest() as writer:
        writer.write(b"data")
        assert blobs.find(digest_of(b"data")) is None
    assert os.listdir(tmp_path / "tmp") == []
    with blobs.ingest() as writer:
        writer.write(b"data")
        with pytest.raises(DigestMismatch):
            writer.commit("sha256:" + "0" * 64)
    assert list(blobs.digests()) == []
    assert blobs.put(b"data") == blobs.put(b"data") == digest_of(b"data")
    assert blobs.read(digest_of(b"data")) == b"data"
    assert os.listdir(tmp_path / "tmp") == []


def test_damaged_blob_is_noticed(tmp_path: Path) -> None:
    blobs = BlobStore(str(tmp_path / "image"), str(tmp_path / "tmp"))
    digest = blobs.put(b"data")
    Path(blobs.path(digest)).write_bytes(b"dada")
    with pytest.raises(ContentDamaged):
        blobs.read(digest)
    for bad in ("sha256:../../etc/passwd", "md5:00", "sha256:" + "A" * 64):
        with pytest.raises(BlobNotFound):
            blobs.path(bad)


# load and save


async def test_docker_archive(box: Box) -> None:
    config = config_of([ONE, TWO])
    assert await box.load(docker_archive((["a:1", "b/c:2"], config, [ONE, TWO]))) == [
        "Loaded image: a:1",
        "Loaded image: b/c:2",
    ]
    image = await box.images.resolve("a:1")
    assert image.id == digest_of(config)
    assert image.repo_tags == ["a:1", "b/c:2"]
    assert image.size_bytes == 300_001
    assert (Path(box.layers.path(image.chain_ids[0])) / "one").read_bytes() == b"1" * 300_000
    assert (await box.images.resolve(image.id[7:15])).id == image.id
    assert (await box.images.resolve("docker.io/b/c:2")).id == image.id
    assert box.actions() == ["load"]


async def test_compressed_layers_and_compressed_archive(box: Box) -> None:
    config = config_of([ONE, TWO])
    await box.load(gzip.compress(docker_archive((["a:1"], config, [ONE, TWO]), packed=True)))
    assert (await box.images.resolve("a:1")).id == digest_of(config)


async def test_oci_layout_and_platforms(box: Box) -> None:
    here, other = config_of([ONE]), config_of([TWO], architecture="riscv64")
    name = {"io.containerd.image.name": "docker.io/library/multi:1"}
    data = oci_archive(
        (other, [TWO], name, {"os": "linux", "architecture": "riscv64"}),
        (here, [ONE], name, {"os": "linux", "architecture": "amd64"}),
    )
    assert await box.load(data, "linux/amd64") == ["Loaded image: multi:1"]
    assert (await box.images.resolve("multi:1")).id == digest_of(here)
    assert await box.load(data, "linux/riscv64") == [
        f"The image multi:1 already exists, renaming the old one with ID {digest_of(here)} to empty string",
        "Loaded image: multi:1",
    ]
    assert (await box.images.resolve("multi:1")).id == digest_of(other)
    with pytest.raises(InvalidArgument, match="platform"):
        await box.load(data, "linux/s390x")
    with pytest.raises(NotFound, match="does not match the specified platform"):
        await box.images.resolve("multi:1", "linux/amd64")


async def test_image_without_a_name_is_told_by_its_id(box: Box) -> None:
    config = config_of([ONE])
    assert await box.load(docker_archive((None, config, [ONE]))) == [f"Loaded image ID: {digest_of(config)}"]
    assert await box.load(
        oci_archive((config, [ONE], {"org.opencontainers.image.ref.name": "v1"}, None))
    ) == [f"Loaded image ID: {digest_of(config)}"]


async def test_save_gives_back_the_same_bytes(box: Box, tmp_path: Path) -> None:
    first, second = config_of([ONE, TWO]), config_of([ONE])
    await box.load(docker_archive((["a:1"], first, [ONE, TWO]), (["a:2", "z:1"], second, [ONE])))
    saved = await box.save("a", "z:1")
    files = files_of(saved)
    items = json.loads(files["manifest.json"])
    assert sorted(tag for item in items for tag in item["RepoTags"]) == ["a:1", "a:2", "z:1"]
    for item in items:
        diff_ids = json.loads(files[item["Config"]])["rootfs"]["diff_ids"]
        assert [digest_of(files[path]) for path in item["Layers"]] == diff_ids
    index = json.loads(files["index.json"])
    for entry in index["manifests"]:
        assert digest_of(files["blobs/sha256/" + entry["digest"][7:]]) == entry["digest"]
    assert json.loads(files["repositories"])["a"].keys() == {"1", "2"}
    (tmp_path / "again").mkdir()
    again = Box(tmp_path / "again")
    await again.load(saved)
    assert (await again.images.resolve("a:1")).id == digest_of(first)
    assert await again.save("a", "z:1") == saved
    again.close()


async def test_saved_docker_manifest_is_kept(box: Box) -> None:
    config = config_of([ONE])
    data = oci_archive((config, [ONE], {"io.containerd.image.name": "docker.io/library/o:1"}, None))
    await box.load(data)
    digest = json.loads(files_of(data)["index.json"])["manifests"][0]["digest"]
    assert (await box.images.resolve("o:1")).manifest_digest == digest
    files = files_of(await box.save("o:1"))
    assert json.loads(files["index.json"])["manifests"][0]["digest"] == digest


def hostile() -> dict[str, bytes]:
    config = config_of([ONE])
    name = f"{digest_of(config)[7:]}.json"
    entry = {"Config": name, "RepoTags": ["x:1"], "Layers": ["layer.tar"]}

    def archive(**changes: object) -> bytes:
        files = {name: config, "layer.tar": ONE, "manifest.json": json.dumps([{**entry, **changes}]).encode()}
        return tar_of(files)

    evil = tar_of({"../../evil": b"x"})
    return {
        "empty": tar_of({}),
        "nothing": b"",
        "no manifest": tar_of({"readme": b"hello"}),
        "null manifest": tar_of({"manifest.json": b"null"}),
        "bad json": tar_of({"manifest.json": b"[{"}),
        "missing layer": archive(Layers=["gone.tar"]),
        "too few layers": archive(Layers=[]),
        "missing config": archive(Config="gone.json"),
        "wrong layer": tar_of(
            {name: config, "layer.tar": TWO, "manifest.json": json.dumps([entry]).encode()}
        ),
        "layer is no tar": tar_of(
            {
                "c": config_of([b"nonsense" * 100]),
                "l": b"nonsense" * 100,
                "manifest.json": json.dumps([{"Config": "c", "Layers": ["l"]}]).encode(),
            }
        ),
        "traversal in the layer": docker_archive((["x:1"], config_of([evil]), [evil])),
        "traversal in the archive": tar_of({"../manifest.json": b"[]"}),
        "absolute in the archive": tar_of({"/manifest.json": b"[]"}),
        "bad tag": archive(RepoTags=["UPPER:x"]),
        "tag without tag": archive(RepoTags=["x"]),
        "second tag is bad": archive(RepoTags=["fine:1", "UPPER:x"]),
        "windows": docker_archive((["x:1"], config_of([ONE], os="windows"), [ONE])),
        "truncated": docker_archive((["x:1"], config, [ONE]))[:200_000],
        "bad digest in index": tar_of(
            {"index.json": b'{"manifests":[{"mediaType":"x","digest":"sha256:../../x","size":1}]}'}
        ),
    }


@pytest.mark.parametrize("case", list(hostile()))
async def test_bad_archives_are_refused_and_leave_nothing(box: Box, case: str) -> None:
    with pytest.raises(InvalidArgument):
        await box.load(hostile()[case])
    assert box.nothing_left()
    assert box.store.all() == []
    assert box.actions() == []


async def test_client_that_leaves_leaves_nothing(box: Box) -> None:
    data = docker_archive((["a:1"], config_of([ONE]), [ONE]))

    async def body() -> AsyncIterator[bytes]:
        yield data[:200_000]
        raise ConnectionResetError("gone")

    with pytest.raises(ConnectionResetError):
        async for _ in box.images.load(body()):
            pass
    assert box.nothing_left()


async def test_cancelled_load_leaves_nothing(box: Box) -> None:
    waiting = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield docker_archive((["a:1"], config_of([ONE]), [ONE]))[:200_000]
        waiting.set()
        await asyncio.Event().wait()

    async def load() -> None:
        async for _ in box.images.load(body()):
            pass

    task = asyncio.create_task(load())
    await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert box.nothing_left()


async def test_cancelled_import_leaves_nothing(box: Box) -> None:
    waiting = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield ONE[:600]
        waiting.set()
        await asyncio.Event().wait()

    async def load() -> None:
        async for _ in box.images.import_(body()):
            pass

    task = asyncio.create_task(load())
    await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert box.nothing_left()


async def test_save_stops_when_the_client_leaves(box: Box) -> None:
    big = tar_of({"big": os.urandom(20 << 20)})
    await box.load(docker_archive((["a:1"], config_of([big]), [big])))
    stream = box.images.save(["a:1"])
    assert await anext(stream)
    await stream.aclose()
    assert await asyncio.wait_for(box.workers.run(lambda: 1), 10) == 1


# import


async def test_import(box: Box) -> None:
    root = tar_of({"file": b"content"})
    packed = gzip.compress(root)
    image_id = await box.import_(
        packed,
        repo="me/app",
        tag="v1",
        message="note",
        changes=['CMD ["x"]', "ENV A=b"],
        platform="linux/arm64",
    )
    image = await box.images.resolve("me/app:v1")
    assert image.id == image_id
    assert image.config.rootfs.diff_ids == [digest_of(root)]
    assert (image.config.architecture, image.config.os, image.config.comment) == ("arm64", "linux", "note")
    assert image.config.config is not None
    assert (image.config.config.cmd, image.config.config.env) == (["x"], ["A=b"])
    seen = await box.images.inspect("me/app:v1")
    assert (seen.comment, seen.config["Cmd"]) == ("note", ["x"])
    assert box.actions() == ["import", "tag"]


@pytest.mark.parametrize(
    ("data", "options"),
    [
        (b"no tar at all" * 100, {}),
        (tar_of({"../x": b""}), {}),
        (tar_of({"x": b""}), {"changes": ["RUN x"]}),
        (tar_of({"x": b""}), {"repo": "UPPER"}),
        (tar_of({"x": b""}), {"repo": "x", "tag": "in valid"}),
        (tar_of({"x": b""}), {"platform": "linux/a/b/c"}),
    ],
)
async def test_bad_imports_leave_nothing(box: Box, data: bytes, options: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument):
        await box.import_(data, **options)
    assert box.nothing_left()


async def test_bootstrap_from_a_folder(box: Box, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root/file").write_text("content")
    ids = set()
    for tag in ("own", "own:2"):
        options = BootstrapOptions(directory=str(tmp_path / "root"), tag=tag, command=["cat", "/file"])
        lines = [message async for message in box.images.bootstrap("from-dir", options)]
        assert lines[-1].stream == f"Loaded image: {tag if ':' in tag else tag + ':latest'}\n"
        ids.add((await box.images.resolve(tag)).id)
    assert len(ids) == 1, "the same folder gives the same image"
    for name, bad in (
        ("from-dir", BootstrapOptions(directory="relative", tag="x")),
        ("from-dir", BootstrapOptions(directory=str(tmp_path / "root"))),
        ("plan9", BootstrapOptions()),
    ):
        with pytest.raises(InvalidArgument):
            async for _ in box.images.bootstrap(name, bad):
                pass


# names, lists, removal


async def test_unknown_and_malformed_references(box: Box) -> None:
    for ref, text in (
        ("nope", "No such image: nope:latest"),
        ("nope:1", "No such image: nope:1"),
        ("sha256:" + "0" * 64, "No such image: sha256:" + "0" * 64),
        ("0" * 64, "No such image: sha256:" + "0" * 64),
        ("a@sha256:" + "0" * 64, "No such image: a@sha256:" + "0" * 64),
    ):
        with pytest.raises(NotFound) as raised:
            await box.images.resolve(ref)
        assert raised.value.message == text
    with pytest.raises(InvalidArgument, match="must be lowercase"):
        await box.images.resolve("Nope")


async def test_tag_moves_and_leaves_the_old_one_dangling(box: Box) -> None:
    first = await box.import_(ONE, repo="a")
    second = await box.import_(TWO, repo="b")
    await box.images.tag("b", "a", "latest")
    assert (await box.images.resolve("a")).id == second
    dangling = await box.images.list({"dangling": ["true"]})
    assert [row.id for row in dangling] == [first]
    assert [row.id for row in await box.images.list({"dangling": ["false"]})] == [second]
    with pytest.raises(InvalidArgument, match="digest reference"):
        await box.images.tag("a", "x@sha256:" + "0" * 64)
    with pytest.raises(NotFound):
        await box.images.tag("missing", "x")


async def test_list_filters(box: Box) -> None:
    old = config_of([ONE], created="2020-01-01T00:00:00Z")
    new = config_of([TWO], created="2024-01-01T00:00:00Z", config={"Labels": {"tier": "web"}})
    await box.load(docker_archive((["old:1", "reg.io/x/old:2"], old, [ONE]), (["new:1"], new, [TWO])))

    async def ids(**filters: str) -> list[str]:
        return [row.repo_tags[0] for row in await box.images.list({k: [v] for k, v in filters.items()})]

    assert await ids() == ["new:1", "old:1"]
    assert await ids(reference="old") == ["old:1"]
    assert await ids(reference="old:*") == ["old:1"]
    assert await ids(reference="docker.io/library/new") == ["new:1"]
    assert await ids(reference="reg.io/*/*") == ["reg.io/x/old:2"]
    assert await ids(reference="*") == ["new:1", "old:1"]
    assert await ids(label="tier=web") == ["new:1"]
    assert await ids(label="tier=db") == []
    assert await ids(before="new:1") == ["old:1"]
    assert await ids(since="old:1") == ["new:1"]
    assert await ids(until="2022-01-01") == ["old:1"]
    for bad in ({"colour": ["x"]}, {"dangling": ["maybe"]}):
        with pytest.raises(InvalidArgument, match="invalid filter"):
            await box.images.list(bad)
    with pytest.raises(NotFound):
        await box.images.list({"before": ["missing"]})


async def test_shared_sizes_and_usage(box: Box) -> None:
    await box.load(
        docker_archive((["a:1"], config_of([ONE]), [ONE]), (["b:1"], config_of([ONE, TWO]), [ONE, TWO]))
    )
    rows = {row.repo_tags[0]: row for row in await box.images.list(shared_size=True)}
    assert (rows["a:1"].shared_size, rows["b:1"].shared_size, rows["b:1"].size) == (300_000, 300_000, 300_001)
    usage = await box.images.usage()
    assert (usage.total_count, usage.active_count, usage.layers_size) == (2, 0, 300_001)


async def test_history(box: Box) -> None:
    config = config_of(
        [ONE, TWO],
        history=[
            {"created_by": "base", "created": "2020-01-01T00:00:00Z"},
            {"created_by": "env", "empty_layer": True},
            {"created_by": "top", "comment": "c"},
        ],
    )
    await box.load(docker_archive((["a:1"], config, [ONE, TWO])))
    items = await box.images.history("a:1")
    assert [(item.created_by, item.size) for item in items] == [("top", 1), ("env", 0), ("base", 300_000)]
    assert (items[0].id, items[0].tags, items[1].id) == (digest_of(config), ["a:1"], "<missing>")


async def test_remove_untags_then_deletes(box: Box) -> None:
    await box.load(docker_archive((["a:1", "b:1"], config_of([ONE]), [ONE])))
    image = await box.images.resolve("a:1")
    assert [r.untagged for r in await box.images.remove("a:1")] == ["a:1"]
    with pytest.raises(NotFound):
        await box.images.remove("a:1")
    records = await box.images.remove("b:1")
    assert [(r.untagged, r.deleted) for r in records] == [
        ("b:1", ""),
        ("", image.id),
        ("", image.chain_ids[0]),
    ]
    assert box.nothing_left()
    assert box.actions() == ["load", "untag", "untag", "delete"]


async def test_remove_by_id(box: Box) -> None:
    await box.load(docker_archive((["a:1", "b:1"], config_of([ONE]), [ONE])))
    image = await box.images.resolve("a:1")
    with pytest.raises(Conflict) as raised:
        await box.images.remove(image.id)
    assert raised.value.message == (
        f"conflict: unable to delete {image.id[7:19]} (must be forced) - "
        "image is referenced in multiple repositories"
    )
    assert len(await box.images.remove(image.id[7:20], force=True)) == 4
    assert box.nothing_left()


async def test_images_in_use_stay(box: Box) -> None:
    await box.load(docker_archive((["a:1"], config_of([ONE]), [ONE])))
    image = await box.images.resolve("a:1")
    user = ImageUser(id="c" * 64, image_id=image.id, running=False, layer_ids=image.chain_ids)
    box.users.users = [user]
    with pytest.raises(Conflict) as raised:
        await box.images.remove("a:1")
    assert raised.value.message == (
        'conflict: unable to remove repository reference "a:1" (must force) - container cccccccccccc '
        f"is using its referenced image {image.id[7:19]}"
    )
    with pytest.raises(Conflict, match=r"\(must be forced\) - image is being used by stopped container c"):
        await box.images.remove(image.id)
    box.users.users = [msgspec.structs.replace(user, running=True)]
    with pytest.raises(Conflict, match=r"\(cannot be forced\) - image is being used by running container c"):
        await box.images.remove(image.id, force=True)
    # forced off its name under a stopped container: the layers stay for the container
    box.users.users = [user]
    records = await box.images.remove("a:1", force=True)
    assert [record.deleted for record in records if record.deleted] == [image.id]
    assert box.layers.exists(image.chain_ids[0])
    box.users.users = []
    await box.images.recover()
    assert box.nothing_left()


async def test_shared_layers_stay_for_the_other_image(box: Box) -> None:
    await box.load(
        docker_archive((["a:1"], config_of([ONE]), [ONE]), (["b:1"], config_of([ONE, TWO]), [ONE, TWO]))
    )
    kept = await box.images.resolve("a:1")
    records = await box.images.remove("b:1")
    assert kept.chain_ids[0] not in [record.deleted for record in records]
    assert box.layers.exists(kept.chain_ids[0])
    assert await box.save("a:1")


async def test_children_protect_their_parent(box: Box) -> None:
    parent = await box.import_(ONE, repo="base")
    base = await box.images.resolve("base")
    child = config_of([ONE], comment="child")
    box.blobs.put(child)
    manifest = build_manifest(Descriptor(digest=digest_of(child)), box.store.manifest(base).layers)
    new = NewImage(
        id=digest_of(child),
        config=msgspec.structs.replace(ImageConfig(), comment="child"),
        manifest_digest=box.blobs.put(manifest),
        chain_ids=base.chain_ids,
        layer_sizes=base.layer_sizes,
        parent=parent,
    )
    box.store.register(new, [], ["child:1"], 1)
    with pytest.raises(Conflict, match=r"\(cannot be forced\) - image has dependent child images"):
        await box.images.remove(parent)
    assert [r.untagged for r in await box.images.remove("base")] == ["base:latest"]
    assert {row.id for row in await box.images.list()} == {digest_of(child)}
    assert len(await box.images.list(all=True)) == 2
    deleted = [record.deleted for record in await box.images.remove("child:1") if record.deleted]
    assert {digest_of(child), parent} <= set(deleted)
    assert box.nothing_left()


async def test_prune(box: Box) -> None:
    first = await box.import_(ONE, repo="a")
    await box.import_(TWO, repo="a")
    result = await box.images.prune()
    assert next(r.deleted for r in result.images_deleted or []) == first
    assert result.space_reclaimed == 300_000
    assert (await box.images.prune()).images_deleted is None
    assert (await box.images.prune({"dangling": ["false"]})).space_reclaimed == 1
    assert box.nothing_left()
    with pytest.raises(InvalidArgument, match="invalid filter"):
        await box.images.prune({"reference": ["x"]})


async def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    path = str(tmp_path / "db")
    box = Box(tmp_path, path)
    await box.load(docker_archive((["a:1", "b:2"], config_of([ONE, TWO]), [ONE, TWO])))
    before = box.store.all()
    (tmp_path / "tmp/blob-left").write_bytes(b"x")
    (tmp_path / "tmp/layer-left/diff").mkdir(parents=True)
    stray = box.blobs.put(b"stray")
    box.close()
    box = Box(tmp_path, path)
    await box.images.recover()
    assert box.store.all() == before
    assert os.listdir(tmp_path / "tmp") == []
    assert box.blobs.find(stray) is None
    assert await box.save("a:1")
    # a damaged image does not keep the others from being used
    Path(box.blobs.path(before[0].id)).write_bytes(b"damaged")
    box.close()
    box = Box(tmp_path, path)
    await box.images.recover()
    assert box.store.all() == []
    await box.load(docker_archive((["a:1"], config_of([ONE, TWO]), [ONE, TWO])))
    assert (await box.images.resolve("a:1")).id == before[0].id
    box.close()


def test_import_of_an_id_is_the_digest_of_the_config(tmp_path: Path) -> None:
    assert digest_of(b"x") == "sha256:" + hashlib.sha256(b"x").hexdigest()


async def test_bomb_in_the_outer_archive(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    from sampan.content import archive_load

    monkeypatch.setattr(archive_load, "_MAX_MEMBERS", 3)
    with pytest.raises(HostileArchive):
        await box.load(tar_of({str(number): b"" for number in range(5)}))
    assert box.nothing_left()


async def test_bomb_around_the_archive(tmp_path: Path) -> None:
    box = Box(tmp_path)
    limits = ArchiveLimits(ratio=100, ratio_from_bytes=1 << 20)
    box.images.transfer = ImageTransfer(box.images.catalog, box.workers, limits)
    zeros = gzip.compress(tar_of({"layer.tar": bytes(4 << 20), "manifest.json": b"[]"}))
    with pytest.raises(HostileArchive, match="bomb"):
        await box.load(zeros)
    assert box.nothing_left()
    box.close()


async def test_links_between_members(box: Box) -> None:
    config = config_of([ONE])
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in (("real/layer.tar", ONE), ("config.json", config)):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo("alias/layer.tar")
        link.type, link.linkname = tarfile.SYMTYPE, "../real/layer.tar"
        archive.addfile(link)
        manifest = json.dumps(
            [{"Config": "config.json", "RepoTags": ["l:1"], "Layers": ["alias/layer.tar"]}]
        ).encode()
        member = tarfile.TarInfo("manifest.json")
        member.size = len(manifest)
        archive.addfile(member, io.BytesIO(manifest))
    assert await box.load(buffer.getvalue()) == ["Loaded image: l:1"]


async def test_archive_with_null_fields(box: Box) -> None:
    config = config_of([ONE], created=None, author=None, history=None, config=None)
    await box.load(docker_archive((["n:1"], config, [ONE])))
    image = await box.images.resolve("n:1")
    assert (image.created_ns, image.config.history) == (0, [])


async def test_config_that_is_no_config(box: Box) -> None:
    with pytest.raises(BadArchive, match="invalid image config"):
        await box.load(docker_archive((["n:1"], b'{"rootfs": 5}', [])))


async def test_loads_and_removals_at_the_same_time(box: Box) -> None:
    layers = [tar_of({f"file{number}": bytes([number]) * 20_000}) for number in range(4)]
    archives = [
        docker_archive(
            ([f"i{number}:1"], config_of(layers[: number + 1], comment=str(number)), layers[: number + 1])
        )
        for number in range(4)
    ]

    async def load_and_remove(number: int) -> None:
        for _ in range(5):
            await box.load(archives[number])
            try:
                await box.images.remove(f"i{number}:1")
            except NotFound:
                continue  # another round of the same image was faster

    async def load(number: int) -> None:
        for _ in range(5):
            await box.load(archives[number])

    await asyncio.gather(*(load_and_remove(n) for n in (0, 2, 2)), load(1), load(3))
    for number in (1, 3):
        image = await box.images.resolve(f"i{number}:1")
        assert all(box.layers.exists(chain) for chain in image.chain_ids)
        assert files_of(await box.save(f"i{number}:1"))
    known = {chain for image in box.store.all() for chain in image.chain_ids}
    assert set(box.layers.chains()) == known
    assert os.listdir(box.root / "tmp") == []


@pytest.mark.parametrize("data", [b"[]", b'{"os": "\xff"}', b"[" * 50_000])
def test_damaged_configurations_are_told(data: bytes) -> None:
    with pytest.raises(BadArchive, match="invalid image config"):
        parse_config(data)


# what is packed here


async def test_packing_that_fails_leaves_nothing(box: Box) -> None:
    def pack(write: Callable[[bytes], None]) -> None:
        write(tar_of({"file": b"x" * 100_000}))
        write(bytes(3 << 20))
        raise PermissionError("unreadable")

    with box.store.lease() as lease, pytest.raises(PermissionError, match="unreadable"):
        take_packed(box.store, lease, pack)
    assert box.nothing_left()


async def test_packing_ends_when_nobody_unpacks(box: Box) -> None:
    written = 0

    def pack(write: Callable[[bytes], None]) -> None:
        nonlocal written
        for _ in range(1000):
            write(b"no archive" * 100_000)
            written += 1

    with box.store.lease() as lease, pytest.raises(BadTar):
        take_packed(box.store, lease, pack)
    assert written < 20
    assert box.nothing_left()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pack")]


# before layers were stored once


async def test_layers_that_were_stored_with_their_blobs_keep_them(tmp_path: Path) -> None:
    """As they are in a data root from before, or after the settings were changed."""
    layer = tar_of({"file": b"x" * 300_000})
    box = Box(tmp_path, str(tmp_path / "db"), policy="keep")
    await box.load(docker_archive((["a:1"], config_of([layer]), [layer])))
    saved = await box.save("a:1")
    box.close()
    box = Box(tmp_path, str(tmp_path / "db"))
    await box.images.catalog.collect()
    assert box.blobs.find(digest_of(layer)) is not None
    assert await box.save("a:1") == saved
    # the same layer in another image; it gets a recipe when it comes by plain
    other = config_of([layer], author="b")
    await box.load(docker_archive((["b:1"], other, [layer])))
    assert await box.save("a:1") == saved
    box.close()


async def test_a_layer_of_several_images_and_places_is_kept_for_each(box: Box) -> None:
    """The same diff id thrice: in two stacks, and twice in one of them."""
    layer, base = tar_of({"file": b"x" * 300_000}), tar_of({"base": b"y" * 300_000})
    images = [
        (["a:1"], config_of([layer]), [layer]),
        (["b:1"], config_of([base, layer, layer]), [base, layer, layer]),
    ]
    await box.load(docker_archive(*images))
    assert len(list(box.layers.chains())) == 4
    await box.images.remove("a:1")
    saved = files_of(await box.save("b:1"))
    for one in (base, layer):
        assert saved[f"blobs/sha256/{digest_of(one)[7:]}"] == one
    await box.images.remove("b:1")
    assert box.nothing_left()


def nested_layout(depth: int) -> bytes:
    """A layout whose one name leads through so many indexes to an image."""
    files: dict[str, bytes] = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}

    def put(document: object, kind: str) -> dict[str, object]:
        data = document if isinstance(document, bytes) else json.dumps(document).encode()
        files[f"blobs/sha256/{digest_of(data)[7:]}"] = data
        return {"mediaType": kind, "digest": digest_of(data), "size": len(data)}

    config = put(config_of([]), "application/vnd.oci.image.config.v1+json")
    manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": []}
    entry = put(manifest, OCI_MANIFEST)
    for _ in range(depth):
        entry = put({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}, OCI_INDEX)
    entry["annotations"] = {"io.containerd.image.name": "docker.io/library/deep:1"}
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    return tar_of(files)


@pytest.mark.parametrize("depth", [1, 3])
async def test_an_index_is_kept_with_its_name(box: Box, depth: int) -> None:
    assert await box.load(nested_layout(depth)) == ["Loaded image: deep:1"]
    target = box.store.names.find("deep:1")
    assert target is not None
    assert box.store.documents.describe(target).media_type == OCI_INDEX
    saved = await box.save("deep:1")
    await box.images.remove("deep:1")
    assert box.nothing_left()
    await box.load(saved)
    assert box.store.names.find("deep:1") == target


async def test_an_absurdly_deep_index_is_refused(box: Box) -> None:
    with pytest.raises(InvalidArgument, match="nested more than"):
        await box.load(nested_layout(40))
    assert box.nothing_left()
