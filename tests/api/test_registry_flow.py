"""Images between daemons: through the real registry, and through one that cuts, stalls and counts."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.api.conftest import load_busybox
from tests.api.test_faults import crash_points
from tests.support.daemon import Daemon
from tests.support.docker import Client
from tests.support.eventually import eventually
from tests.support.registry import Registry
from tests.support.registry_server import RegistryServer

pytestmark = pytest.mark.own_daemon
BUSYBOX = "busybox:latest"
LARGE = 20 << 20
TENTH = LARGE // 10
UNWRITTEN = 512 << 10
"""So many bytes at most of a download that stands still are not on disk."""


@pytest.fixture(scope="module", autouse=True)
def nothing_left() -> None:
    """In place of the check at the end of each module: here it is made after each test."""


@pytest.fixture(scope="module")
def daemon(new_daemon: Callable[..., Daemon]) -> Iterator[Daemon]:
    """One of this module's own, to be killed."""
    made = new_daemon("--bridge", "none")
    load_busybox(Client(made.host))
    yield made
    if made.running:
        made.stop()


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Client]:
    """Its client. After the test the daemon runs again, everything is removed, and nothing is left."""
    before = content(daemon)
    client = Client(daemon.host)
    yield client
    if not daemon.running:
        daemon.start()
    containers = client("ps", "-aq").out.split()
    if containers:
        client("rm", "-f", *containers)
    for image in client("images", "-aq").out.split():
        if image != client.line("images", "-q", BUSYBOX):
            client("rmi", "-f", image, code=None)
    client("image", "prune", "-f")
    eventually(lambda: content(daemon) <= before, f"nothing of the images is left: {content(daemon)}", 20)


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry() as made:
        yield made


def content(daemon: Daemon) -> set[str]:
    """Blobs, layers, downloads and what is unfinished."""
    folders = ("image/blobs/sha256", "layers", "downloads", "tmp")
    return {f"{folder}/{name}" for folder in folders for name in os.listdir(daemon.data_root / folder)}


def written(daemon: Daemon) -> int:
    """Bytes of downloads on disk."""
    with os.scandir(daemon.data_root / "downloads") as entries:
        return sum(entry.stat().st_size for entry in entries)


def unfinished(daemon: Daemon) -> list[Path]:
    """Folders in which a layer is being unpacked."""
    return list((daemon.data_root / "tmp").glob("layer-*"))


def test_committed_here_runs_there(
    client: Client, new_daemon: Callable[..., Daemon], tmp_path: Path, name: str
) -> None:
    """The flow of the article: make, commit, push; elsewhere run what is not there yet."""
    other = new_daemon("--bridge", "none")
    there = Client(other.host)
    with RegistryServer(tmp_path) as house:
        image = f"{house.host}/team/app:v1"
        client(
            "run",
            "--network",
            "none",
            "--name",
            name,
            BUSYBOX,
            "sh",
            "-c",
            "echo made here > /made; ln -s made /link",
        )
        client("commit", "-c", 'CMD ["cat", "/link"]', name, image)
        assert "Pushed" in client("push", image).out
        ran = there("run", "--rm", "--network", "none", image)
        assert ran.out == "made here\n"
        assert f"Unable to find image '{image}' locally" in ran.err
        identity = client.line("inspect", "--format", "{{.Id}}", image)
        assert there.line("inspect", "--format", "{{.Id}}", image) == identity
        again = client("push", image).out
        assert again.count(": Layer already exists") == 2
        # what came from there goes back with the same digest, and is not sent to a neighbour
        digest = again.splitlines()[-1].split()[2]
        there("tag", image, f"{house.host}/copy:1")
        copied = there("push", f"{house.host}/copy:1").out
        assert copied.count(": Mounted from team/app") == 2
        assert copied.splitlines()[-1].split()[2] == digest
        there("rmi", image, f"{house.host}/copy:1")
        assert there("run", "--rm", "--network", "none", f"{house.host}/copy@{digest}").out == "made here\n"
    other.stop()


def test_layers_are_unpacked_while_they_come(client: Client, daemon: Daemon, registry: Registry) -> None:
    registry.add_image("large", "1", [{"first": b"x", "file": os.urandom(LARGE)}])
    registry.faults.stall_after_bytes = LARGE // 2
    process = client.popen("pull", f"{registry.host}/large:1")
    try:
        eventually(
            lambda: any((one / "diff/first").exists() for one in unfinished(daemon)), "an unpacked file", 20
        )
        assert written(daemon) < LARGE
        assert client.line("images", "-q", f"{registry.host}/large") == ""
    finally:
        registry.faults.stall_after_bytes = 0
        registry.released.set()
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    assert client.line("images", "-q", f"{registry.host}/large") != ""


