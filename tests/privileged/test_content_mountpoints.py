"""The layer of mount points: what an image lacks, and nothing that would change what it has."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from sampan.content.mountpoints import ensure_mount_points

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    layer = tmp_path / "chain" / "diff"
    layer.mkdir(parents=True)
    return layer


def made(layer: Path) -> set[str]:
    target = layer.parent / "init"
    ensure_mount_points([str(layer)], str(target))
    return {str(path.relative_to(target)) for path in target.rglob("*")}


def test_an_empty_image_gets_them_all(layer: Path) -> None:
    files = {".dockerenv", "dev/console", "etc/hostname", "etc/hosts", "etc/mtab", "etc/resolv.conf"}
    assert made(layer) == files | {"dev", "dev/pts", "dev/shm", "etc", "proc", "sys"}


def test_what_the_image_has_is_left_to_it(layer: Path) -> None:
    (layer / "etc").mkdir()
    (layer / "etc/hosts").write_text("mine")
    (layer / "proc").symlink_to("elsewhere")
    names = made(layer)
    assert "etc/hosts" not in names
    assert "proc" not in names
    assert "etc/hostname" in names


def test_a_directory_keeps_the_images_owner_and_mode(layer: Path) -> None:
    (layer / "etc").mkdir()
    os.chown(layer / "etc", 7, 8)
    (layer / "etc").chmod(0o2751)
    made(layer)
    status = (layer.parent / "init/etc").stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (7, 8, 0o2751)


@pytest.mark.parametrize("target", ["/", "../../../outside", "/nowhere"])
def test_a_parent_that_is_a_link_is_not_followed(layer: Path, target: str) -> None:
    (layer / "etc").symlink_to(target)
    assert not any(name.startswith("etc") for name in made(layer))
    assert sorted(path.name for path in layer.parent.parent.iterdir()) == ["chain"]


def test_it_is_made_once(layer: Path) -> None:
    made(layer)
    before = (layer.parent / "init").stat().st_ino
    made(layer)
    assert (layer.parent / "init").stat().st_ino == before
    assert sorted(os.listdir(layer.parent)) == ["diff", "init"]
