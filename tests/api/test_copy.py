"""cp both ways, diff, export, commit, and paths that try to get out of the container."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import docker as docker_py
import pytest
from tests.support.docker import Client
from tests.support.images import tar_of

BUSYBOX = "busybox:latest"


@pytest.fixture
def box(started: Callable[..., str]) -> str:
    return started()


def test_file_in_and_out(docker: Client, box: str, folder: Path) -> None:
    (folder / "in").write_bytes(b"content\n")
    (folder / "in").chmod(0o640)
    docker("cp", str(folder / "in"), f"{box}:/tmp/there")
    assert docker.line("exec", box, "cat", "/tmp/there") == "content"
    docker("cp", f"{box}:/tmp/there", str(folder / "out"))
    assert (folder / "out").read_bytes() == b"content\n"
    assert (folder / "out").stat().st_mode & 0o777 == 0o640


def test_folder_in_and_out(docker: Client, box: str, folder: Path) -> None:
    (folder / "tree/deep").mkdir(parents=True)
    (folder / "tree/deep/file").write_text("x")
    (folder / "tree/link").symlink_to("deep/file")
    docker("cp", str(folder / "tree"), f"{box}:/tmp")
    docker("cp", f"{box}:/tmp/tree", str(folder / "back"))
    assert (folder / "back/deep/file").read_text() == "x"
    assert os.readlink(folder / "back/link") == "deep/file"


def test_works_on_a_stopped_container(docker: Client, name: str, folder: Path) -> None:
    docker("create", "--name", name, BUSYBOX, "cat", "/etc/added")
    (folder / "added").write_text("before the start\n")
    docker("cp", str(folder / "added"), f"{name}:/etc/added")
    assert docker("start", "-a", name).out == "before the start\n"
    docker("cp", f"{name}:/etc/added", str(folder / "again"))
    assert (folder / "again").read_text() == "before the start\n"


def test_missing_path(docker: Client, box: str, folder: Path) -> None:
    result = docker("cp", f"{box}:/no/such", str(folder), code=1)
    assert "Could not find the file /no/such in container" in result.err


def test_links_do_not_lead_out_of_the_container(docker: Client, box: str, folder: Path) -> None:
    secret = folder / "secret"
    secret.write_text("of the host")
    docker("exec", box, "ln", "-s", "/", "/tmp/root")
    docker("exec", box, "ln", "-s", "../../../../../../../..", "/tmp/up")
    for link in ("root", "up"):
        docker("cp", f"{box}:/tmp/{link}{secret}", str(folder / "out"), code=1)
        docker("cp", f"{box}:/tmp/{link}/etc/passwd", str(folder / f"passwd-{link}"))
        assert "nobody:x:65534" in (folder / f"passwd-{link}").read_text()


def test_writing_through_a_link_stays_inside(docker: Client, box: str, folder: Path) -> None:
    outside = folder / "outside"
    outside.mkdir()
    docker("exec", box, "ln", "-s", str(outside), "/tmp/trap")
    docker("cp", "-", f"{box}:/tmp/trap", stdin=tar_of({"file": b"x"}), code=None)
    assert list(outside.iterdir()) == []


def test_archive_with_climbing_names_is_refused_or_kept_inside(
    docker: Client, box: str, folder: Path
) -> None:
    docker("cp", "-", f"{box}:/tmp", stdin=tar_of({"../../../../../../tmp/climbed": b"x"}), code=None)
    assert not Path("/tmp/climbed").exists()


def test_stat_of_a_path(api: docker_py.DockerClient, box: str) -> None:
    stream, stat = api.containers.get(box).get_archive("/etc/passwd")
    for _ in stream:
        pass
    assert (stat["name"], stat["linkTarget"]) == ("passwd", "")
    assert stat["size"] > 10


def test_diff(docker: Client, box: str) -> None:
    docker("exec", box, "sh", "-c", "touch /new; rm /etc/group; echo >> /etc/passwd; mkdir -p /a/b")
    seen = set(docker.line("diff", box).splitlines())
    assert {"A /new", "D /etc/group", "C /etc/passwd", "C /etc", "A /a", "A /a/b"} <= seen


def test_export_has_the_containers_files(docker: Client, name: str) -> None:
    docker("run", "--name", name, BUSYBOX, "sh", "-c", "echo here > /added; rm /etc/group")
    with tarfile.open(fileobj=io.BytesIO(docker.raw("export", name))) as archive:
        names = set(archive.getnames())
        member = archive.extractfile("added")
        assert member is not None
        assert member.read() == b"here\n"
    assert "bin/busybox" in names
    assert "etc/group" not in names


def test_commit_makes_an_image_with_the_changes(docker: Client, name: str) -> None:
    docker("run", "--name", name, "-e", "KEPT=1", BUSYBOX, "sh", "-c", "echo here > /added; rm /etc/group")
    image = docker.line(
        "commit", "-m", "why", "-a", "who", "-c", 'CMD ["cat", "/added"]', name, f"made-{name}"
    )
    assert image.startswith("sha256:")
    assert docker.line("run", "--rm", f"made-{name}") == "here"
    docker("run", "--rm", f"made-{name}", "test", "-e", "/etc/group", code=1)
    assert docker.line("inspect", "--format", "{{.Comment}} {{.Author}}", f"made-{name}") == "why who"
    assert "KEPT=1" in docker.line("run", "--rm", f"made-{name}", "env").splitlines()
    docker("rmi", f"made-{name}")
