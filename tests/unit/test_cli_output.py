"""What people see: columns, sizes, durations, help, completion, the reference page; and what ps imports."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_server import Answer, RecordingServer

from sampan.cli import units
from sampan.cli.commands.completion import candidates
from sampan.cli.commands.images import image_rows
from sampan.cli.containerview import ports_text
from sampan.cli.main import GROUPS, TOP, execute, load
from sampan.cli.moments import moment
from sampan.cli.progress import Board
from sampan.cli.reference import reference
from sampan.cli.session import Session
from sampan.cli.table import align
from sampan.formats.durations import human_duration

ROOT = Path(__file__).parents[2]

CONTAINERS = (
    b'[{"Id":"0123456789abcdef0123","Names":["/web","/other/link"],"Image":"busybox@sha256:12",'
    b'"ImageID":"sha256:ab",'
    b'"Command":"sleep 1000000000000000","Created":1,"Ports":[{"IP":"0.0.0.0",'
    b'"PrivatePort":80,"PublicPort":8080,'
    b'"Type":"tcp"}],"Labels":{"b":"2","a":"1"},"State":"exited","Status":"Exited (1) 2 days ago",'
    b'"NetworkSettings":{"Networks":{"bridge":{}}},"Mounts":[{"Name":"data","Driver":"local"}]}]'
)


def shown(arguments: list[str], answers: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> int:
    with RecordingServer(answers) as server:
        monkeypatch.setenv("SAMPAN_HOST", f"unix://{server.path}")
        return execute(arguments)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["-q"], "0123456789ab"),
        (["-q", "--no-trunc"], "0123456789abcdef0123"),
        (["--format", "{{.Names}} {{.Image}} {{.Ports}}"], "web busybox 0.0.0.0:8080->80/tcp"),
        (["--no-trunc", "--format", "{{.Names}}|{{.Image}}"], "web,other/link|busybox@sha256:12"),
        (["--format", '{{.Label "a"}} {{.Labels}} {{.LocalVolumes}} {{.Mounts}}'], "1 a=1,b=2 1 data"),
        (["--format", "{{.Command}}"], '"sleep 1000000000000…"'),
        (["--format", "{{.Networks}} {{.State}}"], "bridge exited"),
    ],
)
def test_ps_shows_what_is_asked(
    arguments: list[str], line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = {"GET /containers/json": Answer(CONTAINERS)}
    assert shown(["ps", *arguments], answers, monkeypatch) == 0
    assert capsys.readouterr().out == line + "\n"


def test_a_table_with_a_template_has_headers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = {"GET /containers/json": Answer(CONTAINERS)}
    shown(["ps", "--format", r"table {{.ID}}\t{{upper .Names}}"], answers, monkeypatch)
    assert capsys.readouterr().out == "CONTAINER ID   NAMES\n0123456789ab   WEB\n"


def test_ps_imports_next_to_nothing() -> None:
    """The promise is that it starts no later than Docker's client: neither re, json, os nor argparse."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from sampan.cli.main import execute;"
        "status = execute(['ps']); print(status, *sorted(sys.modules))"
    )
    with RecordingServer({"GET /containers/json": Answer(CONTAINERS)}) as server:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", code, str(ROOT / "src")],
            env={"SAMPAN_HOST": f"unix://{server.path}"},
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    status, *modules = done.stdout.splitlines()[-1].split()
    assert status == "0"
    heavy = {
        "re",
        "json",
        "os",
        "enum",
        "typing",
        "socket",
        "argparse",
        "collections",
        "urllib",
        "datetime",
        "signal",
    }
    assert not heavy & set(modules)
    ours = {name for name in modules if name.startswith("sampan.cli")}
    assert "sampan.cli.template" not in ours
    assert len(ours) <= 16


@pytest.mark.parametrize(
    ("size", "decimal", "binary"),
    [
        (0, "0B", "0B"),
        (999, "999B", "999B"),
        (1234567, "1.235MB", "1.177MiB"),
        (5 * 10**12, "5TB", "4.547TiB"),
    ],
)
def test_sizes(size: int, decimal: str, binary: str) -> None:
    assert units.human_size(size) == decimal
    assert units.binary_size(size) == binary


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (3599, "59 minutes"),
        (3600, "About an hour"),
        (47 * 3600, "47 hours"),
        (48 * 3600, "2 days"),
        (14 * 86400, "2 weeks"),
        (60 * 86400, "2 months"),
        (730 * 86400, "2 years"),
    ],
)
def test_durations_for_people(seconds: float, text: str) -> None:
    assert human_duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("0", 0),
        ("1h30m", 5400 * 10**9),
        ("1.5s", 15 * 10**8),
        ("300ms", 3 * 10**8),
        ("-2us", -2000),
        ("1ns", 1),
    ],
)
def test_durations_of_people(text: str, nanoseconds: int) -> None:
    assert units.parse_duration(text) == nanoseconds