def test_images_that_share_a_layer_fetch_and_unpack_it_once(
    client: Client, daemon: Daemon, registry: Registry
) -> None:
    shared = {"shared": os.urandom(3 << 20)}
    for image in ("a", "b", "c"):
        registry.add_image(image, "1", [shared, {image: b"own"}])
    [layer] = {registry.layers_of(image, "1")[0] for image in ("a", "b", "c")}
    registry.faults.stall_after_bytes = 1 << 20
    running = [client.popen("pull", f"{registry.host}/{image}:1") for image in ("a", "b", "c")]
    eventually(registry.stalled.is_set, "the download of what is shared", 20)
    eventually(lambda: all(registry.count("GET", f"/v2/{one}/manifests/") for one in "abc"), "all pulls", 20)
    eventually(lambda: registry.count("GET", "/blobs/") == 7, "configs, own layers and one shared", 20)
    assert len([one for one in unfinished(daemon) if (one / "diff/shared").exists()]) <= 1
    # who began it leaves, the others stay
    running[0].send_signal(signal.SIGKILL)
    running[0].communicate(timeout=20)
    registry.faults.stall_after_bytes = 0
    registry.released.set()
    for process in running[1:]:
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 0, errors
    assert registry.count("GET", f"/blobs/{layer}") <= 2
    assert registry.blob_bytes < 2 * len(registry.blobs[layer])
    for image in ("b", "c"):
        assert client("create", "--name", f"of-{image}", f"{registry.host}/{image}:1").code == 0


def test_a_pull_that_is_broken_off_at_every_tenth(client: Client, daemon: Daemon, registry: Registry) -> None:
    """The command cancelled, the daemon killed, connections cut: hardly a byte comes twice."""
    registry.add_image("large", "1", [{"file": os.urandom(LARGE)}])
    name = f"{registry.host}/large:1"
    registry.faults.stall_after_bytes = TENTH
    for number, interrupt in enumerate((Client.popen, daemon.kill), start=1):
        registry.stalled.clear()
        process = client.popen("pull", name)
        eventually(registry.stalled.is_set, "everything is sent", 20)
        eventually(lambda: written(daemon) > number * TENTH - UNWRITTEN, "what was sent is written", 20)  # noqa: B023
        if interrupt == daemon.kill:
            daemon.kill()
            process.communicate(timeout=20)
            daemon.start()
        else:
            process.send_signal(signal.SIGKILL)
            process.communicate(timeout=20)
    registry.faults.stall_after_bytes = 0
    registry.faults.cut_after_bytes = TENTH
    assert f"Status: Downloaded newer image for {name}" in client("pull", name).out
    assert registry.count("GET", "/blobs/") >= 10
    assert registry.blob_bytes <= LARGE * 1.05


def test_a_push_that_is_broken_off(client: Client, daemon: Daemon, registry: Registry, name: str) -> None:
    """Cut at every tenth, an upload goes on where it was; after the daemon was killed, a push begins anew."""
    image = f"{registry.host}/large:1"
    registry.add_image("large", "0", [{"file": os.urandom(LARGE)}])
    client("pull", f"{registry.host}/large:0")
    [layer] = registry.layers_of("large", "0")
    size = len(registry.blobs.pop(layer))
    client("tag", f"{registry.host}/large:0", image)
    registry.manifests.clear()
    registry.linked.clear()
    registry.faults.cut_uploads_after_bytes = size // 10
    assert "Pushed" in client("push", image).out
    assert size <= registry.upload_bytes <= size * 1.05
    assert registry.count("POST", "/uploads/") == 2


def test_two_pushes_of_one_tag_at_once(client: Client, registry: Registry, name: str) -> None:
    image = f"{registry.host}/app:1"
    client(
        "run",
        "--network",
        "none",
        "--name",
        name,
        BUSYBOX,
        "sh",
        "-c",
        "head -c 2000000 /dev/urandom > /file",
    )
    client("commit", name, image)
    running = [client.popen("push", image) for _ in range(3)]
    for process in running:
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 0, errors
    client("rmi", image)
    client("run", "--rm", "--network", "none", image, "test", "-s", "/file")
    # busybox's layer, the new one, and the config: each was sent by one of them
    assert registry.count("POST", "/uploads/") == 3


@pytest.mark.parametrize(
    "point", [*crash_points("download", "pull"), "layer.publish.synced", "image.register.committed"]
)
def test_crash_in_a_pull(client: Client, daemon: Daemon, registry: Registry, point: str) -> None:
    registry.add_image("app", "1", [{"file": os.urandom(3 << 20)}, {"other": b"x"}])
    image = f"{registry.host}/app:1"
    daemon.stop()
    daemon.start({**os.environ, "SAMPAN_CRASH_AT": point})
    client("pull", image, code=None)
    assert daemon.wait_dead(20) == -signal.SIGKILL, f"{point} was never reached"
    daemon.start()
    assert unfinished(daemon) == []
    client("pull", image)
    client("create", "--name", "crashed", image)
    assert (daemon.data_root / "downloads").exists()
    assert written(daemon) == 0


