"""Images of many platforms: what a name stands for, which image it means, and what of it travels."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from typing import Any

import docker as docker_py
import pytest
from docker import errors as docker_errors
from tests.support.daemon import Daemon
from tests.support.docker import Client
from tests.support.images import BUSYBOX, tar_of
from tests.support.registry import OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, Registry, digest_of

AMD64, ARM64, S390X = "linux/amd64", "linux/arm64", "linux/s390x"


@pytest.fixture(scope="module")
def engine(new_daemon: Callable[..., Daemon]) -> Iterator[Client]:
    """An engine with no image at all."""
    daemon = new_daemon("--bridge", "none")
    yield Client(daemon.host)
    daemon.stop()


@pytest.fixture
def registry(engine: Client) -> Iterator[Registry]:
    with Registry() as made:
        yield made
    ids = engine("images", "-aq", "--no-trunc").out.split()
    if ids:
        engine("rmi", "-f", *dict.fromkeys(ids))
    assert engine("images", "-aq").out == ""


@pytest.fixture
def client(engine: Client) -> Iterator[docker_py.DockerClient]:
    made = docker_py.DockerClient(base_url=engine.host, version="1.51", timeout=60)
    yield made
    made.close()


class Multi:
    """An image in a registry for several platforms."""

    def __init__(self, registry: Registry, name: str = "multi", tag: str = "1") -> None:
        self.registry = registry
        self.digests = {
            platform: registry.add_image(
                name, "", [{"base": b"b"}, {"file": platform.encode()}], architecture=platform.split("/")[1]
            )
            for platform in (AMD64, ARM64)
        }
        self.index = registry.add_index(name, tag, self.digests, annotations={"org.example.kept": "yes"})
        self.name = f"{registry.host}/{name}:{tag}"
        self.repository = f"{registry.host}/{name}"

    @property
    def other(self) -> str:
        """A platform that is not this machine's, of those there are."""
        return ARM64 if own() == AMD64 else AMD64

    def image_id(self, platform: str) -> str:
        manifest = json.loads(self.registry.manifests["multi"][self.digests[platform]][1])
        return str(manifest["config"]["digest"])


def own() -> str:
    import platform

    return {"x86_64": AMD64, "aarch64": ARM64}[platform.machine()]