@pytest.mark.parametrize("text", ["", "5", "s", "1x", "1..5s", "-", "1h-5m"])
def test_wrong_durations(text: str) -> None:
    with pytest.raises(ValueError, match="time: "):
        units.parse_duration(text)


def test_columns_are_as_wide_as_their_widest_cell_on_the_terminal() -> None:
    assert align([["A", "B"], ["1234567890", "x"]]) == "A            B\n1234567890   x\n"
    assert align([["A", "B"], ["\x1b[31mred\x1b[0m", "x"]]) == "A         B\n\x1b[31mred\x1b[0m       x\n"
    assert align([["漢字", "B"]]) == "漢字      B\n"


def test_moments() -> None:
    assert moment("1700000000.25") == "1700000000.25"
    assert moment("2026-01-02T03:04:05.123456789Z") == "1767323045.123456789"
    assert moment("2026-01-02T03:04:05+01:00") == "1767319445.000000000"


def test_neighbouring_ports_become_ranges() -> None:
    ports: list[dict[str, Any]] = [{"PrivatePort": port, "Type": "tcp"} for port in (82, 80, 81, 90)]
    ports.append({"PrivatePort": 53, "PublicPort": 5353, "IP": "::", "Type": "udp"})
    ports += [
        {"PrivatePort": port, "PublicPort": port, "IP": "0.0.0.0", "Type": "tcp"} for port in (443, 444)
    ]
    expected = "80-82/tcp, 90/tcp, 0.0.0.0:443-444->443-444/tcp, [::]:5353->53/udp"
    assert ports_text(ports) == expected


def test_images_have_a_row_for_each_name() -> None:
    image = {
        "Id": "sha256:1",
        "RepoTags": ["docker.io/library/a:1", "host:5000/b:2"],
        "RepoDigests": ["a@sha256:x", "c@sha256:y"],
    }
    rows = image_rows([image, {"Id": "sha256:2", "RepoTags": [], "RepoDigests": []}], digests=True)
    names = [(row["repository"], row["tag"], row["digest"]) for row in rows]
    assert names == [
        ("a", "1", "sha256:x"),
        ("host:5000/b", "2", "<none>"),
        ("c", "<none>", "sha256:y"),
        ("<none>", "<none>", "<none>"),
    ]


class Paper:
    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        """Nothing is buffered."""


def test_progress_on_paper_tells_steps_once_and_no_bars() -> None:
    paper = Paper()
    board = Board(paper, in_place=False, size=lambda: None)  # type: ignore[arg-type]
    for current in (1, 2):
        board.show({"id": "a", "status": "Loading", "progressDetail": {"current": current, "total": 2}})
    for _ in range(2):
        board.show({"id": "a", "status": "Done", "progressDetail": {}})
    board.show({"stream": "Loaded image: x\n"})
    assert paper.text == "a: Done\nLoaded image: x\n"


def test_progress_on_a_terminal_changes_the_line_of_its_object() -> None:
    paper = Paper()
    board = Board(paper, in_place=True, size=lambda: (24, 80))  # type: ignore[arg-type]
    for name in ("a", "b", "a"):
        board.show({"id": name, "status": "Loading", "progressDetail": {"current": 5, "total": 10}})
    last = paper.text.split("\n")[-1]
    assert last.startswith("\x1b[2A\r\x1b[2Ka: Loading [===============>")
    assert last.endswith("] 5B/10B\x1b[2B\r")


@pytest.mark.parametrize("columns", [1, 8, 20, 30, 60, 200])
def test_progress_never_breaks_a_line(columns: int) -> None:
    paper = Paper()
    board = Board(paper, in_place=True, size=lambda: (24, columns))  # type: ignore[arg-type]
    board.show({"id": "c0ffee", "status": "Downloading", "progressDetail": {"current": 5, "total": 10}})
    line = paper.text.removeprefix("\x1b[2K").removesuffix("\n")
    assert len(line) < max(columns, 2)
    if columns >= 30:
        assert line.endswith(" 5B/10B")


