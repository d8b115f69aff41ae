"""load, save, import, tag, list, inspect, history, remove, prune, df, and hostile archives."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from bench import images as archives
from bench.http import Connection
from tests.support import images, leftovers
from tests.support.daemon import Daemon
from tests.support.docker import Client
from tests.support.images import tar_of

BUSYBOX = "busybox:latest"


def members(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive if member.isfile()}  # type: ignore[union-attr]


def test_image_id_is_the_digest_of_its_configuration(docker: Client) -> None:
    with tarfile.open(images.busybox_archive()) as archive:
        name = json.load(archive.extractfile("manifest.json"))[0]["Config"]  # type: ignore[arg-type]
        config = archive.extractfile(name).read()  # type: ignore[union-attr]
    expected = f"sha256:{hashlib.sha256(config).hexdigest()}"
    assert docker.line("inspect", "--format", "{{.Id}}", BUSYBOX) == expected


def test_save_and_load_give_the_same_image(docker: Client, name: str, folder: Path) -> None:
    docker("tag", BUSYBOX, f"{name}:one")
    identity = docker.line("inspect", "--format", "{{.Id}}", f"{name}:one")
    docker("save", "-o", str(folder / "image.tar"), f"{name}:one")
    docker("rmi", f"{name}:one")
    assert f"Loaded image: {name}:one" in docker.line("load", "-i", str(folder / "image.tar"))
    assert docker.line("inspect", "--format", "{{.Id}}", f"{name}:one") == identity
    docker("rmi", f"{name}:one")


def test_saved_archive_is_readable_by_others(docker: Client) -> None:
    files = members(docker.raw("save", BUSYBOX))
    manifest = json.loads(files["manifest.json"])
    assert manifest[0]["RepoTags"] == [BUSYBOX]
    config = json.loads(files[manifest[0]["Config"]])
    for layer, diff_id in zip(manifest[0]["Layers"], config["rootfs"]["diff_ids"], strict=True):
        assert f"sha256:{hashlib.sha256(files[layer]).hexdigest()}" == diff_id
    assert json.loads(files["index.json"])["schemaVersion"] == 2
    assert json.loads(files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}


def test_several_images_in_one_archive(docker: Client, name: str, folder: Path) -> None:
    for tag in ("one", "two"):
        docker("import", "-", f"{name}:{tag}", stdin=tar_of({"file": tag.encode()}))
    docker("save", "-o", str(folder / "both.tar"), f"{name}:one", f"{name}:two")
    docker("rmi", f"{name}:one", f"{name}:two")
    loaded = docker.line("load", "-i", str(folder / "both.tar")).splitlines()
    assert set(loaded) == {f"Loaded image: {name}:one", f"Loaded image: {name}:two"}
    docker("rmi", f"{name}:one", f"{name}:two")


def test_import_with_changes(docker: Client, name: str) -> None:
    with tarfile.open(images.busybox_archive()) as archive:
        manifest = json.load(archive.extractfile("manifest.json"))  # type: ignore[arg-type]
        layer = archive.extractfile(manifest[0]["Layers"][0]).read()  # type: ignore[union-attr]
    identity = docker(
        *("import", "-c", 'CMD ["echo", "imported"]', "-c", "ENV A=b", "-m", "note", "-", name), stdin=layer
    ).out.strip()
    assert identity.startswith("sha256:")
    assert docker.line("run", "--rm", name) == "imported"
    seen = json.loads(docker.line("inspect", name))[0]
    assert (seen["Config"]["Cmd"], seen["Comment"]) == (["echo", "imported"], "note")
    assert "A=b" in seen["Config"]["Env"]
    docker("rmi", name)


def test_list_and_filters(docker: Client, name: str) -> None:
    docker("tag", BUSYBOX, f"{name}:a")
    docker("tag", BUSYBOX, f"{name}:b")
    assert set(docker.line("images", "--format", "{{.Tag}}", name).split()) == {"a", "b"}
    assert docker.line("images", "-q", "--filter", f"reference={name}:a") != ""
    assert docker.line("images", "-q", "--filter", "reference=no-such-*") == ""
    assert "nvalid filter 'colour'" in docker("images", "--filter", "colour=red", code=1).err
    docker("rmi", f"{name}:a", f"{name}:b")


def test_remove_untags_first_and_deletes_last(docker: Client, name: str) -> None:
    docker("import", "-", f"{name}:one", stdin=tar_of({"unique": name.encode()}))
    docker("tag", f"{name}:one", f"{name}:two")
    assert docker.line("rmi", f"{name}:one") == f"Untagged: {name}:one"
    removed = docker.line("rmi", f"{name}:two").splitlines()
    assert removed[0] == f"Untagged: {name}:two"
    assert removed[1].startswith("Deleted: sha256:")
    assert "No such image" in docker("inspect", "--type", "image", f"{name}:two", code=1).err


def test_image_of_a_container_is_not_removed(docker: Client, name: str, started: Callable[..., str]) -> None:
    docker("tag", BUSYBOX, f"{name}:only")
    identity = docker.line("inspect", "--format", "{{.Id}}", BUSYBOX)
    started()
    result = docker("rmi", identity, code=1)
    assert "conflict: unable to delete" in result.err
    docker("rmi", f"{name}:only")


def test_dangling_images_are_pruned(docker: Client, name: str) -> None:
    docker("import", "-", name, stdin=tar_of({"file": b"first"}))
    first = docker.line("inspect", "--format", "{{.Id}}", name)
    docker("import", "-", name, stdin=tar_of({"file": b"second"}))
    assert (
        first.removeprefix("sha256:")[:12] in docker.line("images", "-q", "--filter", "dangling=true").split()
    )
    assert f"deleted: {first}" in docker.line("image", "prune", "-f")
    docker("rmi", name)


def test_history(docker: Client) -> None:
    rows = docker.line("history", "--no-trunc", "--format", "{{.CreatedBy}}", BUSYBOX).splitlines()
    assert rows == ["sampan bench"]


def test_disk_usage(docker: Client, name: str) -> None:
    docker(
        "run",
        "--name",
        name,
        "-v",
        f"{name}:/data",
        BUSYBOX,
        "sh",
        "-c",
        "head -c 1000000 /dev/zero > /data/f",
    )
    rows = {
        row.split("|")[0]: row.split("|")[1:]
        for row in docker.line("system", "df", "--format", "{{.Type}}|{{.TotalCount}}|{{.Size}}").splitlines()
    }
    assert set(rows) == {"Images", "Containers", "Local Volumes", "Build Cache"}
    assert int(rows["Containers"][0]) >= 1
    assert rows["Local Volumes"][1].endswith("MB")


def layered(tmp: Path, *layers: list[tuple[str, bytes, bytes, str]]) -> Path:
    """A docker archive of layers; each entry is name, type, content, link target."""
    diff_ids, paths = [], []
    target = tmp / "layered.tar"
    with tarfile.open(target, "w") as archive:
        for entries in layers:
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode="w") as layer:
                for entry, kind, data, link in entries:
                    member = tarfile.TarInfo(entry)
                    member.type, member.size, member.linkname, member.mode = kind, len(data), link, 0o755
                    layer.addfile(member, io.BytesIO(data))
            digest = hashlib.sha256(buffer.getvalue()).hexdigest()
            diff_ids.append(f"sha256:{digest}")
            paths.append(f"{digest}.tar")
            add(archive, paths[-1], buffer.getvalue())
        config = {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }
        add(archive, "config.json", json.dumps(config).encode())
        manifest = [{"Config": "config.json", "RepoTags": ["layered:test"], "Layers": paths}]
        add(archive, "manifest.json", json.dumps(manifest).encode())
    return target


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def busybox_entries() -> list[tuple[str, bytes, bytes, str]]:
    with tarfile.open(images.busybox_archive()) as archive:
        manifest = json.load(archive.extractfile("manifest.json"))  # type: ignore[arg-type]
        layer = archive.extractfile(manifest[0]["Layers"][0])
        with tarfile.open(fileobj=layer) as inner:
            return [
                (
                    member.name,
                    member.type,
                    inner.extractfile(member).read() if member.isfile() else b"",
                    member.linkname,
                )  # type: ignore[union-attr]
                for member in inner
            ]


def test_whiteouts_and_opaque_folders(docker: Client, folder: Path) -> None:
    base = [
        *busybox_entries(),
        ("d", tarfile.DIRTYPE, b"", ""),
        ("d/a", tarfile.REGTYPE, b"1", ""),
        ("gone", tarfile.REGTYPE, b"1", ""),
        ("e", tarfile.DIRTYPE, b"", ""),
        ("e/x", tarfile.REGTYPE, b"1", ""),
    ]
    upper = [
        ("d", tarfile.DIRTYPE, b"", ""),
        ("d/.wh..wh..opq", tarfile.REGTYPE, b"", ""),
        ("d/b", tarfile.REGTYPE, b"2", ""),
        (".wh.gone", tarfile.REGTYPE, b"", ""),
        ("e/.wh.x", tarfile.REGTYPE, b"", ""),
        ("hard", tarfile.LNKTYPE, b"", "d/b"),
    ]
    docker("load", "-i", str(layered(folder, base, upper)))
    script = "ls /d; ls /e | wc -l; test ! -e /gone && echo gone; cat /hard"
    assert docker.line("run", "--rm", "layered:test", "sh", "-c", script) == "b\n0\ngone\n2"
    docker("rmi", "layered:test")


HOSTILE = {
    "climbing name": [("../../../../tmp/sampan-climbed", tarfile.REGTYPE, b"x", "")],
    "absolute name": [("/tmp/sampan-climbed", tarfile.REGTYPE, b"x", "")],
    "through a link": [("l", tarfile.SYMTYPE, b"", "/tmp"), ("l/sampan-climbed", tarfile.REGTYPE, b"x", "")],
    "through a climbing link": [
        ("l", tarfile.SYMTYPE, b"", "../../../../../../tmp"),
        ("l/sampan-climbed", tarfile.REGTYPE, b"x", ""),
    ],
    "hard link to the host": [("h", tarfile.LNKTYPE, b"", "../../../../../../etc/shadow")],
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_layers_reach_nothing_of_the_host(docker: Client, folder: Path, kind: str) -> None:
    ended = docker("load", "-i", str(layered(folder, HOSTILE[kind])), code=None)
    assert not Path("/tmp/sampan-climbed").exists()
    if kind == "hard link to the host":
        assert ended.code == 1
    if ended.code == 0:
        docker("rmi", "layered:test")


def test_layer_that_is_not_what_its_digest_says(docker: Client, folder: Path) -> None:
    path = layered(folder, [("file", tarfile.REGTYPE, b"right", "")])
    path.write_bytes(path.read_bytes().replace(b"right", b"wrong"))
    assert docker("load", "-i", str(path), code=None).code != 0
    docker("inspect", "--type", "image", "layered:test", code=1)


@pytest.mark.own_daemon
def test_archive_that_is_cut_off_leaves_nothing(docker: Client, daemon: Daemon, folder: Path) -> None:
    before = leftovers.snapshot(daemon)
    data = images.busybox_archive().read_bytes()
    (folder / "half.tar").write_bytes(data[: len(data) // 2])
    docker("load", "-i", str(folder / "half.tar"), code=1)
    assert leftovers.added(before, leftovers.snapshot(daemon)) == {}


def test_not_an_archive(docker: Client, folder: Path) -> None:
    (folder / "text").write_text("no archive\n" * 1000)
    docker("load", "-i", str(folder / "text"), code=1)
    docker("load", "-i", str(folder / "missing"), code=1)


def test_unknown_image(docker: Client) -> None:
    assert "No such image: no-such-image" in docker("tag", "no-such-image", "x", code=1).err
    docker("rmi", "no-such-image", code=1)
    docker("save", "no-such-image", code=1)


def test_upper_case_names_are_refused(docker: Client) -> None:
    assert "must be lowercase" in docker("tag", BUSYBOX, "Upper", code=1).err


def test_load_tells_progress_as_json(docker: Client) -> None:
    data = images.busybox_archive()
    with Connection(docker.host.removeprefix("unix://")) as connection, data.open("rb") as source:
        answer = connection.upload("/v1.43/images/load", source, data.stat().st_size)
    told = [json.loads(line) for line in answer.splitlines()]
    assert told[-1] == {"stream": f"Loaded image: {archives.BUSYBOX}\n"}