def inspect(engine: Client, name: str, *options: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(engine.line("image", "inspect", *options, name))[0]
    return found


def test_another_platform_is_added_to_what_is_here(engine: Client, registry: Registry) -> None:
    multi = Multi(registry)
    engine("pull", "-q", "--platform", multi.other, multi.name)
    # the only one that is here is meant
    assert inspect(engine, multi.name)["Id"] == multi.image_id(multi.other)
    engine("pull", "-q", multi.name)
    assert inspect(engine, multi.name)["Id"] == multi.image_id(own())
    found = inspect(engine, multi.name, "--platform", multi.other)
    assert found["Id"] == multi.image_id(multi.other)
    assert found["RepoDigests"] == [f"{multi.repository}@{multi.index}"]
    assert found["RepoTags"] == [multi.name]
    assert found["Descriptor"]["digest"] == multi.digests[multi.other]
    history = engine("history", "--platform", multi.other, "--format", "{{.ID}}", "--no-trunc", multi.name)
    assert history.out.split()[0] == multi.image_id(multi.other)


def test_another_index_replaces_all(engine: Client, registry: Registry) -> None:
    first = Multi(registry)
    for platform in (AMD64, ARM64):
        engine("pull", "-q", "--platform", platform, first.name)
    second = registry.add_image("multi", "", [{"file": b"new"}], architecture=own().split("/")[1])
    index = registry.add_index("multi", "1", {own(): second})
    engine("pull", "-q", first.name)
    assert inspect(engine, first.name)["Descriptor"]["digest"] == index
    refused = engine("image", "inspect", "--platform", first.other, first.name, code=1)
    assert f"does not match the specified platform ({first.other})" in refused.err
    # what was there before is still there under its digest, for all platforms
    old = f"{first.repository}@{first.index}"
    assert inspect(engine, old, "--platform", first.other)["Id"] == first.image_id(first.other)
    assert inspect(engine, old)["RepoTags"] == []


def test_what_is_listed(engine: Client, client: docker_py.DockerClient, registry: Registry) -> None:
    multi = Multi(registry)
    engine("pull", "-q", multi.name)
    [row] = client.api._result(client.api._get(client.api._url("/images/json?manifests=1")), True)
    available = {
        entry["ImageData"]["Platform"]["architecture"]: entry["Available"] for entry in row["Manifests"]
    }
    assert available == {"amd64": own() == AMD64, "arm64": own() == ARM64}
    assert row["Descriptor"]["digest"] == multi.index
    single = row["Size"]
    engine("pull", "-q", "--platform", multi.other, multi.name)
    [row] = client.api._result(client.api._get(client.api._url("/images/json?manifests=1")), True)
    assert all(entry["Available"] and entry["Kind"] == "image" for entry in row["Manifests"])
    assert {entry["ID"] for entry in row["Manifests"]} == set(multi.digests.values())
    assert row["Size"] > single
    for entry in row["Manifests"]:
        size = entry["Size"]
        assert size["Total"] == size["Content"] + entry["ImageData"]["Size"]["Unpacked"]
    plain = client.api.images()
    assert [(one["RepoTags"], one["Id"]) for one in plain] == [([multi.name], multi.image_id(own()))]
    assert "Manifests" not in plain[0]
    tree = engine("images", "--tree").out
    assert AMD64 in tree
    assert ARM64 in tree
    found = client.api._result(
        client.api._get(client.api._url("/images/{0}/json?manifests=1", multi.name)), True
    )
    assert found["Descriptor"]["digest"] == multi.index
    assert len(found["Manifests"]) == 2
    digests = engine("images", "--digests", "--format", "{{.Digest}}").out.split()
    assert digests == [multi.index]


def test_a_container_runs_the_platform_it_was_made_for(engine: Client, registry: Registry) -> None:
    multi = Multi(registry)
    for platform in (AMD64, ARM64):
        engine("pull", "-q", "--platform", platform, multi.name)
    made = engine.line("create", "--platform", multi.other, multi.name, "/file")
    assert engine.line("inspect", "--format", "{{.Image}}", made) == multi.image_id(multi.other)
    # it is listed under the name it was made from
    assert engine.line("ps", "-a", "--format", "{{.Image}}") == multi.name
    assert engine.line("ps", "-aq", "--filter", f"ancestor={multi.name}", "--no-trunc") == made
    refused = engine("rmi", multi.name, code=1)
    assert f"container {made[:12]} is using its referenced image" in refused.err
    refused = engine("create", "--platform", S390X, "--pull", "never", multi.name, code=1)
    assert "does not provide the specified platform (linux/s390x)" in refused.err
    engine("rm", made)


def test_a_whole_index_is_pushed_byte_for_byte(engine: Client, registry: Registry) -> None:
    multi = Multi(registry)
    for platform in (AMD64, ARM64):
        engine("pull", "-q", "--platform", platform, multi.name)
    target = f"{registry.host}/copy:2"
    engine("tag", multi.name, target)
    out = engine("push", target).out
    assert f"2: digest: {multi.index} size: " in out
    assert "Not all multiplatform-content" not in out
    assert registry.manifests["copy"]["2"] == registry.manifests["multi"]["1"]
    for digest in multi.digests.values():
        assert registry.manifests["copy"][digest] == registry.manifests["multi"][digest]
    assert f"{registry.host}/copy@{multi.index}" in inspect(engine, target)["RepoDigests"]


def test_a_part_of_an_index_is_pushed_with_a_note(engine: Client, registry: Registry) -> None:
    multi = Multi(registry)
    engine("pull", "-q", multi.name)
    target = f"{registry.host}/part:1"
    engine("tag", multi.name, target)
    pushed = engine("push", target)
    assert (
        "Not all multiplatform-content is present and only the available single-platform image was pushed"
        in (pushed.out + pushed.err)
    )
    assert registry.manifests["part"]["1"] == registry.manifests["multi"][multi.digests[own()]]
    found = inspect(engine, target)
    assert f"{registry.host}/part@{multi.digests[own()]}" in found["RepoDigests"]
    # the name stands for the index all the same
    assert found["Descriptor"]["digest"] == multi.index


def test_an_index_whose_rest_is_there_is_pushed_whole(engine: Client, registry: Registry) -> None:
    """Another tag in the repository that it was pulled from: what is not here is there already."""
    multi = Multi(registry)
    engine("pull", "-q", multi.name)
    target = f"{multi.repository}:again"
    engine("tag", multi.name, target)
    assert f"again: digest: {multi.index} size: " in engine("push", target).out
    assert registry.manifests["multi"]["again"] == registry.manifests["multi"]["1"]


def test_one_platform_is_pushed_when_it_is_asked_for(engine: Client, registry: Registry) -> None:
    multi = Multi(registry)
    for platform in (AMD64, ARM64):
        engine("pull", "-q", "--platform", platform, multi.name)
    target = f"{registry.host}/one:1"
    engine("tag", multi.name, target)
    engine("push", "--platform", multi.other, target)
    assert registry.manifests["one"]["1"] == registry.manifests["multi"][multi.digests[multi.other]]
    refused = engine("push", "--platform", S390X, target, code=1)
    assert "was found but does not provide the specified platform (linux/s390x)" in refused.err


def archive_of(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {one.name: archive.extractfile(one).read() for one in archive if one.isfile()}  # type: ignore[union-attr]


def test_saving_and_loading_keep_the_index(engine: Client, registry: Registry) -> None:
    multi = Multi(registry)
    for platform in (AMD64, ARM64):
        engine("pull", "-q", "--platform", platform, multi.name)
    data = engine.raw("save", multi.name)
    files = archive_of(data)
    [entry] = json.loads(files["index.json"])["manifests"]
    assert (entry["digest"], entry["mediaType"]) == (multi.index, OCI_INDEX)
    assert files[f"blobs/sha256/{multi.index[7:]}"] == registry.manifests["multi"]["1"][1]
    [item] = json.loads(files["manifest.json"])
    assert item["RepoTags"] == [multi.name]
    assert item["Config"].endswith(multi.image_id(own())[7:])
    engine("rmi", multi.name)
    assert engine("images", "-aq").out == ""
    assert engine("load", stdin=data).out == f"Loaded image: {multi.name}\n"
    assert inspect(engine, multi.name)["Descriptor"]["digest"] == multi.index
    for platform in (AMD64, ARM64):
        found = inspect(engine, multi.name, "--platform", platform)
        assert found["Id"] == multi.image_id(platform)
    # and what was loaded is whole enough to be pushed
    target = f"{registry.host}/loaded:1"
    engine("tag", multi.name, target)
    engine("push", "-q", target)
    assert registry.manifests["loaded"]["1"] == registry.manifests["multi"]["1"]


def test_saving_and_loading_one_platform(engine: Client, registry: Registry) -> None:
    multi = Multi(registry)
    for platform in (AMD64, ARM64):
        engine("pull", "-q", "--platform", platform, multi.name)
    whole = engine.raw("save", multi.name)
    files = archive_of(engine.raw("save", "--platform", multi.other, multi.name))
    [entry] = json.loads(files["index.json"])["manifests"]
    assert entry["digest"] == multi.digests[multi.other]
    assert f"blobs/sha256/{multi.image_id(own())[7:]}" not in files
    engine("rmi", multi.name)
    engine("load", "--platform", multi.other, stdin=whole)
    assert inspect(engine, multi.name)["Id"] == multi.image_id(multi.other)
    assert inspect(engine, multi.name)["Descriptor"]["digest"] == multi.index
    refused = engine("image", "inspect", "--platform", own(), multi.name, code=1)
    assert "does not match the specified platform" in refused.err
    missing = engine("load", "--platform", S390X, stdin=whole, code=1)
    assert "no image of the requested platform" in missing.err


def test_removing_a_platform(engine: Client, registry: Registry) -> None:
    multi = Multi(registry)
    for platform in (AMD64, ARM64):
        engine("pull", "-q", "--platform", platform, multi.name)
    refused = engine("rmi", "--platform", multi.other, multi.name, code=1)
    assert "Content will be removed from all images referencing this variant" in refused.err
    # with --force the client counts what is not there as removed
    missing = engine("rmi", "-f", "--platform", S390X, multi.name)
    assert "does not provide the specified platform (linux/s390x)" in missing.err
    removed = engine("rmi", "-f", "--platform", multi.other, multi.name).out
    assert f"Deleted: {multi.image_id(multi.other)}" in removed
    assert "Untagged" not in removed
    assert inspect(engine, multi.name)["Id"] == multi.image_id(own())
    # the last platform takes the names along
    removed = engine("rmi", "-f", "--platform", own(), multi.name).out
    assert f"Untagged: {multi.name}" in removed
    assert engine("images", "-aq").out == ""


def test_removing_a_name_removes_all_its_platforms(engine: Client, registry: Registry) -> None:
    multi = Multi(registry)
    for platform in (AMD64, ARM64):
        engine("pull", "-q", "--platform", platform, multi.name)
    second = f"{multi.repository}:2"
    engine("tag", multi.name, second)
    assert engine("rmi", multi.name).out == f"Untagged: {multi.name}\n"
    assert inspect(engine, second, "--platform", multi.other)["Id"] == multi.image_id(multi.other)
    removed = engine("rmi", second).out.splitlines()
    assert removed[:2] == [f"Untagged: {second}", f"Untagged: {multi.repository}@{multi.index}"]
    for platform in (AMD64, ARM64):
        assert f"Deleted: {multi.image_id(platform)}" in removed
    assert engine("images", "-aq").out == ""


def test_removing_by_id(engine: Client, registry: Registry) -> None:
    """The id of a row is all that the row shows; a manifest's, as in the tree, is one platform."""
    multi = Multi(registry)
    for platform in (AMD64, ARM64):
        engine("pull", "-q", "--platform", platform, multi.name)
    found = inspect(engine, multi.image_id(own()), "--platform", multi.other)
    assert found["Id"] == multi.image_id(multi.other)
    engine("rmi", multi.digests[own()][7:19])
    assert inspect(engine, multi.name)["Id"] == multi.image_id(multi.other)
    engine("pull", "-q", multi.name)
    made = engine.line("create", "--platform", multi.other, multi.name, "/file")
    refused = engine("rmi", multi.image_id(own())[7:19], code=1)
    assert f"image is being used by stopped container {made[:12]}" in refused.err
    engine("rm", made)
    engine("tag", multi.name, f"{registry.host}/second:1")
    refused = engine("rmi", multi.image_id(own())[7:19], code=1)
    assert "image is referenced in multiple repositories" in refused.err
    engine("rmi", f"{registry.host}/second:1")
    removed = engine("rmi", multi.image_id(own())[7:19]).out.splitlines()
    assert removed[:2] == [f"Untagged: {multi.name}", f"Untagged: {multi.repository}@{multi.index}"]
    assert engine("images", "-aq").out == ""


def test_removing_by_digest(engine: Client, registry: Registry) -> None:
    multi = Multi(registry)
    engine("pull", "-q", multi.name)
    by_digest = f"{multi.repository}@{multi.index}"
    assert engine("rmi", by_digest).out == f"Untagged: {by_digest}\n"
    assert inspect(engine, multi.name)["RepoDigests"] == []
    engine("pull", "-q", f"{multi.repository}:ignored@{multi.index}")
    assert inspect(engine, multi.name)["RepoDigests"] == [by_digest]


def test_what_is_no_image_survives(engine: Client, registry: Registry) -> None:
    """An attestation, and an entry of a kind that nobody here knows: kept by load, save and push."""
    image = registry.add_image("odd", "", [{"file": b"x"}], architecture=own().split("/")[1])
    statement = {"mediaType": "application/vnd.in-toto+json", **registry.add_blob("odd", b'{"statement": 1}')}
    attestation = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, **registry.add_blob("odd", b'{"architecture": "unknown"}')},
        "layers": [statement],
    }
    about = registry.add_manifest("odd", "", json.dumps(attestation).encode())
    notes = {"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": image}
    entry = {
        **registry.describe("odd", about),
        "platform": {"os": "unknown", "architecture": "unknown"},
        "annotations": notes,
    }
    index = registry.add_index("odd", "1", {own(): image}, more=(entry,), subject=None)
    name = f"{registry.host}/odd:1"
    engine("pull", "-q", name)
    assert inspect(engine, name)["Descriptor"]["digest"] == index
    archive = layout_of(registry, "odd", "1", f"{registry.host}/odd:loaded")
    engine("load", stdin=archive)
    target = f"{registry.host}/again:1"
    engine("tag", f"{registry.host}/odd:loaded", target)
    engine("push", "-q", target)
    assert registry.manifests["again"]["1"] == registry.manifests["odd"]["1"]
    assert registry.manifests["again"][about] == registry.manifests["odd"][about]
    saved = archive_of(engine.raw("save", target))
    assert saved[f"blobs/sha256/{str(statement['digest'])[7:]}"] == b'{"statement": 1}'


