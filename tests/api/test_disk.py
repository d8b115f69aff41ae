"""Disk truth: each byte below the data root belongs to something, layers are stored once, and collection."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bench.http import Connection
from tests.api.conftest import load_busybox
from tests.support.daemon import Daemon
from tests.support.docker import Client
from tests.support.eventually import eventually
from tests.support.images import BUSYBOX, tar_of
from tests.support.registry import Registry

pytestmark = pytest.mark.own_daemon


class Box:
    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.docker = Client(daemon.host)
        load_busybox(self.docker)

    def usage(self) -> dict[str, Any]:
        return self._call("GET", "/sampan/system/df")

    def collect(self, query: str = "") -> dict[str, Any]:
        return self._call("POST", f"/sampan/images/gc{query}")

    def _call(self, method: str, path: str) -> dict[str, Any]:
        with Connection(self.daemon.socket) as connection:
            answer: dict[str, Any] = connection.call(method, path)
        return answer

    def du(self) -> int:
        """In bytes, one file system, each inode once."""
        done = subprocess.run(
            ["du", "-sx", "--block-size=1", str(self.daemon.data_root)],
            capture_output=True,
            text=True,
            check=True,
        )
        return int(done.stdout.split()[0])

    def blobs(self) -> set[str]:
        return {path.name for path in (self.daemon.data_root / "image/blobs/sha256").iterdir()}


@pytest.fixture(scope="module")
def box(new_daemon: Callable[..., Daemon]) -> Iterator[Box]:
    made = Box(new_daemon())
    yield made
    made.docker("rm", "-f", "-v", *made.docker("ps", "-aq").out.split(), code=None)
    made.daemon.stop()


def sizes(usage: dict[str, Any]) -> dict[str, int]:
    return {kind["Kind"]: kind["Size"] for kind in usage["Kinds"]}


def test_every_byte_belongs_to_something(box: Box, name: str) -> None:
    docker = box.docker
    docker("volume", "create", f"{name}-vol")
    docker(
        "run",
        "--name",
        name,
        "-v",
        f"{name}-vol:/data",
        BUSYBOX,
        "sh",
        "-c",
        "head -c 300000 /dev/zero >/data/x",
    )
    docker(
        "run", "-d", "--name", f"{name}-2", BUSYBOX, "sh", "-c", "head -c 70000 /dev/zero >/own; sleep 100000"
    )
    docker("exec", f"{name}-2", "sh", "-c", "until [ -s /own ]; do sleep 0.1; done; ln /own /linked")
    docker("commit", name, f"{name}:committed")
    docker("import", "-", f"{name}:gone", stdin=tar_of({"file": b"x" * 50_000}))
    docker("rmi", f"{name}:gone")
    (box.daemon.data_root / "downloads" / ("0" * 64)).write_bytes(bytes(40_000))
    (box.daemon.data_root / "left-by-somebody").write_bytes(bytes(10_000))

    def agree() -> bool:
        usage = box.usage()
        assert usage["Total"] == sum(one["Size"] for one in usage["Objects"])
        assert usage["Total"] == sum(sizes(usage).values())
        return bool(usage["Total"] == box.du())

    # the log of the database may grow between the two
    eventually(agree, "the sum of all objects is what du says")
    usage = box.usage()
    kinds = sizes(usage)
    assert kinds["volume"] >= 300_000
    assert kinds["container"] >= 70_000
    assert kinds["download"] >= 40_000
    assert kinds["database"] > 0
    assert {one["Kind"] for one in usage["Objects"] if one["Id"] == "left-by-somebody"} == {"other"}
    nobodys = [
        one for one in usage["Objects"] if one["Kind"] in ("image", "layer", "recipe") and not one["Owners"]
    ]
    assert nobodys == []
    (box.daemon.data_root / "left-by-somebody").unlink()


def test_what_is_reclaimable_is_what_nothing_needs(box: Box, name: str) -> None:
    docker = box.docker
    docker("import", "-", f"{name}:idle", stdin=tar_of({"file": name.encode() * 5000}))
    idle = docker.line("inspect", "--format", "{{.Id}}", f"{name}:idle")
    docker("create", "--name", name, BUSYBOX, "true")
    busy = docker.line("inspect", "--format", "{{.Image}}", name)
    states: dict[str, set[bool]] = {idle: set(), busy: set()}
    for one in box.usage()["Objects"]:
        for owner in one["Owners"]:
            if owner in states and one["Kind"] in ("image", "layer", "recipe"):
                states[owner].add(one["Reclaimable"])
    assert states == {idle: {True}, busy: {False}}
    docker("rm", name)
    docker("rmi", f"{name}:idle")


def test_a_plain_layer_is_stored_once_and_saved_as_it_came(box: Box, name: str, folder: Path) -> None:
    layer = tar_of({"usr/data": name.encode() * 20_000, "usr/more": b"y" * 1000})
    box.docker("import", "-", f"{name}:one", stdin=layer)
    diff_id = box.docker.line("inspect", "--format", "{{index .RootFS.Layers 0}}", f"{name}:one")
    assert diff_id == f"sha256:{hashlib.sha256(layer).hexdigest()}"
    assert diff_id.removeprefix("sha256:") not in box.blobs()
    archive = folder / "saved.tar"
    box.docker("save", "-o", str(archive), f"{name}:one")
    box.docker("rmi", f"{name}:one")
    assert "Loaded image" in box.docker.line("load", "-i", str(archive))
    assert box.docker.line("inspect", "--format", "{{index .RootFS.Layers 0}}", f"{name}:one") == diff_id
    box.docker("rmi", f"{name}:one")


def test_a_damaged_layer_is_not_saved(box: Box, name: str, folder: Path) -> None:
    layer = tar_of({"file": name.encode() * 2_000})
    box.docker("import", "-", f"{name}:one", stdin=layer)
    upper = box.docker.line("inspect", "--format", "{{.GraphDriver.Data.UpperDir}}", f"{name}:one")
    with Path(upper, "file").open("r+b") as file:
        file.write(b"damage")
    failed = box.docker("save", "-o", str(folder / "saved.tar"), f"{name}:one", code=1)
    assert "is damaged on disk, its files are not those it was unpacked to" in failed.err
    assert "remove its image, then load or pull it again" in failed.err
    box.docker("rmi", f"{name}:one")
    box.docker("import", "-", f"{name}:one", stdin=layer)
    box.docker("save", "-o", str(folder / "saved.tar"), f"{name}:one")
    box.docker("rmi", f"{name}:one")


def test_collection_spares_what_is_used_and_tells_why(box: Box, name: str) -> None:
    docker = box.docker
    docker("import", "-", f"{name}:idle", stdin=tar_of({"file": b"x" * 10_000}))
    idle = docker.line("inspect", "--format", "{{.Id}}", f"{name}:idle")
    docker("create", "--name", name, BUSYBOX, "true")
    assert box.collect()["Images"] == []

    def planned() -> set[str]:
        return {one["Id"] for one in box.collect("?unused-for=1&dry-run=1")["Images"]}

    eventually(lambda: idle in planned(), "the image is a second old")
    docker("inspect", f"{name}:idle")
    done = box.collect("?unused-for=1")
    assert idle in {one["Id"] for one in done["Images"]}
    assert done["SpaceReclaimed"] >= 10_000
    docker("inspect", f"{name}:idle", code=1)
    docker("start", "-a", name)
    until = docker.line("info", "--format", "{{.SystemTime}}")
    events = docker(
        "events", "--since", "10m", "--until", until, "--filter", f"image={idle}", "--format", "json"
    )
    deleted = [json.loads(line) for line in events.out.splitlines() if '"delete"' in line]
    assert [one["Actor"]["Attributes"]["reason"] for one in deleted] == ["age"]
    docker("rm", name)


def test_starts_make_an_image_young(box: Box, name: str) -> None:
    """Of two images the one that was loaded first is used last, so the other goes first."""
    docker = box.docker
    for tag in ("first", "second"):
        docker("import", "-", f"{name}:{tag}", stdin=tar_of({tag: tag.encode()}))
    docker("create", "--name", name, f"{name}:first", "true")
    docker("rm", name)

    def order() -> list[str]:
        names = [one["Names"] for one in box.collect("?unused-for=1&dry-run=1")["Images"]]
        return [one[0] for one in names if one and one[0].startswith(name)]

    expected = [f"{name}:second", f"{name}:first"]
    eventually(lambda: order() == expected, "the second one goes first")
    box.daemon.stop()
    box.daemon.start()
    assert order() == expected
    docker("rmi", f"{name}:first", f"{name}:second")


def test_the_daemon_collects_by_itself(new_daemon: Callable[..., Daemon], name: str) -> None:
    arguments = ("--image-gc-age", "1s", "--image-gc-interval", "1s", "--image-gc-keep", "*busybox*")
    box = Box(new_daemon(*arguments))
    box.docker("import", "-", f"{name}:old", stdin=tar_of({"file": b"x"}))
    eventually(lambda: not box.docker("images", "-q", f"{name}:old").out, "the image is collected")
    assert box.docker("images", "-q", BUSYBOX).out
    box.daemon.stop()


def test_blobs_are_kept_where_the_settings_say_so(new_daemon: Callable[..., Daemon], name: str) -> None:
    box = Box(new_daemon("--layer-blobs", "keep"))
    layer = tar_of({"file": name.encode()})
    box.docker("import", "-", f"{name}:one", stdin=layer)
    assert hashlib.sha256(layer).hexdigest() in box.blobs()
    box.daemon.stop()


def test_an_archive_that_leaves_too_little_free_is_refused(
    new_daemon: Callable[..., Daemon], name: str
) -> None:
    daemon = new_daemon("--min-free-space", "1000000g")
    failed = Client(daemon.host)("import", "-", f"{name}:one", stdin=tar_of({"file": b"x"}), code=1)
    assert "no space left on device" in failed.err
    assert list((daemon.data_root / "tmp").iterdir()) == []
    daemon.stop()


def test_archives_are_bounded_as_the_settings_say(new_daemon: Callable[..., Daemon], name: str) -> None:
    daemon = new_daemon("--max-layer-size", "10k", "--max-layer-entries", "3")
    docker = Client(daemon.host)
    failed = docker("import", "-", f"{name}:one", stdin=tar_of({"file": bytes(20_000)}), code=1)
    assert "refused as a bomb" in failed.err
    failed = docker("import", "-", f"{name}:two", stdin=tar_of({str(n): b"" for n in range(5)}), code=1)
    assert "more than 3 entries" in failed.err
    daemon.stop()


def test_dropped_blobs_of_a_pull_are_not_missed(
    new_daemon: Callable[..., Daemon], box: Box, name: str, folder: Path
) -> None:
    """Nothing is stored but the unpacked layers; the image is saved, and pushed to where it came from and
    elsewhere."""
    dropping = Box(new_daemon("--layer-blobs", "drop"))
    docker = dropping.docker
    with Registry() as registry, Registry() as elsewhere:
        digest = registry.add_image("a", "1", [{"one": name.encode()}, {"two": b"y" * 5000}])
        ref = f"{registry.host}/a:1"
        docker("pull", ref)
        layers = {layer.removeprefix("sha256:") for layer in registry.layers_of("a", "1")}
        assert not layers & dropping.blobs()
        sent = registry.upload_bytes
        assert docker("push", ref).out.splitlines()[-1].startswith(f"1: digest: {digest} ")
        assert registry.upload_bytes == sent
        docker("tag", ref, f"{elsewhere.host}/b:1")
        docker("push", f"{elsewhere.host}/b:1")
        box.docker("pull", f"{elsewhere.host}/b:1")
        identity = docker.line("inspect", "--format", "{{.Id}}", ref)
        assert box.docker.line("inspect", "--format", "{{.Id}}", f"{elsewhere.host}/b:1") == identity
        box.docker("rmi", f"{elsewhere.host}/b:1")
        docker("save", "-o", str(folder / "saved.tar"), ref)
        assert "Loaded image" in box.docker.line("load", "-i", str(folder / "saved.tar"))
        assert box.docker.line("inspect", "--format", "{{.Id}}", ref) == identity
        box.docker("rmi", ref)
    dropping.daemon.stop()


def test_what_another_engine_packed_is_stored_once_too(
    new_daemon: Callable[..., Daemon], box: Box, name: str
) -> None:
    """The blob is dropped once all its bytes have come out of the layer; a push has the same digests."""
    other = Box(new_daemon("--bridge", "none"))
    with Registry() as registry, Registry() as elsewhere:
        ref = f"{registry.host}/a:1"
        box.docker("import", "-", ref, stdin=tar_of({"file": name.encode() * 20_000}))
        pushed = box.docker("push", ref).out.splitlines()[-1]
        other.docker("pull", ref)
        [layer] = registry.layers_of("a", "1")
        assert layer.removeprefix("sha256:") in other.blobs()
        other.collect()
        assert layer.removeprefix("sha256:") not in other.blobs()
        other.docker("tag", ref, f"{elsewhere.host}/a:1")
        assert other.docker("push", f"{elsewhere.host}/a:1").out.splitlines()[-1] == pushed
        assert elsewhere.manifests["a"]["1"] == registry.manifests["a"]["1"]
        assert elsewhere.blobs[layer] == registry.blobs[layer]
        box.docker("rmi", ref)
    other.daemon.stop()


def test_commands_show_usage_and_collection(docker: Client, sampan: Client) -> None:
    """On the shared daemon, whose settings let nothing go."""
    lines = sampan("system", "df", "--data-root").out.splitlines()
    assert lines[0].split() == ["KIND", "COUNT", "SIZE", "RECLAIMABLE"]
    assert {"database", "image", "layer", "other", "recipe"} <= {
        line.split()[0] for line in lines[1:] if line
    }
    assert lines[-1].startswith("In all: ")
    objects = [json.loads(line) for line in sampan("system", "df", "--data-root", "--json").out.splitlines()]
    assert {"sampan.db"} <= {one["ID"] for one in objects}
    assert sampan("image", "gc", "--dry-run").out.splitlines()[0].split()[:2] == ["IMAGE", "ID"]
    assert "Would free: 0B" in sampan("image", "gc", "--dry-run").out
    assert docker("images", "-q", BUSYBOX).out
    assert "invalid time span" in sampan("image", "gc", "--unused-for", "soon", code=None).err
