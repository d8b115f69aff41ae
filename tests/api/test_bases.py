"""Base images from this machine's busybox and folders: they run, and the same sources make the same image."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support.docker import Client

pytestmark = pytest.mark.own_daemon
DAY_S = 86400


@pytest.fixture
def make(sampan: Client, name: str) -> Iterator[Callable[..., str]]:
    """Bootstrap with these words under a name of its own; the id of the image."""
    names: list[str] = []

    def bootstrap(*words: str) -> str:
        names.append(f"{name}:{len(names)}")
        sampan("image", "bootstrap", *words, "--tag", names[-1])
        return sampan.line("inspect", "--format", "{{.Id}}", names[-1])

    yield bootstrap
    sampan("rmi", "-f", *names, code=None)


def test_busybox(make: Callable[..., str], sampan: Client) -> None:
    image = make("busybox")
    assert make("busybox") == image
    assert sampan.line("run", "--rm", "--network", "none", image, "echo", "hello") == "hello"


def _folder(place: Path, age_s: int) -> Path:
    """The same files in whatever place, changed so long ago."""
    (place / "bin").mkdir(parents=True)
    (place / "bin/program").write_bytes(b"#!/nothing\n")
    (place / "bin/program").chmod(0o755)
    (place / "link").symlink_to("bin/program")
    os.link(place / "bin/program", place / "same")
    for entry in (place, *place.rglob("*")):
        now_s = entry.lstat().st_mtime
        os.utime(entry, (now_s - age_s, now_s - age_s), follow_symlinks=False)
    return place


def test_a_folder(make: Callable[..., str], tmp_path: Path) -> None:
    one, other = _folder(tmp_path / "one", DAY_S), _folder(tmp_path / "other", 2 * DAY_S)
    image = make("--from-dir", str(one))
    assert make("--from-dir", str(one)) == image
    assert make("--from-dir", str(other)) != image
    epoch = ("--source-date-epoch", "1700000000")
    image = make("--from-dir", str(one), *epoch)
    assert make("--from-dir", str(other), *epoch) == image


def test_a_wrong_date_is_refused(sampan: Client, tmp_path: Path) -> None:
    words = ("--from-dir", str(tmp_path), "--tag", "x", "--source-date-epoch", "yesterday")
    assert "is a number of seconds, not 'yesterday'" in sampan("image", "bootstrap", *words, code=1).err


def test_an_imported_archive_runs(
    docker: Client, make: Callable[..., str], name: str, tmp_path: Path
) -> None:
    archive = tmp_path / "root.tar"
    docker("create", "--name", name, make("busybox"))
    docker("export", "-o", str(archive), name)
    with tarfile.open(archive) as exported:
        assert exported.getmember("bin/busybox").mode == 0o755
    docker("import", "-c", "CMD cat /etc/os-release", str(archive), f"{name}:imported")
    assert "BusyBox" in docker.line("run", "--rm", "--network", "none", f"{name}:imported")
    docker("rm", name)
    docker("rmi", f"{name}:imported")