def layout_of(registry: Registry, name: str, reference: str, ref: str) -> bytes:
    """Everything of a registry as an OCI layout whose index names one document ``ref``."""
    media_type, data = registry.manifests[name][reference]
    entry = {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}
    entry["annotations"] = {"io.containerd.image.name": ref}
    files = {
        "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
        "index.json": json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode(),
    }
    contents = [*registry.blobs.values(), *(one for _, one in registry.manifests[name].values())]
    files |= {f"blobs/sha256/{digest_of(one)[7:]}": one for one in contents}
    return tar_of(files)


def test_hostile_indexes_are_refused(engine: Client, registry: Registry) -> None:
    multi = Multi(registry)
    deep = {**registry.describe("multi", multi.index)}
    for _ in range(8):
        digest = registry.add_index("multi", "deep", {}, more=(deep,))
        deep = registry.describe("multi", digest)
    assert "nested more than" in engine("pull", f"{multi.repository}:deep", code=1).err
    wide = tuple({**deep, "digest": digest_of(str(number).encode())} for number in range(3000))
    registry.add_index("multi", "wide", {}, more=wide)
    assert "has 3000 entries" in engine("pull", f"{multi.repository}:wide", code=1).err
    lying = {**registry.describe("multi", multi.digests[own()]), "size": 1}
    lying["platform"] = {"os": "linux", "architecture": own().split("/")[1]}
    registry.add_index("multi", "lying", {}, more=(lying,))
    assert "its index says 1" in engine("pull", f"{multi.repository}:lying", code=1).err
    registry.add_index("multi", "path", {}, more=({**lying, "digest": "sha256:../../x"},))
    assert "unsupported digest" in engine("pull", f"{multi.repository}:path", code=1).err
    assert engine("images", "-aq").out == ""


