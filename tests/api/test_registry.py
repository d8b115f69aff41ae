"""pull, push, login and the flow between two daemons, through a registry that counts what it serves."""

from __future__ import annotations

import base64
import json
import os
import signal
from collections.abc import Callable, Iterator

import docker as docker_py
import pytest
from docker import errors as docker_errors
from tests.support.daemon import Daemon
from tests.support.docker import Client
from tests.support.eventually import eventually
from tests.support.images import tar_of
from tests.support.registry import OCI_INDEX, Registry

BUSYBOX = "busybox:latest"
LARGE = 24 << 20


@pytest.fixture
def registry(docker: Client) -> Iterator[Registry]:
    with Registry() as made:
        yield made
        forget(docker, made)


def forget(client: Client, registry: Registry) -> None:
    """Remove all names in the registry, and the images that have no others."""
    rows = client("images", "--digests", "--format", "{{.Repository}} {{.Tag}} {{.Digest}}").out.splitlines()
    for row in rows:
        repository, tag, digest = row.split()
        if repository.startswith(registry.host):
            # the last tag takes the digests of its repository along
            client("rmi", f"{repository}:{tag}" if tag != "<none>" else f"{repository}@{digest}", code=None)


@pytest.fixture(scope="module")
def other(new_daemon: Callable[..., Daemon]) -> Iterator[Client]:
    """Another engine, with no image at all."""
    daemon = new_daemon("--bridge", "none")
    yield Client(daemon.host)
    daemon.stop()


def pull(client: Client, name: str, *options: str) -> list[str]:
    return client("pull", *options, name).out.splitlines()


def test_progress_of_a_pull(docker: Client, registry: Registry) -> None:
    digest = registry.add_image("a/b", "1", [{"one": b"1"}, {"two": b"2"}])
    name = f"{registry.host}/a/b:1"
    lines = pull(docker, name)
    assert lines[0] == "1: Pulling from a/b"
    for layer in registry.layers_of("a/b", "1"):
        short = layer[7:19]
        steps = [line.partition(": ")[2] for line in lines if line.startswith(short)]
        assert steps == ["Pulling fs layer", "Verifying Checksum", "Download complete", "Pull complete"]
    assert lines[-3:] == [f"Digest: {digest}", f"Status: Downloaded newer image for {name}", name]
    assert pull(docker, name)[-2] == f"Status: Image is up to date for {name}"
    details = json.loads(docker.line("inspect", name))[0]
    assert details["RepoDigests"] == [f"{registry.host}/a/b@{digest}"]
    assert details["RepoTags"] == [name]


def test_progress_as_json(api: docker_py.DockerClient, docker: Client, registry: Registry) -> None:
    registry.add_image("a/b", "1", [{"large": os.urandom(3 << 20)}])
    messages = list(api.api.pull(f"{registry.host}/a/b", "1", stream=True, decode=True))
    [layer] = registry.layers_of("a/b", "1")
    size = len(registry.blobs[layer])
    for step in ("Downloading", "Extracting"):
        details = [one["progressDetail"] for one in messages if one["status"] == step]
        assert details[-1] == {"current": size, "total": size}, step
        assert [one.get("current", 0) for one in details] == sorted(one.get("current", 0) for one in details)
    assert messages[0] == {"status": "Pulling from a/b", "id": "1"}
    assert {"status": "Pulling fs layer", "progressDetail": {}, "id": layer[7:19]} in messages


def test_layers_that_are_here_are_not_fetched(docker: Client, registry: Registry) -> None:
    base = {"base": b"same"}
    registry.add_image("a", "1", [base])
    registry.add_image("a", "2", [base, {"more": b"x"}])
    pull(docker, f"{registry.host}/a:1")
    [shared, _] = registry.layers_of("a", "2")
    before = registry.count("GET", f"/blobs/{shared}")
    assert f"{shared[7:19]}: Already exists" in pull(docker, f"{registry.host}/a:2")
    assert registry.count("GET", f"/blobs/{shared}") == before


def test_tag_moves_with_the_registry(docker: Client, registry: Registry) -> None:
    name = f"{registry.host}/a:1"
    registry.add_image("a", "1", [{"file": b"old"}])
    pull(docker, name)
    old = docker.line("inspect", "--format", "{{.Id}}", name)
    registry.add_image("a", "1", [{"file": b"new"}])
    assert f"Status: Downloaded newer image for {name}" in pull(docker, name)
    assert docker.line("inspect", "--format", "{{.Id}}", name) != old
    assert docker.line("inspect", "--format", "{{.RepoTags}}", old) == "[]"


