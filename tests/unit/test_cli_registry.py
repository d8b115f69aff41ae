"""Credentials as Docker's client keeps them, and what login, pull and push send."""

from __future__ import annotations

import base64
import json
import os
import stat
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
from cli_server import Answer, Handler, RecordingServer, Request

from sampan.cli.credentials import HUB_SERVER, CredentialStore, Login, registry_of, server_of
from sampan.cli.failure import Failure
from sampan.cli.main import execute

LINES = b'{"status":"Pulling from a","id":"1"}\n{"status":"Status: Downloaded newer image for r.lan/a:1"}\n'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "config"
    monkeypatch.setenv("DOCKER_CONFIG", str(path))
    return path


def config(folder: Path) -> Any:
    return json.loads((folder / "config.json").read_text())


def write(folder: Path, value: object) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(value))


def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> Path:
    """A helper program ``docker-credential-test`` that notes its verb and input, then runs ``text``."""
    program = tmp_path / "docker-credential-test"
    notes = tmp_path / "notes"
    program.write_text(f'#!/bin/sh\n{{ echo "$1"; cat; echo; }} >> {notes}\n{text}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return notes


def test_saved_and_found_and_erased(folder: Path) -> None:
    store = CredentialStore(str(folder))
    assert store.find("r.lan:5000") is None
    write(folder, {"HttpHeaders": {"a": "b"}})
    assert store.save(Login("r.lan:5000", "ada", "a:b")) == ""
    entry = {"auth": base64.b64encode(b"ada:a:b").decode()}
    assert config(folder) == {"HttpHeaders": {"a": "b"}, "auths": {"r.lan:5000": entry}}
    assert stat.S_IMODE((folder / "config.json").stat().st_mode) == 0o600
    found = store.find("r.lan:5000")
    assert found is not None
    assert (found.user, found.password) == ("ada", "a:b")
    assert store.erase("r.lan:5000")
    assert not store.erase("r.lan:5000")
    assert config(folder) == {"HttpHeaders": {"a": "b"}, "auths": {}}
    assert [path.name for path in folder.iterdir()] == ["config.json"]


def test_a_linked_file_stays_a_link(folder: Path, tmp_path: Path) -> None:
    folder.mkdir()
    (folder / "config.json").symlink_to("../real.json")
    CredentialStore(str(folder)).save(Login("r.lan", "ada", "x"))
    assert (folder / "config.json").is_symlink()
    assert "r.lan" in json.loads((tmp_path / "real.json").read_text())["auths"]


def test_older_spellings_of_an_address(folder: Path) -> None:
    auth = base64.b64encode(b"ada:x").decode()
    write(folder, {"auths": {"https://r.lan/v1/": {"auth": auth}}})
    found = CredentialStore(str(folder)).find("r.lan")
    assert found is not None
    assert found.user == "ada"


def test_identity_token(folder: Path) -> None:
    store = CredentialStore(str(folder))
    store.save(Login("r.lan", "ada", "", "token"))
    assert config(folder)["auths"]["r.lan"]["identitytoken"] == "token"
    found = store.find("r.lan")
    assert found is not None
    assert (found.token, found.password) == ("token", "")


@pytest.mark.parametrize("text", ["{", "[]", '{"auths":{"r.lan":{"auth":"%%%a"}}}'])
def test_damaged_file(folder: Path, text: str) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(text)
    with pytest.raises(Failure, match=r"cannot read|damaged"):
        CredentialStore(str(folder)).find("r.lan")


def test_helper(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = helper(
        tmp_path, monkeypatch, 'if [ "$1" = get ]; then echo \'{"Username":"ada","Secret":"s"}\'; fi'
    )
    write(folder, {"credHelpers": {"r.lan": "test"}})
    store = CredentialStore(str(folder))
    found = store.find("r.lan")
    assert found is not None
    assert (found.user, found.password) == ("ada", "s")
    assert store.find("other.lan") is None
    assert store.save(Login("r.lan", "ada", "new")) == "test"
    assert config(folder)["auths"] == {"r.lan": {}}
    assert store.erase("r.lan")
    stored = '{"ServerURL":"r.lan","Username":"ada","Secret":"new"}'
    assert notes.read_text().splitlines() == ["get", "r.lan", "store", stored, "erase", "r.lan"]


def test_helper_without_or_with_trouble(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, {"credsStore": "test"})
    helper(tmp_path, monkeypatch, "echo 'credentials not found in native keychain'; exit 1")
    assert CredentialStore(str(folder)).find("r.lan") is None
    helper(tmp_path, monkeypatch, "echo locked; exit 1")
    with pytest.raises(Failure, match="docker-credential-test get: locked"):
        CredentialStore(str(folder)).find("r.lan")
    write(folder, {"credsStore": "absent"})
    with pytest.raises(Failure, match="cannot run docker-credential-absent"):
        CredentialStore(str(folder)).find("r.lan")


@pytest.mark.parametrize(
    ("repository", "expected"),
    [
        ("busybox", HUB_SERVER),
        ("a/b", HUB_SERVER),
        ("docker.io/a/b", HUB_SERVER),
        ("localhost/a", "localhost"),
        ("r.lan:5000/a/b", "r.lan:5000"),
    ],
)
def test_registry_of_an_image(repository: str, expected: str) -> None:
    assert registry_of(repository) == expected


def test_server_of_a_login() -> None:
    assert server_of("") == server_of("docker.io") == HUB_SERVER
    assert server_of("r.lan") == "r.lan"


def sent(request: Request) -> Any:
    return json.loads(base64.urlsafe_b64decode(request.headers["x-registry-auth"]))


def run(server: RecordingServer, *words: str) -> int:
    return execute(["-H", f"unix://{server.path}", *words])


def test_login_then_pull_and_push_with_it(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    answers: dict[str, Answer | Handler] = {
        "POST /auth": Answer(b'{"Status":"Login Succeeded"}'),
        "POST /images/create": Answer(LINES, chunked=True),
        "POST /images/r.lan/a/push": Answer(b'{"status":"1: digest: x size: 1"}\n', chunked=True),
    }
    with RecordingServer(answers) as server:
        assert run(server, "login", "-u", "ada", "-p", "secret", "r.lan") == 0
        assert run(server, "pull", "r.lan/a:1") == 0
        assert run(server, "push", "r.lan/a:1") == 0
        assert run(server, "pull", "-q", "busybox") == 0
        login, pull, push, other = server.requests
    expected = {"username": "ada", "password": "secret", "serveraddress": "r.lan"}
    assert json.loads(login.body) == expected
    assert sent(pull) == sent(push) == expected
    assert "x-registry-auth" not in other.headers
    assert "fromImage=docker.io/library/busybox&tag=latest" in other.target
    output = capfd.readouterr()
    assert "Login Succeeded\n" in output.out
    assert output.out.endswith("docker.io/library/busybox:latest\n")
    assert "Using --password via the CLI is insecure" in output.err
    assert "stored unencrypted" in output.err


def test_refused_login_is_not_kept(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers: dict[str, Answer | Handler] = {
        "POST /auth": Answer(b'{"message":"login attempt to http://r.lan/v2/ failed"}', 401)
    }
    with RecordingServer(answers) as server:
        assert run(server, "login", "-u", "ada", "-p", "wrong", "r.lan") == 1
    assert "login attempt" in capsys.readouterr().err
    assert not (folder / "config.json").exists()


def test_logout(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(folder, {"auths": {"r.lan": {"auth": "YTpi"}}})
    assert execute(["logout", "r.lan"]) == 0
    assert execute(["logout", "r.lan"]) == 0
    assert execute(["--config", str(folder), "logout"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "Removing login credentials for r.lan",
        "Not logged in to r.lan",
        "Not logged in to Docker Hub",
    ]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["pull", "-a", "a:1"], "tag can't be used with --all-tags/-a"),
        (["push", "-a", "a:1"], "tag can't be used with --all-tags/-a"),
        (["push", "a@sha256:" + "a" * 64], "cannot push a digest reference"),
        (["login", "--password-stdin", "r.lan"], "Must provide --username with --password-stdin"),
    ],
)
def test_what_makes_no_sense(
    folder: Path, words: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(words) == 1
    assert text in capsys.readouterr().err


def test_search(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(folder, {"auths": {"r.lan:5000": {"auth": base64.b64encode(b"ada:secret").decode()}}})
    found = [
        {"name": "tools/sed", "description": "Edits\nstreams " * 5, "star_count": 7, "is_official": True},
        {"name": "tools/awk", "description": "", "star_count": 0, "is_official": False},
    ]
    answers: dict[str, Answer | Handler] = {"GET /images/search": Answer(json.dumps(found).encode())}
    with RecordingServer(answers) as server:
        words = ["-H", f"unix://{server.path}", "search"]
        assert execute([*words, "--limit", "7", "--filter", "stars=3", "r.lan:5000/tools"]) == 0
        assert (
            execute([*words, "--no-trunc", "--format", "{{.Name}} {{.StarCount}} {{.IsOfficial}}", "sed"])
            == 0
        )
    first, second = [one for one in server.requests if one.path == "/images/search"]
    assert parse_qsl(first.target.partition("?")[2]) == [
        ("term", "r.lan:5000/tools"),
        ("limit", "7"),
        ("filters", '{"stars":{"3":true}}'),
    ]
    assert "x-registry-auth" in {name.lower() for name in first.headers}
    assert "x-registry-auth" not in {name.lower() for name in second.headers}
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["NAME", "DESCRIPTION", "STARS", "OFFICIAL"]
    assert lines[1].startswith("tools/sed   Edits streams")
    assert lines[1].split()[-2:] == ["7", "[OK]"]
    assert lines[3:] == ["tools/sed 7 [OK]", "tools/awk 0 "]