def test_nested_indexes_are_followed(engine: Client, registry: Registry) -> None:
    multi = Multi(registry)
    outer = registry.add_index("multi", "outer", {}, more=(registry.describe("multi", multi.index),))
    name = f"{multi.repository}:outer"
    for platform in (AMD64, ARM64):
        engine("pull", "-q", "--platform", platform, name)
    assert inspect(engine, name, "--platform", multi.other)["Id"] == multi.image_id(multi.other)
    target = f"{registry.host}/nested:1"
    engine("tag", name, target)
    engine("push", "-q", target)
    assert digest_of(registry.manifests["nested"]["1"][1]) == outer
    assert registry.manifests["nested"][multi.index] == registry.manifests["multi"]["1"]


def test_artifacts_are_refused_by_name(engine: Client, registry: Registry) -> None:
    chart = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": "application/vnd.example",
        "config": {
            "mediaType": "application/vnd.cncf.helm.config.v1+json",
            **registry.add_blob("chart", b"{}"),
        },
        "layers": [],
    }
    registry.add_manifest("chart", "1", json.dumps(chart).encode())
    refused = engine("run", "--rm", f"{registry.host}/chart:1", code=125).err
    assert 'Encountered remote "application/vnd.cncf.helm.config.v1+json"(unknown) when fetching' in refused
    assert "is an OCI artifact and no image" in refused


