"""Copies between a container and this machine: what lands where, and archives that mean harm."""

from __future__ import annotations

import base64
import io
import json
import os
import stat
import tarfile
from pathlib import Path
from typing import Any

import pytest
from cli_server import Answer, Handler, RecordingServer

from sampan.cli.commands.copy import split_location
from sampan.cli.failure import Failure
from sampan.cli.main import execute
from sampan.cli.packing import Packer
from sampan.cli.unpacking import Unpacker

DIRECTORY, SYMLINK = 1 << 31, 1 << 27


def stat_header(name: str, mode: int, target: str = "") -> str:
    value = {"name": name, "size": 1, "mode": mode, "mtime": "2026-01-01T00:00:00Z", "linkTarget": target}
    return base64.b64encode(json.dumps(value).encode()).decode()


def archive(*members: tuple[str, Any]) -> bytes:
    """name -> bytes (file), None (directory), "-> x" (symlink), "=> x" (hard link)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.mode, info.mtime = 0o640, 1_000_000_000
            if content is None:
                info.type, info.mode = tarfile.DIRTYPE, 0o750
            elif isinstance(content, str):
                info.type = tarfile.SYMTYPE if content.startswith("->") else tarfile.LNKTYPE
                info.linkname = content[3:]
            else:
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return buffer.getvalue()


TREE = archive(
    ("d", None),
    ("d/file", b"content"),
    ("d/sub", None),
    ("d/sub/link", "-> ../file"),
    ("d/hard", "=> d/file"),
)


def unpack(folder: Path, data: bytes, name: str = "d") -> Unpacker:
    unpacker = Unpacker(str(folder), name, keep_owner=False)
    unpacker.unpack(io.BytesIO(data))
    return unpacker


def test_unpacking_keeps_contents_modes_times_and_links(tmp_path: Path) -> None:
    unpack(tmp_path, TREE, "renamed")
    root = tmp_path / "renamed"
    assert (root / "file").read_bytes() == b"content"
    assert stat.S_IMODE((root / "file").stat().st_mode) == 0o640
    assert stat.S_IMODE(root.stat().st_mode) == 0o750
    assert (root / "file").stat().st_mtime == root.stat().st_mtime == 1_000_000_000
    assert os.readlink(root / "sub/link") == "../file"
    assert (root / "hard").stat().st_ino == (root / "file").stat().st_ino


def test_unpacking_contents_leaves_the_directory_itself_alone(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    unpack(tmp_path, TREE, "")
    assert sorted(os.listdir(tmp_path)) == ["file", "hard", "sub"]
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "members",
    [
        [("../escape", b"x")],
        [("d", None), ("d/../../escape", b"x")],
        [("d", None), ("other/escape", b"x")],
        [("d", None), ("d/out", "-> {outside}"), ("d/out/escape", b"x")],
        [("d", None), ("d/out", "-> {outside}"), ("d/out/deeper/escape", b"x")],
        [("d", None), ("d/out", "-> {outside}"), ("d/out", None), ("d/out/escape", b"x")],
        [("d", None), ("d/copy", "=> {outside}/secret")],
        [("d", None), ("d/copy", "=> ../secret")],
    ],
)
def test_an_archive_cannot_write_or_link_outside(tmp_path: Path, members: list[tuple[str, Any]]) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (outside / "secret").write_text("secret")
    filled = [
        (name, what.format(outside=outside) if isinstance(what, str) else what) for name, what in members
    ]
    with pytest.raises(Failure):
        unpack(inside, archive(*filled))
    assert os.listdir(outside) == ["secret"]
    assert sorted(os.listdir(tmp_path)) == ["inside", "outside"]
    assert not (inside / "d" / "copy").exists()


def test_a_file_replaces_a_symlink_instead_of_following_it(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    (tmp_path / "d").symlink_to(victim)
    unpack(tmp_path, archive(("d", b"new")))
    assert victim.read_text() == "untouched"
    assert (tmp_path / "d").read_bytes() == b"new"
    assert not (tmp_path / "d").is_symlink()


def test_a_broken_archive_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="broken archive"):
        unpack(tmp_path, b"nonsense" * 200)


def test_packing_is_read_back_by_tarfile(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / ("long" * 40)).write_bytes(b"z" * 1000)
    (source / "a").write_bytes(b"x")
    os.link(source / "a", source / "b")
    (source / "l").symlink_to("nowhere")
    packer = Packer(str(source), "name", follow=False)
    data = b"".join(packer.chunks())
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = {member.name: member for member in tar}
    assert set(members) == {"name", "name/a", "name/b", "name/l", "name/sub", "name/sub/" + "long" * 40}
    assert members["name/b"].islnk()
    assert members["name/b"].linkname == "name/a"
    assert members["name/l"].linkname == "nowhere"
    assert members["name/sub/" + "long" * 40].size == 1000
    assert len(data) % 512 == 0


@pytest.mark.parametrize(
    ("text", "location"),
    [
        ("web:/etc", ("web", "/etc")),
        ("/etc:x", ("", "/etc:x")),
        ("./a:b", ("", "./a:b")),
        ("plain", ("", "plain")),
        ("-", ("", "-")),
        ("web:a:b", ("web", "a:b")),
    ],
)
def test_locations(text: str, location: tuple[str, str]) -> None:
    assert split_location(text) == location


class Files:
    """A container with a few paths; copies into it are kept."""

    def __init__(self, paths: dict[str, tuple[str, int, str]], data: bytes = TREE) -> None:
        self._paths = paths
        self._data = data
        self.put: list[tuple[str, bytes]] = []

    def answers(self) -> dict[str, Answer | Handler]:
        return {
            "HEAD /containers/web/archive": self.answer,
            "GET /containers/web/archive": self.answer,
            "PUT /containers/web/archive": self.receive,
        }

    def answer(self, request: Any, connection: Any) -> Answer | None:
        path = request.target.partition("path=")[2]
        if path not in self._paths:
            return Answer(b'{"message":"Could not find the file"}', 404)
        body = b"" if request.method == "HEAD" else self._data
        head = f"HTTP/1.1 200 OK\r\nX-Docker-Container-Path-Stat: {stat_header(*self._paths[path])}\r\n"
        connection.sendall(
            f"{head}Content-Length: {len(self._data)}\r\nConnection: close\r\n\r\n".encode() + body
        )
        return None

    def receive(self, request: Any, connection: Any) -> Answer:
        self.put.append((request.target.partition("path=")[2].partition("&")[0], request.body))
        return Answer(b"", 200)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def cp(files: Files, monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    with RecordingServer(files.answers()) as server:
        monkeypatch.setenv("SAMPAN_HOST", f"unix://{server.path}")
        return execute(["cp", *words])


REMOTE = {"/d": ("d", DIRECTORY | 0o755, ""), "/d/.": ("d", DIRECTORY | 0o755, ""), "/f": ("f", 0o644, "")}


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ("web:/d", "new", "new/file"),
        ("web:/d", "there", "there/d/file"),
        ("web:/d/.", "there", "there/file"),
        ("web:/d/.", "new", "new/file"),
        ("web:/d", "there/new", "there/new/file"),
    ],
)
def test_directories_out(
    source: str, target: str, expected: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "there").mkdir()
    assert cp(Files(REMOTE), monkeypatch, source, target) == 0
    assert (here / expected).read_bytes() == b"content"


@pytest.mark.parametrize(
    ("target", "expected"), [("new", "new"), ("there", "there/f"), ("old", "old"), ("there/x", "there/x")]
)
def test_files_out(target: str, expected: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "there").mkdir()
    (here / "old").write_text("old")
    assert cp(Files(REMOTE, archive(("f", b"new"))), monkeypatch, "web:/f", target) == 0
    assert (here / expected).read_bytes() == b"new"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("web:/f", "nowhere/"), "destination directory 'nowhere/' does not exist"),
        (("web:/f", "nowhere/x"), 'directory "nowhere" does not exist'),
        (("web:/d", "old"), "cannot copy directory"),
        (("web:/none", "x"), "Could not find the file"),
        (("web:/d", "other:/d"), "copying between containers is not supported"),
        (("old", "x"), "must specify at least one container source"),
        (("none", "web:/d"), "no such file or directory"),
        (("there", "web:/f"), "cannot copy directory"),
        (("old", "web:/none/"), "no such directory"),
    ],
)
def test_copies_that_cannot_be(
    words: tuple[str, str],
    message: str,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (here / "there").mkdir()
    (here / "old").write_text("old")
    assert cp(Files(REMOTE), monkeypatch, *words) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "target", "folder", "names"),
    [
        ("tree", "web:/d", "/d", ["tree", "tree/x"]),
        ("tree/.", "web:/d", "/d", [".", "x"]),
        ("tree", "web:/new", "/", ["new", "new/x"]),
        ("tree/x", "web:/d", "/d", ["x"]),
        ("tree/x", "web:/f", "/", ["f"]),
        ("tree/x", "web:/d/new", "/d", ["new"]),
        ("tree/x", "web:/link", "/d", ["x"]),
        ("link", "web:/d", "/d", ["link"]),
    ],
)
def test_copies_in(
    source: str, target: str, folder: str, names: list[str], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "tree").mkdir()
    (here / "tree" / "x").write_text("x")
    (here / "link").symlink_to("tree")
    files = Files({**REMOTE, "/link": ("link", SYMLINK | 0o777, "/d")})
    assert cp(files, monkeypatch, source, target) == 0
    (path, data) = files.put[0]
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert (path, tar.getnames()) == (folder, names)
