"""Our registry as a process, with rules, through the unmodified docker client and ``sampan registry``."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support.docker import Client, Result
from tests.support.served import LAUNCHER, ServedRegistry

BUSYBOX = "busybox:latest"
SETTINGS = """
[auth]
htpasswd = "{users}"
anonymous = ["public/**"]
groups = {{ dev = ["alice"] }}
[[rules]]
repositories = ["team/**", "public/**"]
groups = ["dev"]
actions = ["pull", "push"]
[[rules]]
repositories = ["team/**"]
users = ["bob"]
actions = ["pull"]
[[immutable]]
tags = ["v*"]
[[quotas]]
repositories = ["team/small"]
size = "10k"
"""
As = Callable[..., Result]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedRegistry]:
    folder = tmp_path_factory.mktemp("served")
    users = folder / "users"
    made = ServedRegistry(folder, SETTINGS.format(users=users))
    for name in ("alice", "bob"):
        made.command("htpasswd", "--cost=8", "--password-stdin", str(users), name, stdin=f"{name}-word\n")
    with made:
        yield made


@pytest.fixture(scope="module")
def as_user(
    docker: Client, registry: ServedRegistry, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[As]:
    """``as_user("alice", "push", name)``: the docker client with that user's credentials; "" has none."""
    folders: dict[str, Path] = {}

    def run(name: str, *words: str, code: int | None = 0) -> Result:
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp("config")
            if name:
                login = ("login", "-u", name, "--password-stdin", registry.host)
                done = docker("--config", str(folders[name]), *login, stdin=f"{name}-word\n")
                assert "Login Succeeded" in done.out
        return docker("--config", str(folders[name]), *words, code=code)

    yield run
    rows = docker("images", "--digests", "--format", "{{.Repository}} {{.Tag}} {{.Digest}}").out.splitlines()
    for row in rows:
        repository, tag, digest = row.split()
        if repository.startswith(registry.host):
            # the last tag takes the digests of its repository along
            docker("rmi", f"{repository}:{tag}" if tag != "<none>" else f"{repository}@{digest}", code=None)


@pytest.fixture
def tagged(docker: Client, registry: ServedRegistry) -> Callable[[str], str]:
    """Name busybox for the registry."""

    def tag(name: str) -> str:
        full = f"{registry.host}/{name}"
        docker("tag", BUSYBOX, full)
        return full

    return tag


def test_wrong_password(docker: Client, registry: ServedRegistry, tmp_path: Path) -> None:
    words = ("--config", str(tmp_path), "login", "-u", "alice", "--password-stdin", registry.host)
    assert "unauthorized: incorrect username or password" in docker(*words, stdin="wrong", code=1).err


def test_push_and_pull_by_rule(as_user: As, docker: Client, tagged: Callable[[str], str]) -> None:
    name = tagged("team/app:1")
    pushed = as_user("alice", "push", name)
    digest = pushed.out.split("digest: ")[1].split()[0]
    docker("rmi", name)
    assert digest in as_user("bob", "pull", name).out
    refused = as_user("bob", "push", name, code=1)
    assert "denied: requested access to the resource is denied" in refused.err
    docker("rmi", name)
    for user, path in (("", "team/app:1"), ("bob", "other/app:1")):
        denied = as_user(user, "pull", name.replace("team/app:1", path), code=1)
        assert "denied" in denied.err or "unauthorized" in denied.err, denied


def test_anonymous_pull_and_push_with_a_login(
    as_user: As, docker: Client, tagged: Callable[[str], str]
) -> None:
    name = tagged("public/app:1")
    unauthorized = as_user("", "push", name, code=1)
    assert "unauthorized" in unauthorized.err or "denied" in unauthorized.err, unauthorized
    as_user("alice", "push", "-q", name)
    docker("rmi", name)
    as_user("", "pull", "-q", name)


def test_immutable_tags_and_quotas(as_user: As, docker: Client, tagged: Callable[[str], str]) -> None:
    name = tagged("team/app:v1")
    as_user("alice", "push", "-q", name)
    as_user("alice", "push", "-q", name)
    container = docker.line("create", BUSYBOX)
    docker("commit", container, name)
    docker("rm", container)
    assert "tag v1 of team/app is immutable and cannot be moved" in as_user("alice", "push", name, code=1).err
    assert "quota exceeded: team/small" in as_user("alice", "push", tagged("team/small:1"), code=1).err