def test_all_survives_a_restart(new_daemon: Callable[..., Daemon], registry: Registry) -> None:
    daemon = new_daemon("--bridge", "none")
    engine = Client(daemon.host)
    multi = Multi(registry)
    for platform in (AMD64, ARM64):
        engine("pull", "-q", "--platform", platform, multi.name)
    daemon.stop()
    daemon.start()
    for platform in (AMD64, ARM64):
        assert inspect(engine, multi.name, "--platform", platform)["Id"] == multi.image_id(platform)
    assert inspect(engine, multi.name)["Descriptor"]["digest"] == multi.index
    engine("rmi", multi.name)
    assert list((daemon.data_root / "image" / "blobs" / "sha256").iterdir()) == []
    daemon.stop()


def test_unknown_platforms_are_explained(client: docker_py.DockerClient, registry: Registry) -> None:
    multi = Multi(registry)
    with pytest.raises(docker_errors.APIError, match="invalid platform specifier"):
        client.images.pull(multi.repository, tag="1", platform="linux/amd64/v1/x")
    lines = list(client.api.pull(multi.repository, "1", platform=S390X, stream=True, decode=True))
    assert lines[-1]["error"] == "no matching manifest for linux/s390x in the manifest list entries"


def test_the_busybox_that_all_tests_have_is_one_row(docker: Client) -> None:
    found = inspect(docker, BUSYBOX, "--platform", own())
    assert found["Descriptor"]["mediaType"] == OCI_MANIFEST