def test_progress_out_of_reach_goes_on_below() -> None:
    paper = Paper()
    board = Board(paper, in_place=True, size=lambda: (3, 80))  # type: ignore[arg-type]
    for name in ("a", "b", "c", "a", "c"):
        board.show({"id": name, "status": "Waiting", "progressDetail": {}})
    # three lines fill the screen: the first one cannot be reached any more, the third one can
    assert (
        paper.text
        == "".join(
            ("\x1b[2Ka: Waiting\n", "\x1b[2Kb: Waiting\n", "\x1b[2Kc: Waiting\n", "\x1b[2Ka: Waiting\n")
        )
        + "\x1b[2A\r\x1b[2Kc: Waiting\x1b[2B\r"
    )


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["imaegs"], "Did you mean images?"),
        (["container", "strat", "x"], "Did you mean start?"),
        (["build", "."], "'sampan build' is not implemented yet."),
        (["run"], "'sampan run' requires at least 1 argument"),
        (["--hots", "x", "ps"], "Did you mean --host?"),
        (["-H", "ssh://x", "ps"], "ssh:// is not implemented yet"),
        (["ps", "--filter", "x"], "bad format of filter (expected name=value)"),
        (["completion", "tcsh"], "choose one of bash, zsh, fish"),
    ],
)
def test_mistakes_are_explained(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(arguments) != 0
    assert text in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["--help"], ["help"], [], ["help", "run"], ["run", "--help"], ["ps", "-h"]]
)
def test_help_is_printed(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(words) == 0
    output = capsys.readouterr()
    assert output.out.startswith("Usage:  sampan")
    assert output.err == ""
    assert max(map(len, output.out.splitlines())) <= 100


def test_every_option_is_in_its_commands_help(capsys: pytest.CaptureFixture[str]) -> None:
    execute(["run", "--help"])
    text = capsys.readouterr().out
    for option in load(TOP["run"]).options:
        assert (f"--{option.name}" in text) != option.hidden or option.name in ("net", "dns-opt", "net-alias")


def words(*typed: str) -> list[str]:
    return [line.partition("\t")[0] for line in candidates(Session("unix:///nonexistent.sock"), list(typed))]


def test_completion_offers_what_the_tables_have() -> None:
    assert set(TOP) | set(GROUPS) == set(words(""))
    assert set(words("container", "")) == set(GROUPS["container"])
    assert "--memory" in words("run", "--")
    assert "--host" in words("-")
    assert "SYS_ADMIN" in words("run", "--cap-add", "")
    assert words("run", "--env-file", "") == [":files"]
    assert words("-H", "unix:///x", "volume", "") == list(GROUPS["volume"])
    assert words("start", "") == []  # no daemon: nothing, and no message


def test_completion_asks_the_daemon_for_names(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = {"GET /containers/json": Answer(CONTAINERS)}
    assert shown(["__complete", "stop", "-t", "5", "w"], answers, monkeypatch) == 0
    assert capsys.readouterr().out == "web\tbusybox@sha256:12 (Exited (1) 2 days ago)\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_printed(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["completion", shell]) == 0
    assert "sampan __complete" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "replies"),
    [("sampan vol", "volume"), ("sampan rmi busybox:l", "latest"), ("sampan rmi ", "busybox:latest")],
)
def test_bash_completes_with_the_script(
    line: str, replies: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    execute(["completion", "bash"])
    script = capsys.readouterr().out
    launcher = tmp_path / "sampan"
    launcher.write_text(f'#!/bin/sh\nexec "{ROOT}/packaging/sampan" "$@"\n')
    launcher.chmod(0o755)
    program = script + f"COMP_LINE='{line}'; COMP_POINT={len(line)}; _sampan; " + 'echo "${COMPREPLY[@]}"'
    with RecordingServer({"GET /images/json": Answer(b'[{"RepoTags":["busybox:latest"]}]')}) as server:
        environment = {
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "SAMPAN_PYTHON": sys.executable,
            "SAMPAN_HOST": f"unix://{server.path}",
        }
        done = subprocess.run(
            ["bash", "-c", program], env=environment, capture_output=True, text=True, timeout=30, check=True
        )
    assert done.stdout == f"{replies}\n"


def test_the_reference_page_is_current() -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    assert page == reference(), "run: python -m sampan.cli.reference > docs/cli.md"


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["rm", "nope"], 1),
        (["rm", "-f", "nope"], 0),
        (["rm", "-f", "nope", "other"], 0),
        (["rmi", "-f", "nope"], 0),
        (["network", "rm", "-f", "nope"], 0),
        (["stop", "nope", "other"], 1),
    ],
)
def test_force_forgives_what_is_not_there(
    words: list[str], status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shown(words, {}, monkeypatch) == status
    assert capsys.readouterr().out == ""
