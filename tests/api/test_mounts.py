"""Mounts beyond volumes: propagation to and from the host, images, options, trees that hold the engine."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support.docker import Client

BUSYBOX = "busybox:latest"

pytestmark = pytest.mark.own_daemon  # mounts are looked at in the mount namespace of the tests


def mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


def targets() -> set[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return {line.split()[4] for line in lines}


@pytest.fixture
def shared(folder: Path) -> Iterator[Path]:
    """A directory of the host on a shared mount of its own."""
    mount("-t", "tmpfs", "none", str(folder))
    mount("--make-shared", str(folder))
    yield folder
    subprocess.run(["umount", "-R", "-l", str(folder)], check=True)


def test_a_shared_bind_carries_mounts_both_ways(
    docker: Client, shared: Path, started: Callable[..., str]
) -> None:
    (shared / "in").mkdir()
    (shared / "out").mkdir()
    box = started("--privileged", "-v", f"{shared}:/x:rshared")
    docker("exec", box, "mount", "-t", "tmpfs", "none", "/x/out")
    docker("exec", box, "touch", "/x/out/made-inside")
    assert (shared / "out/made-inside").exists()
    mount("-t", "tmpfs", "none", str(shared / "in"))
    (shared / "in/made-outside").touch()
    assert docker.line("exec", box, "ls", "/x/in") == "made-outside"


def test_a_slave_bind_sees_the_hosts_mounts_and_keeps_its_own(
    docker: Client, shared: Path, started: Callable[..., str]
) -> None:
    (shared / "in").mkdir()
    (shared / "out").mkdir()
    box = started("--privileged", "-v", f"{shared}:/x:rslave", "-v", f"{shared}:/y:rshared")
    docker("exec", box, "mount", "-t", "tmpfs", "none", "/x/out")
    assert str(shared / "out") not in targets()
    mount("-t", "tmpfs", "none", str(shared / "in"))
    (shared / "in/made-outside").touch()
    assert docker.line("exec", box, "ls", "/x/in", "/y/in").split() == [
        "/x/in:",
        "made-outside",
        "/y/in:",
        "made-outside",
    ]


def test_a_private_bind_sees_neither(docker: Client, shared: Path, started: Callable[..., str]) -> None:
    (shared / "in").mkdir()
    box = started("-v", f"{shared}:/x")
    mount("-t", "tmpfs", "none", str(shared / "in"))
    (shared / "in/made-outside").touch()
    assert docker.line("exec", box, "ls", "/x/in") == ""


def test_sharing_needs_a_shared_mount(docker: Client, folder: Path) -> None:
    result = docker("run", "--rm", "-v", f"{folder}:/x:rshared", BUSYBOX, "true", code=125)
    assert "but it is not a shared mount" in result.err


def test_the_hosts_root_comes_without_the_containers_own(docker: Client) -> None:
    """The place where a container's root is put together lies below "/" too."""
    seen = docker("run", "--rm", "-v", "/:/host:ro", BUSYBOX, "cat", "/proc/self/mountinfo").out
    overlays = [line for line in seen.splitlines() if " - overlay " in line and "/host" in line.split()[4]]
    assert not [line for line in overlays if "/containers/" in line.split()[4]]


def test_an_image_of_several_layers_as_a_mount(docker: Client, name: str) -> None:
    docker("run", "--name", name, BUSYBOX, "sh", "-c", "echo upper > /etc/added; rm /etc/group")
    docker("commit", name, name)
    docker("rm", name)
    try:
        for image, added in ((name, True), (BUSYBOX, False)):
            words = ("run", "--rm", "--mount", f"type=image,src={image},dst=/i", BUSYBOX)
            listing = docker(*words, "ls", "/i/etc").out.split()
            assert ("added" in listing, "group" in listing, "passwd" in listing) == (added, not added, True)
            assert "Read-only" in docker(*words, "touch", "/i/x", code=1).err
    finally:
        docker("rmi", name)


def test_volume_options_are_mounted_while_in_use(
    docker: Client, name: str, started: Callable[..., str]
) -> None:
    options = ("--opt", "type=tmpfs", "--opt", "device=tmpfs", "--opt", "o=size=1m,uid=7")
    docker("volume", "create", *options, name)
    path = docker.line("volume", "inspect", "--format", "{{.Mountpoint}}", name)
    first, second = started("-v", f"{name}:/v"), started("-v", f"{name}:/v")
    assert path in targets()
    docker("exec", first, "touch", "/v/seen")
    assert docker.line("exec", second, "ls", "/v") == "seen"
    assert docker.line("exec", second, "stat", "-c", "%u", "/v") == "7"
    docker("rm", "-f", first)
    assert path in targets()
    docker("rm", "-f", second)
    assert path not in targets()


def test_a_volume_that_cannot_be_mounted_fails_the_start(docker: Client, name: str) -> None:
    options = ("--opt", "type=none", "--opt", "device=/nowhere", "--opt", "o=bind")
    docker("volume", "create", *options, name)
    # 127 is the client's reading of "no such file or directory", with Docker Engine as well
    result = docker("run", "--rm", "-v", f"{name}:/v", BUSYBOX, "true", code=127)
    assert "failed to mount local volume: mount /nowhere:" in result.err
    assert "no such file or directory" in result.err
    assert docker.line("volume", "ls", "-q", "--filter", "dangling=true", "--filter", f"name={name}") == name
