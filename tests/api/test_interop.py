"""Images go to other programs and come back the same: skopeo and Debian's registry, beside ours.

More programs, by hand: docs/interoperability.md.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support.docker import Client
from tests.support.images import BUSYBOX
from tests.support.peers import DockerRegistry, Skopeo
from tests.support.registry_server import RegistryServer

pytestmark = pytest.mark.peer


@pytest.fixture(scope="module")
def skopeo() -> Skopeo:
    return Skopeo()


@pytest.fixture(scope="module", params=[RegistryServer, DockerRegistry], ids=["ours", "docker-registry"])
def registry(
    _isolated: None, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    with request.param(tmp_path_factory.mktemp("registry")) as serving:
        yield serving.host


@pytest.fixture
def image(docker: Client, name: str) -> Iterator[str]:
    """An image of two layers that nothing else has."""
    docker("run", "--name", name, BUSYBOX, "sh", "-c", f"echo {name} > /tmp/mine; rm /etc/group")
    docker("commit", "-c", "LABEL made=here", name, f"{name}:1")
    docker("rm", name)
    yield f"{name}:1"
    docker("rmi", "-f", f"{name}:1", code=None)


def identity(docker: Client, image: str) -> str:
    return docker.line("inspect", "--format", "{{.Id}}", image)


def shown(docker: Client, image: str) -> list[str]:
    """What a container of the image sees of what distinguishes it."""
    script = "cat /tmp/mine; test -e /etc/group || echo removed"
    return docker("run", "--rm", "--network", "none", image, "sh", "-c", script).out.split()


@pytest.fixture
def forget(docker: Client) -> Iterator[Callable[[str], str]]:
    """Names to remove at the end."""
    names: list[str] = []

    def remember(name: str) -> str:
        names.append(name)
        return name

    yield remember
    for name in names:
        docker("rmi", "-f", name, code=None)


def test_a_pushed_image_comes_back_with_its_digest(
    docker: Client, registry: str, image: str, name: str, forget: Callable[[str], str]
) -> None:
    own = identity(docker, image)
    remote = forget(f"{registry}/{name}:1")
    docker("tag", image, remote)
    pushed = docker("push", remote).out.splitlines()[-1].split()
    assert pushed[:2] == ["1:", "digest:"]
    docker("rmi", image, remote)
    pulled = docker("pull", remote).out
    assert f"Digest: {pushed[2]}" in pulled
    assert identity(docker, remote) == own
    assert shown(docker, remote) == [name, "removed"]


def test_skopeo_copies_a_pushed_image_to_a_layout_and_back(
    docker: Client,
    skopeo: Skopeo,
    registry: str,
    image: str,
    name: str,
    tmp_path: Path,
    forget: Callable[[str], str],
) -> None:
    remote = forget(f"{registry}/{name}:1")
    docker("tag", image, remote)
    docker("push", remote)
    own = identity(docker, image)
    skopeo.copy(f"docker://{remote}", f"oci:{tmp_path}/layout:one")
    again = forget(f"{registry}/{name}:2")
    skopeo.copy(f"oci:{tmp_path}/layout:one", f"docker://{again}")
    docker("rmi", image, remote)
    docker("pull", again)
    assert identity(docker, again) == own
    assert shown(docker, again) == [name, "removed"]


def test_skopeo_reads_from_the_daemon(
    docker: Client, skopeo: Skopeo, registry: str, image: str, name: str, forget: Callable[[str], str]
) -> None:
    own = identity(docker, image)
    remote = forget(f"{registry}/{name}:3")
    skopeo.copy(f"docker-daemon:{image}", f"docker://{remote}", "--src-daemon-host", docker.host)
    docker("rmi", image)
    docker("pull", remote)
    assert identity(docker, remote) == own
    assert shown(docker, remote) == [name, "removed"]


def test_skopeo_writes_to_the_daemon(
    docker: Client, skopeo: Skopeo, registry: str, image: str, name: str, forget: Callable[[str], str]
) -> None:
    own = identity(docker, image)
    remote = forget(f"{registry}/{name}:4")
    docker("tag", image, remote)
    docker("push", remote)
    docker("rmi", image, remote)
    brought = forget(f"{name}-brought:1")
    skopeo.copy(f"docker://{remote}", f"docker-daemon:{brought}", "--dest-daemon-host", docker.host)
    assert identity(docker, brought) == own
    assert shown(docker, brought) == [name, "removed"]


def test_a_saved_archive_is_a_layout_and_an_archive_to_skopeo(
    docker: Client, skopeo: Skopeo, image: str, name: str, tmp_path: Path, forget: Callable[[str], str]
) -> None:
    own = identity(docker, image)
    archive = tmp_path / "saved.tar"
    docker("save", "-o", str(archive), image)
    docker("rmi", image)
    for number, kind in enumerate(("docker-archive", "oci-archive")):
        target = tmp_path / f"{number}.tar"
        skopeo.copy(f"{kind}:{archive}", f"docker-archive:{target}:{name}-from:{number}")
        docker("load", "-i", str(target))
        assert identity(docker, forget(f"{name}-from:{number}")) == own
        docker("rmi", f"{name}-from:{number}")


def test_a_layout_of_skopeos_loads(
    docker: Client, skopeo: Skopeo, image: str, name: str, tmp_path: Path, forget: Callable[[str], str]
) -> None:
    layers = docker.line("inspect", "--format", "{{.RootFS.Layers}}", image)
    layout, archive = tmp_path / "layout", tmp_path / "layout.tar"
    reference = f"docker.io/library/{name}:9"
    skopeo.copy(f"docker-daemon:{image}", f"oci:{layout}:{reference}", "--src-daemon-host", docker.host)
    docker("rmi", image)
    with tarfile.open(archive, "w") as packed:
        packed.add(layout, ".")
    assert "Loaded image" in docker("load", "-i", str(archive)).out
    brought = forget(f"{name}:9")  # of another identity: skopeo rewrites Docker's configuration as OCI's
    assert docker.line("inspect", "--format", "{{.RootFS.Layers}}", brought) == layers
    assert shown(docker, brought) == [name, "removed"]


def test_skopeo_understands_what_the_daemon_pushed(
    docker: Client, skopeo: Skopeo, registry: str, image: str, name: str, forget: Callable[[str], str]
) -> None:
    remote = forget(f"{registry}/{name}:5")
    docker("tag", image, remote)
    docker("push", remote)
    inspected = json.loads(skopeo("inspect", "--tls-verify=false", f"docker://{remote}").out)
    assert inspected["Labels"] == {"made": "here"}
    assert len(inspected["Layers"]) == 2
    [digest] = json.loads(docker.line("inspect", "--format", "{{json .RepoDigests}}", remote))
    assert digest == f"{registry}/{name}@{inspected['Digest']}"


def test_skopeo_copies_between_registries(
    docker: Client,
    skopeo: Skopeo,
    registry: str,
    image: str,
    name: str,
    tmp_path: Path,
    forget: Callable[[str], str],
) -> None:
    remote = forget(f"{registry}/{name}:1")
    docker("tag", image, remote)
    docker("push", remote)
    with DockerRegistry(tmp_path) as other:
        skopeo.copy(f"docker://{remote}", f"docker://{other.host}/there:1", "--all")
        skopeo.copy(f"docker://{other.host}/there:1", f"docker://{registry}/{name}/back:1", "--all")
    assert skopeo.manifest(f"docker://{registry}/{name}/back:1") == skopeo.manifest(f"docker://{remote}")
    tags = json.loads(skopeo("list-tags", "--tls-verify=false", f"docker://{registry}/{name}/back").out)
    assert tags["Tags"] == ["1"]
