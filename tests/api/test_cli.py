"""Our own client, as a person uses it. All other tests here run through it with
SAMPAN_TEST_CLIENT=packaging/sampan; this module has what Docker's client does not do or does otherwise."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.docker import Client

BUSYBOX = "busybox:latest"


def test_a_shell_on_a_terminal(sampan: Client, name: str) -> None:
    """Typed, resized, left with the detach keys, entered again, ended."""
    with sampan.terminal("run", "-it", "--name", name, BUSYBOX, "sh") as terminal:
        terminal.expect("# ")
        terminal.send("stty size\n")
        terminal.expect("24 80")
        terminal.resize(40, 120)
        terminal.send("while [ \"$(stty size)\" != '40 120' ]; do :; done; echo re''sized\n")
        terminal.expect("resized")
        terminal.send("\x10\x11")
        assert terminal.wait() == 0
    assert sampan.line("inspect", "-f", "{{.State.Status}}", name) == "running"
    with sampan.terminal("attach", name) as terminal:
        terminal.expect("# ")
        terminal.send("exit 5\n")
        assert terminal.wait() == 5


def test_lists_are_the_same_as_dockers(docker: Client, sampan: Client, started: Callable[..., str]) -> None:
    started("--expose", "53/udp", "-v", "/anonymous", "-l", "a=b")
    for words in (
        ("ps", "--no-trunc"),
        ("ps", "-a", "--format", r"table {{.ID}}\t{{.Names}}\t{{.Labels}}\t{{.Mounts}}\t{{.Ports}}"),
        ("images",),
        ("images", "--digests", "--no-trunc"),
        ("history", BUSYBOX),
        ("volume", "ls"),
        ("network", "ls"),
        ("volume", "ls", "--format", "json"),
    ):
        ours, theirs = _at_one_moment(sampan, docker, words)
        assert ours == theirs


def _at_one_moment(sampan: Client, docker: Client, words: tuple[str, ...]) -> tuple[str, str]:
    """Both outputs while "3 seconds ago" stays the same: what is true before and after is true between."""
    while True:
        before, ours, after = docker(*words).out, sampan(*words).out, docker(*words).out
        if before == after:
            return ours, after


def test_inspect_is_the_same_as_dockers(docker: Client, sampan: Client, started: Callable[..., str]) -> None:
    container = started("-e", "A=b", "--health-cmd", "true")
    template = "{{.State.Status}} {{.Config.Env}} {{range $k, $v := .NetworkSettings.Networks}}{{$k}}{{end}}"
    for words in (
        ("inspect", container),
        ("inspect", "-s", container),
        ("image", "inspect", BUSYBOX),
        ("network", "inspect", "bridge"),
        ("inspect", "-f", template, container),
        ("inspect", "-f", "{{json .HostConfig.LogConfig}} {{len .Mounts}}", container),
    ):
        ours, theirs = sampan(*words).out, docker(*words).out
        assert ours == theirs


def test_json_gives_one_object_per_line(sampan: Client, started: Callable[..., str]) -> None:
    names = {started(), started()}
    lines = sampan("ps", "--json").out.splitlines()
    assert names <= {json.loads(line)["Names"] for line in lines}


def test_stats_show_one_sample_of_each(sampan: Client, started: Callable[..., str]) -> None:
    names = {started(), started()}
    samples = [json.loads(line) for line in sampan("stats", "--no-stream", "--json", *names).out.splitlines()]
    assert {sample["Name"] for sample in samples} == names
    assert all(sample["CPUPerc"].endswith("%") and sample["PIDs"] == "1" for sample in samples)


def test_explain_shows_the_plan_of_a_container(sampan: Client, name: str) -> None:
    sampan("create", "--name", name, "--read-only", "--hostname", "planned", BUSYBOX, "true")
    plan = sampan("debug", "explain", name).out.splitlines()
    assert any("overlay" in step for step in plan)
    assert any("hostname planned" in step for step in plan)


def test_a_missing_image_names_what_helps(sampan: Client) -> None:
    failed = sampan("run", "--rm", "no-such-image:1", code=125)
    assert failed.err.startswith("Unable to find image 'no-such-image:1' locally\n")
    assert "sampan image bootstrap busybox" in failed.err


def test_progress_on_a_terminal_ends_with_the_name(docker: Client, sampan: Client, tmp_path: Path) -> None:
    archive = tmp_path / "image.tar"
    sampan("save", "-o", str(archive), BUSYBOX)
    with sampan.terminal("load", "-i", str(archive)) as terminal:
        terminal.expect("Loaded image: busybox:latest")
        assert terminal.wait() == 0


def test_copies_keep_modes_and_times(sampan: Client, started: Callable[..., str], tmp_path: Path) -> None:
    container = started()
    source = tmp_path / "source"
    source.mkdir()
    (source / "program").write_text("#!/bin/sh\n")
    (source / "program").chmod(0o751)
    os.utime(source / "program", ns=(10**18, 10**18))
    sampan("cp", str(source), f"{container}:/copied")
    assert sampan.line("exec", container, "stat", "-c", "%a %Y", "/copied/program") == "751 1000000000"
    sampan("cp", f"{container}:/copied", str(tmp_path / "back"))
    status = (tmp_path / "back" / "program").stat()
    assert (status.st_mode & 0o777, status.st_mtime_ns) == (0o751, 10**18)


def test_interrupting_a_follower_ends_it_without_a_word(sampan: Client, started: Callable[..., str]) -> None:
    container = started(command=("sh", "-c", "echo first; exec sleep 100000"))
    with sampan.terminal("logs", "-f", container) as terminal:
        terminal.expect("first")
        terminal.send("\x03")
        assert terminal.wait() == -2
    assert b"Traceback" not in terminal.output


def test_completion_knows_the_containers(sampan: Client, started: Callable[..., str]) -> None:
    container = started()
    found = sampan("__complete", "stop", container[:6]).out.splitlines()
    assert container in [line.partition("\t")[0] for line in found]


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_a_closed_pipe_is_no_error(sampan: Client, started: Callable[..., str]) -> None:
    container = started(command=("sh", "-c", "seq 100000; exec sleep 100000"))
    words = ["bash", "-o", "pipefail", "-c", f"'{sampan.program}' logs -f {container} | head -n 1"]
    environment = {**os.environ, "SAMPAN_HOST": sampan.host}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("1\n", "")
    assert done.returncode == 128 + 13