def test_by_digest(docker: Client, registry: Registry) -> None:
    digest = registry.add_image("a", "1", [{"file": b"x"}])
    name = f"{registry.host}/a@{digest}"
    assert pull(docker, name)[-2] == f"Status: Downloaded newer image for {name}"
    assert docker.line("inspect", "--format", "{{.RepoTags}}", name) == "[]"


def test_all_tags(docker: Client, registry: Registry) -> None:
    for tag in ("a", "b", "c"):
        registry.add_image("many", tag, [{"file": tag.encode()}])
    lines = pull(docker, f"{registry.host}/many", "--all-tags")
    assert [line for line in lines if "Pulling from" in line] == [f"{t}: Pulling from many" for t in "abc"]
    tags = docker("images", "--format", "{{.Tag}}", f"{registry.host}/many").out.split()
    assert sorted(tags) == ["a", "b", "c"]


def test_platforms(docker: Client, registry: Registry) -> None:
    digests = {
        f"linux/{arch}": registry.add_image("multi", "", [{"file": arch.encode()}], architecture=arch)
        for arch in ("amd64", "arm64")
    }
    index = registry.add_index("multi", "1", digests)
    name = f"{registry.host}/multi:1"
    own = docker.line("info", "--format", "{{.Architecture}}").replace("x86_64", "amd64")
    assert f"Digest: {index}" in pull(docker, name)
    own = own.replace("aarch64", "arm64")
    assert docker.line("inspect", "--format", "{{.Architecture}}", name) == own
    refused = docker("pull", "--platform", "linux/s390x", name, code=1)
    assert "no matching manifest for linux/s390x in the manifest list entries" in refused.err


def test_what_is_not_there(docker: Client, registry: Registry) -> None:
    registry.add_image("a", "1", [])
    missing = docker("pull", f"{registry.host}/a:2", code=1).err
    assert f"manifest for {registry.host}/a:2 not found: manifest unknown" in missing
    registry.faults.failures = [(403, {})]
    denied = docker("pull", f"{registry.host}/a:1", code=1).err
    assert f"pull access denied for {registry.host}/a, repository does not exist" in denied
    assert "may require 'docker login'" in denied
    absent = docker("push", f"{registry.host}/none:1", code=1).err
    assert f"An image does not exist locally with the tag: {registry.host}/none" in absent


def test_wrong_bytes_become_no_image(docker: Client, registry: Registry) -> None:
    registry.add_image("a", "1", [{"file": b"x"}])
    [layer] = registry.layers_of("a", "1")
    registry.blobs[layer] = b"y" * len(registry.blobs[layer])
    refused = docker("pull", f"{registry.host}/a:1", code=1).err
    assert f"filesystem layer verification failed for digest {layer}" in refused
    docker("inspect", f"{registry.host}/a:1", code=1)


def test_pushing_what_was_pulled_keeps_its_digest(docker: Client, registry: Registry) -> None:
    digest = registry.add_image("a", "1", [{"file": b"x"}, {"b": b"y"}], annotations={"org.example": "kept"})
    pull(docker, f"{registry.host}/a:1")
    docker("tag", f"{registry.host}/a:1", f"{registry.host}/b/c:2")
    lines = docker("push", f"{registry.host}/b/c:2").out.splitlines()
    assert lines[0] == f"The push refers to repository [{registry.host}/b/c]"
    assert sum(line.endswith(": Mounted from a") for line in lines) == 2
    size = len(registry.manifests["a"]["1"][1])
    assert lines[-1] == f"2: digest: {digest} size: {size}"
    assert registry.manifests["b/c"]["2"] == registry.manifests["a"]["1"]
    before = registry.count("POST", "/uploads/")
    again = docker("push", f"{registry.host}/b/c:2").out
    assert again.count(": Layer already exists") == 2
    assert registry.count("POST", "/uploads/") == before


