"""docker cp, diff, export and commit where volumes, links, users and read-only roots are involved."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import docker as docker_py
import pytest
from tests.support.docker import Client
from tests.support.images import tar_of

BUSYBOX = "busybox:latest"


def test_volumes_of_a_stopped_container(docker: Client, name: str, folder: Path) -> None:
    bound = folder / "bound"
    bound.mkdir()
    (bound / "there").write_text("from the host")
    docker("create", "--name", name, "-v", f"{name}:/data", "-v", f"{bound}:/bound:ro", BUSYBOX, "true")
    (folder / "in").write_text("in")
    docker("cp", str(folder / "in"), f"{name}:/data/in")
    docker("cp", f"{name}:/bound/there", str(folder / "there"))
    assert (folder / "there").read_text() == "from the host"
    assert docker.line("run", "--rm", "-v", f"{name}:/d", BUSYBOX, "cat", "/d/in") == "in"
    refused = docker("cp", str(folder / "in"), f"{name}:/bound/in", code=1)
    assert "mounted volume is marked read-only" in refused.err
    assert not (bound / "in").exists()


def test_volumes_of_a_running_container(docker: Client, name: str, folder: Path) -> None:
    docker(
        *("run", "-d", "--name", name, "-v", f"{name}:/data", "--tmpfs", "/scratch", BUSYBOX, "sleep", "1000")
    )
    (folder / "in").write_text("in")
    for target in ("/data", "/scratch", "/tmp"):
        docker("cp", str(folder / "in"), f"{name}:{target}/in")
        assert docker.line("exec", name, "cat", f"{target}/in") == "in"


def test_read_only_root(docker: Client, name: str, folder: Path) -> None:
    docker("create", "--name", name, "--read-only", "-v", f"{name}:/data", BUSYBOX, "true")
    (folder / "in").write_text("in")
    assert (
        "container rootfs is marked read-only" in docker("cp", str(folder / "in"), f"{name}:/in", code=1).err
    )
    docker("cp", str(folder / "in"), f"{name}:/data/in")


def test_links(docker: Client, name: str, folder: Path) -> None:
    docker(
        "run",
        "--name",
        name,
        BUSYBOX,
        "sh",
        "-c",
        "mkdir /real; echo x > /real/f; ln -s /real /l; ln -s f /real/g",
    )
    docker("cp", f"{name}:/l", str(folder / "l"))
    assert (folder / "l").is_symlink()
    docker("cp", "-L", f"{name}:/l", str(folder / "followed"))
    assert (folder / "followed/f").read_text() == "x\n"
    docker("cp", f"{name}:/l/.", str(folder / "inner"))
    assert (folder / "inner/f").read_text() == "x\n"
    (folder / "new").write_text("n")
    docker("cp", str(folder / "new"), f"{name}:/l/new")
    docker("cp", f"{name}:/real/new", str(folder / "back"))
    assert (folder / "back").read_text() == "n"


def test_owner_of_the_copy(docker: Client, name: str, folder: Path) -> None:
    docker("run", "-d", "--name", name, "-u", "33:44", BUSYBOX, "sleep", "1000")
    (folder / "in").write_text("in")
    docker("cp", "-a", str(folder / "in"), f"{name}:/tmp/archived")
    docker("cp", str(folder / "in"), f"{name}:/tmp/plain")
    assert docker.line("exec", name, "stat", "-c", "%u:%g", "/tmp/archived", "/tmp/plain").split() == [
        "33:44",
        "0:0",
    ]


def test_kinds_are_not_exchanged(api: docker_py.DockerClient, started: Callable[..., str]) -> None:
    name = started()
    container = api.containers.get(name)
    container.exec_run(["mkdir", "-p", "/tmp/d/inside"])
    data = tar_of({"d": b"a file now"})
    path = f"/containers/{name}/archive?path=/tmp&noOverwriteDirNonDir=1"
    answer = api.api.put(api.api._url(path), data=data)
    assert answer.status_code == 400
    assert "cannot overwrite directory" in answer.json()["message"]
    assert container.exec_run(["ls", "/tmp/d"]).output == b"inside\n"
    assert (
        api.api.put(api.api._url(f"/containers/{name}/archive?path=/etc/passwd"), data=data).status_code
        == 400
    )
    assert (
        api.api.put(api.api._url(f"/containers/{name}/archive?path=/missing"), data=data).status_code == 404
    )
    assert (
        api.api.put(api.api._url(f"/containers/{name}/archive?path=/tmp"), data=b"junk" * 500).status_code
        == 400
    )


def test_changes_and_commit_show_no_mount_points(docker: Client, name: str) -> None:
    docker("run", "--name", name, BUSYBOX, "sh", "-c", "echo x > /new; rm /etc/group; mkdir -p /d/e")
    assert docker.line("diff", name).splitlines() == ["A /d", "A /d/e", "C /etc", "D /etc/group", "A /new"]
    identity = docker.line(
        "commit", "-m", "note", "-a", "me", "-c", 'CMD ["cat", "/new"]', name, f"{name}:v1"
    )
    assert docker.line("run", "--rm", f"{name}:v1") == "x"
    assert docker("run", "--rm", f"{name}:v1", "ls", "/etc/group", code=1).out == ""
    seen = json.loads(docker.line("inspect", f"{name}:v1"))[0]
    base = docker.line("inspect", "--format", "{{.Id}}", BUSYBOX)
    assert (seen["Id"], seen["Parent"], seen["Author"], seen["Comment"]) == (identity, base, "me", "note")
    top = docker.line("history", "--format", "{{.CreatedBy}}|{{.Comment}}", f"{name}:v1").splitlines()[0]
    assert top.endswith("|note")
    with tarfile.open(fileobj=io.BytesIO(docker.raw("save", f"{name}:v1"))) as archive:
        manifest = json.load(archive.extractfile("manifest.json"))  # type: ignore[arg-type]
        layer = archive.extractfile(manifest[0]["Layers"][-1])
        with tarfile.open(fileobj=layer) as inner:
            assert sorted(inner.getnames()) == ["d", "d/e", "etc", "etc/.wh.group", "new"]
    docker("rm", name)
    docker("rmi", f"{name}:v1")


def test_commit_of_nothing_adds_no_layer(docker: Client, name: str) -> None:
    docker("run", "--name", name, BUSYBOX, "true")
    docker("commit", "-c", "ENV A=b", name, f"{name}:same")
    layers = [
        json.loads(docker.line("inspect", "--format", "{{json .RootFS.Layers}}", image))
        for image in (BUSYBOX, f"{name}:same")
    ]
    assert layers[0] == layers[1]
    docker("rm", name)
    docker("rmi", f"{name}:same")


def test_commit_pauses_and_resumes(docker: Client, name: str, started: Callable[..., str]) -> None:
    running = started()
    docker("commit", running, f"{name}:live")
    assert docker.line("inspect", "--format", "{{.State.Status}}", running) == "running"
    docker("rmi", f"{name}:live")


def test_bad_change_is_refused(docker: Client, started: Callable[..., str]) -> None:
    result = docker("commit", "-c", "RUN x", started(), code=1)
    assert "RUN is not a valid change command" in result.err


@pytest.mark.parametrize("running", [False, True])
def test_export_without_volumes(docker: Client, name: str, running: bool) -> None:
    command = ("sh", "-c", "echo x > /own; echo y > /data/f; " + ("sleep 1000" if running else "true"))
    docker("run", *(["-d"] if running else []), "--name", name, "-v", f"{name}:/data", BUSYBOX, *command)
    if running:
        docker("exec", name, "sh", "-c", "until [ -s /data/f ]; do :; done")
    with tarfile.open(fileobj=io.BytesIO(docker.raw("export", name))) as archive:
        names = archive.getnames()
    assert {"own", "bin/busybox", "data"} <= set(names)
    assert "data/f" not in names