@pytest.mark.parametrize("point", crash_points("push"))
def test_crash_in_a_push(client: Client, daemon: Daemon, registry: Registry, name: str, point: str) -> None:
    image = f"{registry.host}/app:1"
    client("run", "--network", "none", "--name", name, BUSYBOX, "sh", "-c", "echo changed > /file")
    client("commit", name, image)
    daemon.stop()
    daemon.start({**os.environ, "SAMPAN_CRASH_AT": point})
    client("push", image, code=None)
    assert daemon.wait_dead(20) == -signal.SIGKILL, f"{point} was never reached"
    daemon.start()
    client("push", image)
    client("rmi", image)
    assert client.line("run", "--rm", "--network", "none", image, "cat", "/file") == "changed"


@pytest.mark.parametrize("left", ["other bytes", "another layer"])
def test_download_that_was_damaged_on_disk(
    client: Client, daemon: Daemon, registry: Registry, left: str
) -> None:
    """What the unpacker has read of it by the time the digest tells is dropped as well."""
    registry.add_image("app", "1", [{"file": os.urandom(1 << 20)}])
    registry.add_image("app", "2", [{"other": b"x" * (1 << 20)}])
    [layer], [other] = registry.layers_of("app", "1"), registry.layers_of("app", "2")
    data = b"damaged" if left == "other bytes" else registry.blobs[other]
    (daemon.data_root / "downloads" / layer[7:]).write_bytes(data)
    client("pull", f"{registry.host}/app:1")
    assert unfinished(daemon) == []
    [chain] = [one for one in (daemon.data_root / "layers").iterdir() if (one / "diff/file").exists()]
    assert not (chain / "diff/other").exists()


def test_bounds_change_while_the_daemon_runs(
    new_daemon: Callable[..., Daemon], registry: Registry, tmp_path: Path
) -> None:
    file = tmp_path / "daemon.json"
    file.write_text('{"max-concurrent-downloads": 1}')
    daemon = new_daemon("--bridge", "none", "--config-file", str(file), "--layer-blobs", "drop")
    client = Client(daemon.host)
    registry.add_image("app", "1", [{f"file{number}": os.urandom(200_000)} for number in range(4)])
    registry.faults.stall_after_bytes = 100_000
    process = client.popen("pull", f"{registry.host}/app:1")
    eventually(registry.stalled.is_set, "the first download", 20)
    eventually(lambda: registry.count("GET", "/blobs/") == 2, "the config and one layer", 20)
    file.write_text('{"max-concurrent-downloads": 3}')
    os.kill(daemon.pid, signal.SIGHUP)
    eventually(lambda: registry.count("GET", "/blobs/") == 4, "two more", 20)
    eventually(lambda: registry.most_at_once == 3, "three at once", 20)
    registry.faults.stall_after_bytes = 0
    registry.released.set()
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    assert registry.most_at_once == 3
    layer_that_is_not_kept_is_pushed(client, registry)
    daemon.stop()


def layer_that_is_not_kept_is_pushed(client: Client, registry: Registry) -> None:
    """From where it came; when it is not there any more, newly packed."""
    name = f"{registry.host}/app:1"
    [digest] = [
        line.split()[1] for line in client("pull", name).out.splitlines() if line.startswith("Digest")
    ]
    with Registry() as second, Registry() as third:
        client("tag", name, f"{second.host}/app:1")
        assert client("push", f"{second.host}/app:1").out.splitlines()[-1].split()[2] == digest
        assert second.manifests["app"]["1"] == registry.manifests["app"]["1"]
        for one in (registry, second):
            one.linked.clear()
        client("tag", name, f"{third.host}/app:1")
        lines = client("push", f"{third.host}/app:1").out.splitlines()
        assert sum("packed anew" in line for line in lines) == 4
        assert lines[-1].split()[2] != digest
        client("rmi", name, f"{second.host}/app:1", f"{third.host}/app:1")
        assert "Pull complete" in client("pull", f"{third.host}/app:1").out


def test_pull_that_does_not_fit(new_daemon: Callable[..., Daemon], registry: Registry) -> None:
    daemon = new_daemon("--bridge", "none", "--min-free-space", "1000t")
    registry.add_image("app", "1", [{"file": os.urandom(100_000)}])
    refused = Client(daemon.host)("pull", f"{registry.host}/app:1", code=1)
    assert "no space left on device" in refused.err
    assert registry.count("GET", "/blobs/") == 1
    daemon.stop()
