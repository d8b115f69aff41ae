"""Under a terminal: -it, detach keys, resizing, signals, and the three commands of the article."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable

import pytest
from tests.support import images
from tests.support.docker import Client
from tests.support.eventually import eventually

BUSYBOX = "busybox:latest"
DETACH = "\x10\x11"


def test_interactive_shell(docker: Client) -> None:
    with docker.terminal("run", "-it", "--rm", BUSYBOX, "sh") as terminal:
        terminal.expect("# ")
        terminal.send("echo $((6 * 7)); tty\n")
        terminal.expect("42\r\n/dev/pts/0")
        terminal.send("exit 3\n")
        assert terminal.wait() == 3


def test_interactive_without_a_terminal_is_refused_by_the_client(docker: Client) -> None:
    result = docker("run", "-it", "--rm", BUSYBOX, "true", code=None, stdin="")
    assert result.code == 1
    assert "input device is not a TTY" in result.err


def test_terminal_has_the_clients_size_and_follows_it(docker: Client) -> None:
    with docker.terminal("run", "-it", "--rm", BUSYBOX, "sh", rows=31, columns=97) as terminal:
        terminal.expect("# ")

        def has_size(size: str) -> bool:
            terminal.send("stty size; echo done\n")
            return size in terminal.expect(r"\d+ \d+\r\ndone")

        eventually(lambda: has_size("31 97"), "the terminal's size")
        terminal.resize(40, 120)
        eventually(lambda: has_size("40 120"), "the new size")


def test_detach_keys_leave_the_container_running(docker: Client, name: str) -> None:
    with docker.terminal("run", "-it", "--name", name, BUSYBOX, "sh") as terminal:
        terminal.expect("# ")
        terminal.send(DETACH)
        assert terminal.wait() == 0
    assert docker.line("inspect", "--format", "{{.State.Running}}", name) == "true"
    with docker.terminal("attach", name) as terminal:
        terminal.send("echo back again\n")
        terminal.expect("\nback again")
        terminal.send("exit\n")
        assert terminal.wait() == 0


def test_chosen_detach_keys(docker: Client, name: str) -> None:
    with docker.terminal(
        "run", "-it", "--detach-keys", "ctrl-a,x", "--name", name, BUSYBOX, "sh"
    ) as terminal:
        terminal.expect("# ")
        terminal.send("\x01x")
        assert terminal.wait() == 0
    assert docker.line("inspect", "--format", "{{.State.Running}}", name) == "true"


def test_interrupt_key_reaches_the_process(docker: Client) -> None:
    with docker.terminal(
        "run", "-it", "--rm", BUSYBOX, "sh", "-c", "trap 'exit 7' INT; echo set; sleep 60 & wait"
    ) as terminal:
        terminal.expect("set")
        terminal.send("\x03")
        assert terminal.wait() == 7


def test_exec_under_a_terminal(docker: Client, started: Callable[..., str]) -> None:
    container = started()
    with docker.terminal("exec", "-it", container, "sh") as terminal:
        terminal.expect("# ")
        terminal.send("tty; exit 4\n")
        terminal.expect("/dev/pts/0")
        assert terminal.wait() == 4


def test_signals_are_passed_on(docker: Client, name: str) -> None:
    script = "trap 'echo got it; exit 9' TERM; echo set; while true; do sleep 0.1; done"
    client = docker.popen("run", "--rm", "--name", name, BUSYBOX, "sh", "-c", script)
    assert client.stdout is not None
    assert client.stdout.readline() == b"set\n"
    client.send_signal(signal.SIGTERM)
    assert client.communicate(timeout=30)[0] == b"got it\n"
    assert client.returncode == 9


def test_article_shell_with_the_hosts_network(docker: Client) -> None:
    links = {os.fsdecode(line.split(b":")[1].strip()) for line in _links().splitlines()}
    with docker.terminal("run", "-it", "--rm", "--net=host", "busybox", "sh") as terminal:
        terminal.expect("# ")
        terminal.send("ls /sys/class/net | tr '\\n' ' '; echo e''nd\n")
        seen = set(terminal.expect("end\r\n").split())
        terminal.send("exit\n")
        assert terminal.wait() == 0
    assert {link for link in links if "@" not in link} <= seen


def _links() -> bytes:
    return subprocess.run(["ip", "-o", "link"], check=True, capture_output=True).stdout


@pytest.fixture
def webdata(docker: Client) -> None:
    """data_container: an image with a folder /webapp that has a file."""
    archive = docker.raw("save", BUSYBOX)
    assert archive
    docker("create", "--name", "webapp-source", BUSYBOX, "true")
    docker("cp", "-", "webapp-source:/", stdin=images.tar_of({"webapp/index.html": b"<p>hello</p>\n"}))
    docker("commit", "webapp-source", "data_container")
    docker("rm", "webapp-source")


@pytest.mark.timeout(400)
def test_article_data_container_and_volumes_from(docker: Client, webdata: None) -> None:
    with docker.terminal(
        "run", "-it", "--name", "webdata", "-v", "/webapp", "data_container", "ls", "/webapp"
    ) as terminal:
        terminal.expect("index.html")
        assert terminal.wait() == 0
    docker("import", str(images.nginx_root_tar()), images.NGINX, timeout_s=300)
    with docker.terminal(
        "run", "-it", "--volumes-from", "webdata", "nginx:latest", "cat", "/var/log/nginx/access.log"
    ) as terminal:
        # the log is a link to standard output, here the terminal: cat reads what is typed
        terminal.send("typed\n")
        terminal.expect("typed\r\ntyped")
        terminal.send("\x04")
        assert terminal.wait() == 0
    seen = docker.line(
        "run", "--rm", "--volumes-from", "webdata", "nginx:latest", "cat", "/webapp/index.html"
    )
    assert seen == "<p>hello</p>"