def test_search(as_user: As, registry: ServedRegistry, tagged: Callable[[str], str]) -> None:
    as_user("alice", "push", "-q", tagged("public/wanted:1"))
    rows = as_user("", "search", "--format", "{{.Name}}", f"{registry.host}/wanted").out.split()
    assert [row.rpartition("public/")[2] for row in rows] == ["wanted"]


def test_commands(
    as_user: As, docker: Client, registry: ServedRegistry, tagged: Callable[[str], str]
) -> None:
    as_user("alice", "push", "-q", tagged("team/listed:v1"))
    lines = registry.command("repositories", "--format", "{{.Name}} {{.Tags}}", "listed").splitlines()
    assert lines == ["team/listed 1"]
    [row] = registry.command("tags", "--json", "team/listed").splitlines()
    shown = json.loads(row)
    assert (shown["Tag"], shown["Platforms"], shown["Immutable"]) == ("v1", "linux/amd64", "yes")
    assert registry.command("usage", "--format", "{{.Repositories}}").strip().isdigit()
    assert registry.command("gc").startswith("Deleted: ")
    assert registry.command("gc", "--status").startswith("Deleted: ")
    assert "0 damaged" in registry.command("scrub")
    assert registry.command("retention", "--dry-run") == ""
    registry.command("tags", "none", code=1)
    registry.command("usage", "--registry", f"tcp://{registry.host}", code=1)


def test_reload(as_user: As, registry: ServedRegistry, tagged: Callable[[str], str]) -> None:
    before = registry.path.read_text()
    name = tagged("late/app:1")
    assert "denied" in as_user("alice", "push", name, code=1).err
    rule = '[[rules]]\nrepositories = ["late/**"]\nusers = ["alice"]\nactions = ["push", "pull"]\n'
    registry.path.write_text(before + rule)
    assert "settings read again" in registry.reload()
    as_user("alice", "push", "-q", name)
    registry.path.write_text("nonsense = 1\n")
    assert "stay as they were" in registry.reload()
    as_user("alice", "push", "-q", name)
    registry.path.write_text(before)
    registry.reload()


def test_nothing_to_start_with(tmp_path: Path) -> None:
    made = ServedRegistry(tmp_path, "[gc]\ninterval = 'sometimes'\n")
    ended = subprocess.run(
        [str(LAUNCHER), "registry", "serve", "--config", str(made.path)],
        capture_output=True,
        text=True,
        env={**os.environ, "SAMPAN_PYTHON": sys.executable},
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert f"{made.path}: gc.interval: invalid duration 'sometimes'" in ended.stderr


def test_sockets_of_systemd_and_its_notification(tmp_path: Path) -> None:
    """sd_listen_fds(3), sd_notify(3): descriptor 3 is the socket, in a process that knows its own id."""
    with socket.socket() as listener, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        notify.bind(str(tmp_path / "notify"))
        notify.settimeout(60)
        settings = tmp_path / "r.toml"
        settings.write_text(f'root = "{tmp_path}/root"\nadmin-socket = ""\n')
        script = f'export LISTEN_PID=$$ LISTEN_FDS=1; exec 3<&{listener.fileno()} "$@"'
        process = subprocess.Popen(
            ["/bin/bash", "-c", script, "-", str(LAUNCHER), "registry", "serve", "--config", str(settings)],
            pass_fds=[listener.fileno()],
            env={**os.environ, "SAMPAN_PYTHON": sys.executable, "NOTIFY_SOCKET": str(tmp_path / "notify")},
            stderr=subprocess.DEVNULL,
        )
        try:
            assert notify.recv(4096).startswith(b"READY=1")
            with urllib.request.urlopen(f"http://127.0.0.1:{listener.getsockname()[1]}/v2/") as answer:
                assert answer.status == 200
            process.terminate()
            assert notify.recv(4096) == b"STOPPING=1"
            assert process.wait(60) == 0
        finally:
            process.kill()
            process.wait()