def test_pulls_of_one_image_fetch_it_once(docker: Client, registry: Registry) -> None:
    registry.add_image("a", "1", [{"file": os.urandom(1 << 20)}])
    registry.add_image("b", "1", [{"file": b"x"}])
    for layer in registry.layers_of("a", "1"):
        registry.linked.add(("c", layer))
    registry.manifests["c"] = registry.manifests["a"]
    registry.linked |= {("c", digest) for name, digest in registry.linked if name == "a"}
    registry.faults.stall_after_bytes = 64 << 10
    running = [docker.popen("pull", f"{registry.host}/{name}:1") for name in ("a", "c")]
    eventually(lambda: registry.count("GET", "/v2/c/manifests/") == 1, "second pull", 20)
    eventually(registry.stalled.is_set, "first download", 20)
    registry.faults.stall_after_bytes = 0
    registry.released.set()
    for process in running:
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 0, errors
    [layer] = registry.layers_of("a", "1")
    config = json.loads(registry.manifests["a"]["1"][1])["config"]["size"]
    assert registry.blob_bytes <= len(registry.blobs[layer]) + 2 * config


def is_written(daemon: Daemon, size_bytes: int) -> Callable[[], bool]:
    """Whether a download has so many bytes on disk, but for its last batch."""
    folder = daemon.data_root / "downloads"
    return lambda: any(one.stat().st_size > size_bytes - (1 << 20) for one in folder.iterdir())


