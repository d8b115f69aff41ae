"""Volumes, bind mounts, tmpfs and --volumes-from."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support.docker import Client

BUSYBOX = "busybox:latest"


@pytest.fixture
def volume(docker: Client, name: str) -> Iterator[str]:
    docker("volume", "create", name)
    yield name
    used = docker.line("ps", "-aq", "--filter", f"volume={name}").split()
    if used:
        docker("rm", "-f", *used)
    docker("volume", "rm", "-f", name)


def run(docker: Client, *words: str) -> str:
    return docker.line("run", "--rm", *words)


def test_named_volume_outlives_its_containers(docker: Client, volume: str) -> None:
    run(docker, "-v", f"{volume}:/data", BUSYBOX, "sh", "-c", "echo kept > /data/file")
    assert run(docker, "-v", f"{volume}:/other", BUSYBOX, "cat", "/other/file") == "kept"


def test_read_only_volume(docker: Client, volume: str) -> None:
    result = docker("run", "--rm", "-v", f"{volume}:/data:ro", BUSYBOX, "touch", "/data/file", code=1)
    assert "Read-only file system" in result.err


def test_two_containers_see_each_others_writes(
    docker: Client, volume: str, started: Callable[..., str]
) -> None:
    first, second = started("-v", f"{volume}:/a"), started("-v", f"{volume}:/b")
    docker("exec", first, "sh", "-c", "echo one > /a/file")
    assert docker.line("exec", second, "cat", "/b/file") == "one"
    docker("exec", second, "sh", "-c", "echo two > /b/file")
    assert docker.line("exec", first, "cat", "/a/file") == "two"


def test_a_new_volume_gets_what_the_image_has_there(docker: Client, volume: str) -> None:
    assert "passwd" in run(docker, "-v", f"{volume}:/etc", BUSYBOX, "ls", "/etc").split()
    run(docker, "-v", f"{volume}:/etc", BUSYBOX, "rm", "/etc/group")
    assert "group" not in run(docker, "-v", f"{volume}:/etc", BUSYBOX, "ls", "/etc").split()


def test_nocopy_leaves_the_volume_empty(docker: Client, volume: str) -> None:
    assert run(docker, "-v", f"{volume}:/bin2:nocopy", BUSYBOX, "ls", "/bin2") == ""
    mount = f"type=volume,src={volume},dst=/var,volume-nocopy"
    assert run(docker, "--mount", mount, BUSYBOX, "ls", "/var") == ""


def test_anonymous_volume_goes_with_rm(docker: Client, name: str) -> None:
    docker("run", "--name", name, "-v", "/anonymous", BUSYBOX, "true")
    mounts = json.loads(docker.line("inspect", "--format", "{{json .Mounts}}", name))
    assert [mount["Type"] for mount in mounts] == ["volume"]
    volume = mounts[0]["Name"]
    assert docker.line("volume", "inspect", "--format", "{{.Name}}", volume) == volume
    docker("rm", "-v", name)
    docker("volume", "inspect", volume, code=1)


def test_anonymous_volume_stays_without_v(docker: Client, name: str) -> None:
    docker("run", "--name", name, "-v", "/anonymous", BUSYBOX, "true")
    volume = docker.line("inspect", "--format", "{{(index .Mounts 0).Name}}", name)
    docker("rm", name)
    docker("volume", "rm", volume)


def test_volume_in_use_is_not_removed(docker: Client, volume: str, started: Callable[..., str]) -> None:
    started("-v", f"{volume}:/data")
    result = docker("volume", "rm", volume, code=1)
    assert "volume is in use" in result.err


def test_volumes_from(docker: Client, started: Callable[..., str]) -> None:
    first, second = started("-v", "/one"), started("-v", "/two")
    docker("exec", first, "touch", "/one/a")
    docker("exec", second, "touch", "/two/b")
    both = ("--volumes-from", first, "--volumes-from", second)
    assert run(docker, *both, BUSYBOX, "sh", "-c", "ls /one /two; touch /one/c").split() == [
        "/one:",
        "a",
        "/two:",
        "b",
    ]
    assert docker.line("exec", first, "ls", "/one").split() == ["a", "c"]


def test_volumes_from_read_only(docker: Client, started: Callable[..., str]) -> None:
    source = started("-v", "/one")
    docker("run", "--rm", "--volumes-from", f"{source}:ro", BUSYBOX, "touch", "/one/x", code=1)


def test_bind_mount_reads_and_writes_the_host(docker: Client, folder: Path) -> None:
    (folder / "in").write_text("from the host\n")
    seen = run(docker, "-v", f"{folder}:/host", BUSYBOX, "sh", "-c", "cat /host/in; echo back > /host/out")
    assert seen == "from the host"
    assert (folder / "out").read_text() == "back\n"


def test_bind_mount_of_a_file(docker: Client, folder: Path) -> None:
    (folder / "file").write_text("one file\n")
    assert run(docker, "-v", f"{folder}/file:/etc/file:ro", BUSYBOX, "cat", "/etc/file") == "one file"


def test_missing_bind_source_is_made_by_v_and_refused_by_mount(docker: Client, folder: Path) -> None:
    run(docker, "-v", f"{folder}/made:/data", BUSYBOX, "touch", "/data/file")
    assert (folder / "made/file").exists()
    words = ("run", "--rm", "--mount", f"type=bind,src={folder}/missing,dst=/data", BUSYBOX, "true")
    result = docker(*words, code=125)
    assert f"bind source path does not exist: {folder}/missing" in result.err
    assert not (folder / "missing").exists()


def test_bind_propagation_is_kept_private(docker: Client, folder: Path) -> None:
    seen = run(docker, "-v", f"{folder}:/data", BUSYBOX, "grep", " /data ", "/proc/self/mountinfo")
    assert "shared:" not in seen


def test_tmpfs(docker: Client) -> None:
    mount = "type=tmpfs,dst=/scratch,tmpfs-size=1m,tmpfs-mode=700"
    seen = run(docker, "--mount", mount, BUSYBOX, "sh", "-c", "df -k /scratch | tail -1; stat -c %a /scratch")
    lines = seen.splitlines()
    assert lines[0].split()[1] == "1024"
    assert lines[1] == "700"


def test_volume_subpath(docker: Client, volume: str) -> None:
    run(
        docker,
        "-v",
        f"{volume}:/data",
        BUSYBOX,
        "sh",
        "-c",
        "mkdir /data/part; echo inside > /data/part/file",
    )
    mount = f"type=volume,src={volume},dst=/part,volume-subpath=part"
    assert run(docker, "--mount", mount, BUSYBOX, "cat", "/part/file") == "inside"


def test_subpath_does_not_lead_out_of_the_volume(docker: Client, volume: str) -> None:
    run(docker, "-v", f"{volume}:/data", BUSYBOX, "ln", "-s", "/etc", "/data/out")
    mount = f"type=volume,src={volume},dst=/part,volume-subpath=out"
    docker("run", "--rm", "--mount", mount, BUSYBOX, "true", code=125)


def test_inspect_and_labels(docker: Client, name: str) -> None:
    docker("volume", "create", "--label", "a=b", name)
    seen = json.loads(docker.line("volume", "inspect", name))[0]
    assert (seen["Name"], seen["Driver"], seen["Labels"], seen["Scope"]) == (
        name,
        "local",
        {"a": "b"},
        "local",
    )
    assert seen["Mountpoint"].endswith(f"/volumes/{name}/_data")
    assert docker.line("volume", "ls", "-q", "--filter", "label=a=b").split() == [name]


def test_prune_takes_unused_anonymous_ones(docker: Client, volume: str, name: str) -> None:
    docker("run", "--name", f"{name}-c", "-v", "/anonymous", BUSYBOX, "true")
    anonymous = docker.line("inspect", "--format", "{{(index .Mounts 0).Name}}", f"{name}-c")
    docker("rm", f"{name}-c")
    assert anonymous in docker.line("volume", "prune", "-f")
    assert volume in docker.line("volume", "ls", "-q").split()


def test_wrong_volume_name_is_refused(docker: Client) -> None:
    docker("volume", "create", "a/b", code=1)
    docker("run", "--rm", "--mount", "type=volume,src=a/b,dst=/data", BUSYBOX, "true", code=125)


def test_duplicate_mount_point_is_refused(docker: Client, folder: Path) -> None:
    words = ("-v", f"{folder}:/data", "-v", f"{folder.parent}:/data")
    assert "Duplicate mount point: /data" in docker("run", "--rm", *words, BUSYBOX, "true", code=125).err
