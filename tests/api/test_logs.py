"""`docker logs`, attach, and what becomes of a container's output."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable

from tests.support.docker import Client
from tests.support.eventually import eventually

BUSYBOX = "busybox:latest"


def ended(docker: Client, name: str, script: str, *options: str) -> str:
    docker("run", "--name", name, *options, BUSYBOX, "sh", "-c", script)
    return name


def test_streams_stay_apart(docker: Client, name: str) -> None:
    result = docker("logs", ended(docker, name, "echo out; echo err >&2"))
    assert (result.out, result.err) == ("out\n", "err\n")


def test_tail(docker: Client, name: str) -> None:
    ended(docker, name, "seq 100")
    assert docker.line("logs", "--tail", "3", name) == "98\n99\n100"
    assert docker.line("logs", "--tail", "0", name) == ""
    assert len(docker.line("logs", "--tail", "all", name).splitlines()) == 100


def test_timestamps(docker: Client, name: str) -> None:
    ended(docker, name, "echo line")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z line", docker.line("logs", "-t", name))


def test_since_and_until(docker: Client, name: str) -> None:
    ended(docker, name, "echo one; sleep 1.1; echo two; sleep 1.1; echo three")
    stamps = [line.split(" ")[0] for line in docker.line("logs", "-t", name).splitlines()]
    assert docker.line("logs", "--since", stamps[1], name) == "two\nthree"
    assert docker.line("logs", "--until", stamps[1], name) == "one\ntwo"
    assert docker.line("logs", "--since", stamps[1], "--until", stamps[1], name) == "two"


def test_follow_ends_with_the_container(docker: Client, started: Callable[..., str]) -> None:
    script = "trap 'echo bye; exit 0' TERM; echo hello; while true; do sleep 0.1; done"
    container = started(command=("sh", "-c", script))
    client = docker.popen("logs", "-f", container)
    assert client.stdout is not None
    assert client.stdout.readline() == b"hello\n"
    docker("kill", "-s", "TERM", container)
    assert client.communicate(timeout=30)[0] == b"bye\n"
    assert client.returncode == 0


def test_details_show_chosen_labels_and_variables(docker: Client, name: str) -> None:
    ended(
        *(docker, name, "echo line", "--log-opt", "labels=team", "--log-opt", "env=STAGE"),
        *("--label", "team=blue", "-e", "STAGE=test"),
    )
    assert docker.line("logs", "--details", name) == "STAGE=test,team=blue line"


def test_a_line_without_an_end_is_kept(docker: Client, name: str) -> None:
    assert docker("logs", ended(docker, name, "printf 'no newline'")).out == "no newline"


def test_a_very_long_line_is_one_line(docker: Client, name: str) -> None:
    out = docker("logs", ended(docker, name, "head -c 100000 /dev/zero | tr '\\0' x; echo")).out
    assert out == "x" * 100_000 + "\n"


def test_bytes_that_are_no_text(docker: Client, name: str) -> None:
    ended(docker, name, "printf 'a\\001\\t\"\\\\\\342\\202\\254\\n'")
    assert docker("logs", name).out == 'a\x01\t"\\€\n'


def test_a_terminals_output_is_logged_raw(docker: Client, name: str) -> None:
    docker("run", "-d", "-t", "--name", name, BUSYBOX, "sh", "-c", "echo out; echo err >&2")
    docker("wait", name)
    assert docker("logs", name).out == "out\r\nerr\r\n"


def test_rotation_keeps_what_it_was_told_to(docker: Client, name: str) -> None:
    ended(docker, name, "seq 20000", "--log-opt", "max-size=100k", "--log-opt", "max-file=2")
    lines = docker.line("logs", name).splitlines()
    assert lines[-1] == "20000"
    assert 1000 < len(lines) < 20_000
    assert lines == [str(number) for number in range(20_001 - len(lines), 20_001)]


def test_hundred_thousand_lines_are_complete_and_in_order(docker: Client, name: str) -> None:
    ended(docker, name, "seq 100000")
    assert docker("logs", name).out == "".join(f"{number}\n" for number in range(1, 100_001))


def test_log_driver_none_has_nothing_to_read(docker: Client, name: str) -> None:
    ended(docker, name, "echo line", "--log-driver", "none")
    assert "configured logging driver does not support reading" in docker("logs", name, code=1).err


def test_unknown_log_driver_is_refused(docker: Client) -> None:
    docker("run", "--rm", "--log-driver", "no-such-driver", BUSYBOX, "true", code=125)


def test_log_file_is_docker_json(docker: Client, name: str) -> None:
    ended(docker, name, "echo line")
    path = docker.line("inspect", "--format", "{{.LogPath}}", name)
    assert path.endswith("-json.log")


def test_attach_gets_what_is_written_from_now_on(docker: Client, name: str) -> None:
    script = "echo before; read go; echo started; read end; exit 4"
    docker("run", "-d", "-i", "--name", name, BUSYBOX, "sh", "-c", script)
    eventually(lambda: docker.line("logs", name) == "before", "the first line")
    client = docker.popen("attach", name, stdin=subprocess.PIPE)
    assert client.stdin is not None
    assert client.stdout is not None
    client.stdin.write(b"go\n")
    client.stdin.flush()
    assert client.stdout.readline() == b"started\n"
    client.communicate(b"end\n", timeout=30)
    assert client.returncode == 4