@pytest.mark.own_daemon
def test_cancelled_pull_is_resumed(docker: Client, daemon: Daemon, registry: Registry) -> None:
    registry.add_image("large", "1", [{"file": os.urandom(LARGE)}])
    name = f"{registry.host}/large:1"
    registry.faults.stall_after_bytes = LARGE * 2 // 3
    process = docker.popen("pull", name)
    eventually(is_written(daemon, LARGE * 2 // 3), "what was sent is written", 20)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=20)
    registry.faults.stall_after_bytes = 0
    assert f"Status: Downloaded newer image for {name}" in pull(docker, name)
    assert registry.blob_bytes <= LARGE * 1.05


@pytest.mark.own_daemon
def test_killed_daemon_resumes(new_daemon: Callable[..., Daemon], registry: Registry) -> None:
    daemon = new_daemon("--bridge", "none")
    client = Client(daemon.host)
    registry.add_image("large", "1", [{"small": b"x"}, {"file": os.urandom(LARGE)}])
    name = f"{registry.host}/large:1"
    registry.faults.stall_after_bytes = LARGE * 2 // 3
    process = client.popen("pull", name)
    eventually(is_written(daemon, LARGE * 2 // 3), "what was sent is written", 20)
    daemon.kill()
    process.communicate(timeout=20)
    registry.faults.stall_after_bytes = 0
    daemon.start()
    assert f"Status: Downloaded newer image for {name}" in pull(client, name)
    assert registry.blob_bytes <= LARGE * 1.1
    assert list((daemon.data_root / "downloads").iterdir()) == []
    daemon.stop()


def test_cut_connections_do_not_fail_a_pull(docker: Client, registry: Registry) -> None:
    registry.add_image("large", "1", [{"file": os.urandom(4 << 20)}])
    registry.faults.cut_after_bytes = 500_000
    pull(docker, f"{registry.host}/large:1")
    assert registry.blob_bytes <= (4 << 20) * 1.05


def test_absent_image_is_pulled_to_run(docker: Client, registry: Registry) -> None:
    name = f"{registry.host}/tools/busybox:1"
    docker("tag", BUSYBOX, name)
    docker("push", name)
    docker("rmi", name)
    done = docker("run", "--rm", "--network", "none", name, "echo", "hello")
    assert done.out == "hello\n"
    assert f"Unable to find image '{name}' locally" in done.err
    never = docker("run", "--rm", "--pull", "never", f"{registry.host}/absent", code=125)
    assert f"No such image: {registry.host}/absent:latest" in never.err


@pytest.mark.own_daemon
def test_committed_here_run_there(docker: Client, other: Client, registry: Registry, name: str) -> None:
    image = f"{registry.host}/team/app:v1"
    docker("run", "--name", name, "--network", "none", BUSYBOX, "sh", "-c", "echo made here > /made")
    docker("commit", "-c", 'CMD ["cat", "/made"]', name, image)
    assert "Pushed" in docker("push", image).out
    pushed = registry.manifests["team/app"]["v1"][1]
    assert other("run", "--rm", "--network", "none", image).out == "made here\n"
    identity = other.line("inspect", "--format", "{{.Id}}", image)
    assert identity == docker.line("inspect", "--format", "{{.Id}}", image)
    other("tag", image, f"{registry.host}/copy:1")
    other("push", f"{registry.host}/copy:1")
    assert registry.manifests["copy"]["1"][1] == pushed
    docker("rm", name)
    forget(other, registry)


@pytest.mark.parametrize("tokens", [False, True], ids=["basic", "tokens"])
def test_credentials(api: docker_py.DockerClient, docker: Client, tokens: bool) -> None:
    with Registry(users={"ada": "secret"}, tokens=tokens) as registry:
        name = f"{registry.host}/private"
        answer = api.login("ada", "secret", registry=registry.host)
        assert answer["Status"] == "Login Succeeded"
        with pytest.raises(docker_errors.APIError, match="401"):
            api.login("ada", "wrong", registry=registry.host, reauth=True)
        auth = {"username": "ada", "password": "secret"}
        docker("tag", BUSYBOX, f"{name}:1")
        assert "errorDetail" not in api.images.push(name, "1", auth_config=auth)
        docker("rmi", f"{name}:1")
        docker("pull", f"{name}:1", code=1)
        assert api.images.pull(name, "1", auth_config=auth).tags
        data = api.images.get_registry_data(f"{name}:1", auth_config=auth)
        assert data.attrs["Descriptor"]["digest"] in registry.manifests["private"]
        forget(docker, registry)
        # those for several registries, when there are none for this one
        several = {"other.lan": {"username": "x"}, f"http://{registry.host}/v2/": auth}
        header = base64.urlsafe_b64encode(json.dumps(several).encode()).decode()
        url = api.api._url("/images/create")
        query = {"fromImage": name, "tag": "1"}
        answered = api.api._post(url, params=query, headers={"X-Registry-Config": header})
        assert "Status: Downloaded newer image" in answered.text
        forget(docker, registry)


def test_looking_into_a_registry(api: docker_py.DockerClient, registry: Registry) -> None:
    digest = registry.add_image("a", "", [{"file": b"x"}], architecture="arm64")
    index = registry.add_index("a", "1", {"linux/arm64/v8": digest})
    found = api.api.inspect_distribution(f"{registry.host}/a:1")
    assert found["Descriptor"] == {
        "mediaType": OCI_INDEX,
        "digest": index,
        "size": len(registry.manifests["a"][index][1]),
    }
    assert found["Platforms"] == [{"architecture": "arm64", "os": "linux", "variant": "v8"}]
    single = api.api.inspect_distribution(f"{registry.host}/a@{digest}")
    assert single["Platforms"] == [{"architecture": "arm64", "os": "linux"}]
    with pytest.raises(docker_errors.NotFound, match="manifest unknown"):
        api.api.inspect_distribution(f"{registry.host}/a:2")


def test_search(api: docker_py.DockerClient, docker: Client, registry: Registry) -> None:
    registry.descriptions = {
        "tools/sed": ("Edits\nstreams", 120),
        "tools/awk": ("Awkward " * 9, 3),
        "x": ("", 0),
    }

    def names(*options: str) -> list[str]:
        return docker("search", "--format", "{{.Name}}", *options, f"{registry.host}/tools").out.splitlines()

    assert names() == ["tools/sed", "tools/awk"]
    assert names("--limit", "1") == ["tools/sed"]
    assert names("--filter", "stars=4") == ["tools/sed"]
    assert names("--filter", "is-official=false") == ["tools/awk"]
    assert names("--filter", "is-automated=true") == []
    found = api.images.search(f"{registry.host}/sed")
    assert found == [
        {
            "name": "tools/sed",
            "description": "Edits\nstreams",
            "star_count": 120,
            "is_official": True,
            "is_automated": False,
        }
    ]
    for options, text in (
        (("--limit", "101", f"{registry.host}/a"), "limit 101 is outside the range of [1, 100]"),
        (("--filter", "size=3", f"{registry.host}/a"), "invalid filter 'size'"),
    ):
        assert text in docker("search", *options, code=1).err
    with pytest.raises(docker_errors.APIError, match=r"400.*should not have a scheme"):
        api.images.search("http://a/b")
    registry.descriptions = {}
    assert "unexpected status code 404" in docker("search", f"{registry.host}/a", code=1).err


@pytest.mark.own_daemon
def test_mirror_that_fails_is_passed_over(new_daemon: Callable[..., Daemon], registry: Registry) -> None:
    with Registry() as mirror:
        daemon = new_daemon("--bridge", "none", "--mirror", f"{registry.host}=http://{mirror.host}")
        client = Client(daemon.host)
        digest = registry.add_image("a", "1", [{"file": b"x"}])
        assert f"Digest: {digest}" in pull(client, f"{registry.host}/a:1")
        assert mirror.count("GET", "/v2/a/manifests/1") == 1
        mirror.add_image("b", "1", [{"file": b"only here"}])
        pull(client, f"{registry.host}/b:1")
        assert registry.count("GET", "/v2/b/") == 0
        daemon.stop()


def test_events(docker: Client, registry: Registry) -> None:
    registry.add_image("a", "1", [{"file": b"x"}])
    name = f"{registry.host}/a:1"
    pull(docker, name)
    docker("push", name)
    until = docker.line("info", "--format", "{{.SystemTime}}")
    shown = docker(
        "events", "--since", "1h", "--until", until, "--format", "{{json .}}", "-f", f"image={name}"
    )
    found = [json.loads(line) for line in shown.out.splitlines()]
    assert [(one["Action"], one["Actor"]["ID"]) for one in found] == [("pull", name), ("push", name)]
    assert found[0]["Actor"]["Attributes"]["name"] == f"{registry.host}/a"


def broken_image(registry: Registry, **changes: object) -> str:
    """The name of an image whose manifest differs from a good one's."""
    registry.add_image("broken", "1", [{"file": b"x"}])
    manifest = json.loads(registry.manifests["broken"]["1"][1]) | changes
    registry.add_manifest("broken", "1", json.dumps(manifest).encode())
    return f"{registry.host}/broken:1"


def test_images_that_contradict_themselves(docker: Client, registry: Registry) -> None:
    """They are refused with a reason, and nothing of them stays."""
    name = broken_image(registry, layers=[])
    assert "layers from manifest don't match image configuration" in docker("pull", name, code=1).err
    digest = str(registry.add_blob("broken", b"\x1f\x8b\x08\x00 this is no gzip")["digest"])
    layer = {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest, "size": 21}
    name = broken_image(registry, layers=[layer | {"size": len(registry.blobs[digest])}])
    assert "gzip" in docker("pull", name, code=1).err
    name = broken_image(registry, layers=[layer | {"size": 5}])
    assert "larger than the 5 bytes promised" in docker("pull", name, code=1).err
    plain = str(registry.add_blob("broken", tar_of({"file": b"other"}))["digest"])
    size = len(registry.blobs[plain])
    name = broken_image(registry, layers=[layer | {"digest": plain, "size": size}])
    assert "wrong diff id calculated on extraction" in docker("pull", name, code=1).err
    hostile = json.loads(registry.manifests["broken"]["1"][1])["config"]
    name = broken_image(registry, config=hostile | {"digest": "sha256:../../../../etc/passwd"})
    assert "unsupported digest" in docker("pull", name, code=1).err
    docker("inspect", name, code=1)


@pytest.mark.own_daemon
def test_pruning_removes_broken_downloads(docker: Client, daemon: Daemon, registry: Registry) -> None:
    registry.add_image("half", "1", [{"file": os.urandom(3 << 20)}])
    registry.faults.stall_after_bytes = 2 << 20
    process = docker.popen("pull", f"{registry.host}/half:1")
    downloads = daemon.data_root / "downloads"
    eventually(lambda: any(one.stat().st_size for one in downloads.iterdir()), "a download", 20)
    docker("image", "prune", "-f")
    assert list(downloads.iterdir()) != []
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=20)

    def pruned() -> bool:
        docker("image", "prune", "-f")
        return list(downloads.iterdir()) == []

    eventually(pruned, "the cancelled pull lets go", 20)


@pytest.mark.own_daemon
def test_failed_pulls_leave_only_downloads(docker: Client, daemon: Daemon, registry: Registry) -> None:
    registry.add_image("half", "1", [{"file": b"good"}, {"file": b"bad"}])
    good, bad = registry.layers_of("half", "1")
    data = registry.blobs.pop(bad)
    temporary = sorted(path.name for path in (daemon.data_root / "tmp").iterdir())
    blobs = sorted(path.name for path in (daemon.data_root / "image/blobs/sha256").iterdir())
    refused = docker("pull", f"{registry.host}/half:1", code=1).err
    assert "blob unknown" in refused
    assert sorted(path.name for path in (daemon.data_root / "tmp").iterdir()) == temporary
    assert sorted(path.name for path in (daemon.data_root / "image/blobs/sha256").iterdir()) == blobs
    registry.blobs[bad] = data
    before = registry.count("GET", f"/blobs/{good}")
    pull(docker, f"{registry.host}/half:1")
    assert before + registry.count("GET", f"/blobs/{good}") <= 2
    assert list((daemon.data_root / "downloads").iterdir()) == []
