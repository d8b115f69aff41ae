"""Streams on a terminal: frames, detach keys, input both ways without a deadlock, exit statuses, signals."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from cli_server import Answer, Handler, RecordingServer, Request
from hypothesis import given
from hypothesis import strategies as st

from sampan.cli.failure import Failure
from sampan.cli.stream import Frames
from sampan.cli.terminal import KeyFilter, parse_keys

SOURCE = os.path.join(os.path.dirname(__file__), "..", "..", "src")
PROGRAM = [
    sys.executable,
    "-I",
    "-S",
    "-c",
    "import sys; sys.path.insert(0, sys.argv.pop(1)); from sampan.cli.main import main; main()",
    SOURCE,
]
ID = "c0ffee" * 10 + "abcd"
UPGRADED = b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"


def frame(kind: int, payload: bytes) -> bytes:
    return bytes([kind, 0, 0, 0]) + len(payload).to_bytes(4, "big") + payload


@given(
    st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=20)), max_size=8),
    st.lists(st.integers(min_value=1, max_value=30), max_size=30),
)
def test_frames_come_apart_however_they_arrive(messages: list[tuple[int, bytes]], cuts: list[int]) -> None:
    wire = b"".join(frame(kind, payload) for kind, payload in messages)
    seen: dict[int, bytes] = {1: b"", 2: b""}

    def emit(kind: int, payload: bytes) -> None:
        seen[kind] += payload

    frames = Frames(emit)
    for size in cuts:
        frames.feed(wire[:size])
        wire = wire[size:]
    frames.feed(wire)
    for kind in (1, 2):
        assert seen[kind] == b"".join(payload for of, payload in messages if of == kind)


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("", b"\x10\x11"),
        ("ctrl-a,b", b"\x01b"),
        ("ctrl-@,ctrl-[,ctrl-\\,ctrl-],ctrl-^,ctrl-_,DEL", b"\x00\x1b\x1c\x1d\x1e\x1f\x7f"),
    ],
)
def test_detach_keys(text: str, keys: bytes) -> None:
    assert parse_keys(text) == keys


@pytest.mark.parametrize("text", ["ctrl-!", "ab", "ctrl-p,", "ctrl-ab"])
def test_wrong_detach_keys(text: str) -> None:
    with pytest.raises(Failure):
        parse_keys(text)


def test_the_beginning_of_the_keys_is_held_back_until_it_is_clear() -> None:
    keys = KeyFilter(b"\x10\x11")
    assert keys.feed(b"ab\x10") == b"ab"
    assert keys.feed(b"c") == b"\x10c"
    assert keys.feed(b"\x10\x10") == b"\x10"
    assert keys.feed(b"\x11lost") == b""
    assert keys.detached


class Container:
    """A container on the fake daemon: ``serve`` speaks on the hijacked connection, then it has ended."""

    def __init__(self, serve: Any, *, status: int = 0, start: Answer | None = None) -> None:
        self._serve = serve
        self._status = status
        self._start = start or Answer(b"", 204)
        self.started = threading.Event()
        self.ended = threading.Event()
        self.kills: list[str] = []
        self.killed = threading.Event()
        self.sizes: list[str] = []

    def answers(self) -> dict[str, Answer | Handler]:
        base = f"/containers/{ID}"
        return {
            f"POST {base}/attach": self.attach,
            f"POST {base}/wait": self.wait,
            f"POST {base}/start": self.start,
            f"POST {base}/kill": self.kill,
            f"POST {base}/resize": self.resize,
            f"POST /containers/web/exec": Answer(b'{"Id":"e1"}', 201),  # noqa: F541
            "POST /exec/e1/start": self.attach,
            "POST /exec/e1/resize": self.resize,
            "GET /exec/e1/json": Answer(json.dumps({"ExitCode": self._status}).encode()),
        }

    def attach(self, request: Request, connection: socket.socket) -> None:
        connection.sendall(UPGRADED)
        if "exec" not in request.path:
            self.started.wait(10)
        try:
            self._serve(self, connection)
        finally:
            self.ended.set()
            connection.shutdown(socket.SHUT_RDWR)

    def start(self, request: Request, connection: socket.socket) -> Answer:
        self.started.set()
        return self._start

    def wait(self, request: Request, connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        self.ended.wait(20)
        body = json.dumps({"StatusCode": self._status}).encode()
        connection.sendall(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))

    def kill(self, request: Request, connection: socket.socket) -> Answer:
        self.kills.append(request.target.partition("signal=")[2])
        self.killed.set()
        return Answer(b"", 204)

    def resize(self, request: Request, connection: socket.socket) -> Answer:
        self.sizes.append(request.target.partition("?")[2])
        return Answer(b"", 200)


def run(server: RecordingServer, *arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "SAMPAN_HOST": f"unix://{server.path}"}
    options.setdefault("stdin", None if "input" in options else subprocess.DEVNULL)
    return subprocess.run(
        [*PROGRAM, *arguments], env=environment, capture_output=True, timeout=30, check=False, **options
    )


def test_output_goes_where_it_belongs_and_the_status_is_the_containers() -> None:
    def serve(container: Container, connection: socket.socket) -> None:
        connection.sendall(frame(1, b"out\n") + frame(2, b"err\n") + frame(1, b"more\n"))

    with RecordingServer(Container(serve, status=7).answers()) as server:
        done = run(server, "run", "busybox")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out\nmore\n", b"err\n")
    order = [request.path.rpartition("/")[2] for request in server.requests]
    assert order == ["create", "attach", "wait", "start"]
    assert "condition=next-exit" in server.requests[2].target


def test_with_rm_the_removal_is_awaited() -> None:
    with RecordingServer(Container(lambda container, connection: None).answers()) as server:
        assert run(server, "run", "--rm", "busybox").returncode == 0
    assert "condition=removed" in server.requests[2].target


def test_input_and_output_flow_at_once() -> None:
    """More than every buffer holds, echoed as it comes: a client that only sends would hang."""

    def serve(container: Container, connection: socket.socket) -> None:
        while data := connection.recv(65536):
            connection.sendall(frame(1, data))

    data = os.urandom(1 << 20) * 8
    with RecordingServer(Container(serve).answers()) as server:
        done = run(server, "run", "-i", "busybox", "cat", input=data)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == data


@pytest.mark.parametrize("read", [0, 10, 3_000_000])
def test_a_process_that_ends_before_its_input_does(read: int) -> None:
    """However far it has read: its output and status count, the rest of the input is nobody's."""

    def serve(container: Container, connection: socket.socket) -> None:
        left = read
        while left > 0:
            left -= len(connection.recv(min(left, 65536)))
        connection.sendall(frame(1, b"enough\n"))

    with RecordingServer(Container(serve, status=5).answers()) as server:
        feeder = subprocess.Popen(["yes"], stdout=subprocess.PIPE)
        assert feeder.stdout is not None
        with feeder.stdout as endless:
            done = run(server, "run", "-i", "busybox", "head", stdin=endless)
        feeder.wait(timeout=20)
    assert (done.returncode, done.stdout, done.stderr) == (5, b"enough\n", b"")


def test_exec_sends_what_is_asked_and_answers_the_status() -> None:
    def serve(container: Container, connection: socket.socket) -> None:
        connection.sendall(frame(1, connection.recv(100).upper()))

    with RecordingServer(Container(serve, status=3).answers()) as server:
        done = run(server, "exec", "-i", "-e", "A=1", "web", "tr", input=b"abc")
    assert (done.returncode, done.stdout) == (3, b"ABC")
    body = json.loads(server.requests[0].body)
    assert (body["Cmd"], body["Env"], body["AttachStdin"], body["Tty"]) == (["tr"], ["A=1"], True, False)


@pytest.mark.parametrize(
    ("message", "status"),
    [
        ('exec: "nope": executable file not found in $PATH', 127),
        ('exec: "/x": stat /x: no such file or directory', 127),
        ('exec: "/etc": permission denied', 126),
        ('exec: "/etc": is a directory', 126),
        ("driver failed programming external connectivity: port is already allocated", 125),
    ],
)
def test_a_start_that_fails_has_dockers_exit_status(message: str, status: int) -> None:
    start = Answer(json.dumps({"message": message}).encode(), 400)
    with RecordingServer(Container(lambda *_: None, start=start).answers()) as server:
        done = run(server, "run", "busybox", "x")
    assert done.returncode == status
    assert message in done.stderr.decode()
    assert "Run 'sampan run --help'" in done.stderr.decode()


def test_a_missing_image_says_how_to_get_one() -> None:
    answers: dict[str, Answer | Handler] = {
        "POST /containers/create": Answer(b'{"message":"No such image: busybox:latest"}', 404),
        "POST /images/create": Answer(
            b'{"message":"Get \\"https://registry-1.docker.io/v2/\\": connection refused"}', 500
        ),
    }
    with RecordingServer(answers) as server:
        done = run(server, "run", "busybox")
    assert done.returncode == 125
    text = done.stderr.decode()
    assert text.startswith("Unable to find image 'busybox:latest' locally\n")
    assert "connection refused" in text
    assert "sampan image bootstrap busybox" in text
    assert "sampan load -i" in text


def test_signals_go_to_the_container_and_the_third_interrupt_ends_the_command() -> None:
    def serve(container: Container, connection: socket.socket) -> None:
        connection.sendall(frame(1, b"ready\n"))
        container.killed.wait(20)
        connection.recv(1)
        connection.recv(1)

    container = Container(serve)
    with RecordingServer(container.answers()) as server:
        process = subprocess.Popen(
            [*PROGRAM, "run", "-i", "busybox"],
            env={**os.environ, "SAMPAN_HOST": f"unix://{server.path}"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        for number in (signal.SIGUSR1, signal.SIGINT, signal.SIGINT, signal.SIGINT):
            seen = len(container.kills)
            process.send_signal(number)
            _until(lambda seen=seen: len(container.kills) > seen or process.poll() is not None)
        _, errors = process.communicate(timeout=20)
    assert container.kills == ["SIGUSR1", "SIGINT", "SIGINT"]
    assert process.returncode == 1
    assert b"forcefully exiting" in errors


def _until(condition: Any) -> None:
    """Waits for what another process does; the limit is for a test that fails."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


class Terminal:
    """The command on a pseudo-terminal."""

    def __init__(self, server: RecordingServer, *arguments: str) -> None:
        self.pid, self.descriptor = pty.fork()
        if self.pid == 0:
            os.environ.update(SAMPAN_HOST=f"unix://{server.path}", TERM="xterm")
            os.execv(PROGRAM[0], [*PROGRAM, *arguments])
        self.output = b""

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def read_until(self, text: bytes) -> None:
        deadline = time.monotonic() + 20
        while text not in self.output:
            assert time.monotonic() < deadline, self.output
            if select.select([self.descriptor], [], [], 0.5)[0]:
                self.output += os.read(self.descriptor, 65536)

    def type(self, data: bytes) -> None:
        os.write(self.descriptor, data)

    def is_raw(self) -> bool:
        return not termios.tcgetattr(self.descriptor)[3] & termios.ICANON

    def status(self) -> int:
        try:
            while select.select([self.descriptor], [], [], 20)[0]:
                data = os.read(self.descriptor, 65536)
                self.output += data
                if not data:
                    break
        except OSError:  # EIO: the other side has gone
            pass
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return os.waitstatus_to_exitcode(status)

    def close(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.descriptor)


@contextmanager
def terminal(server: RecordingServer, *arguments: str) -> Iterator[Terminal]:
    opened = Terminal(server, *arguments)
    try:
        yield opened
    finally:
        opened.close()


def _echo(container: Container, connection: socket.socket) -> None:
    connection.sendall(b"prompt> ")
    while data := connection.recv(100):
        connection.sendall(b"<" + data + b">")
        if data == b"q":
            return


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("words", [("run", "-it", "busybox"), ("exec", "-it", "web", "sh")])
def test_a_terminal_is_raw_follows_the_size_and_is_restored(words: tuple[str, ...]) -> None:
    container = Container(_echo, status=4)
    with RecordingServer(container.answers()) as server, terminal(server, *words) as screen:
        screen.read_until(b"prompt> ")
        assert screen.is_raw()
        seen = len(container.sizes)
        screen.resize(50, 132)
        _until(lambda: len(container.sizes) > seen)
        assert container.sizes[-1] == "h=50&w=132"
        screen.type(b"\x03")
        screen.read_until(b"<\x03>")
        screen.type(b"q")
        assert screen.status() == 4


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize(
    ("words", "status", "last"),
    [
        (("run", "-it", "busybox"), 0, b""),
        (("exec", "-it", "web", "sh"), 1, b"read escape sequence\r\n"),
        (("run", "-it", "--detach-keys", "ctrl-a,d", "busybox"), 0, b""),
    ],
)
def test_detach_keys_leave_the_container_running(words: tuple[str, ...], status: int, last: bytes) -> None:
    container = Container(_echo)
    keys = b"\x01d" if "--detach-keys" in words else b"\x10\x11"
    with RecordingServer(container.answers()) as server, terminal(server, *words) as screen:
        screen.read_until(b"prompt> ")
        screen.type(b"a")
        screen.read_until(b"<a>")
        screen.type(keys)
        assert screen.status() == status
        assert screen.output.endswith(b"<a>" + last)


def test_a_tty_without_a_terminal_is_refused() -> None:
    with RecordingServer() as server:
        done = run(server, "run", "-it", "busybox")
    assert (done.returncode, done.stderr) == (1, b"the input device is not a TTY\n")
    assert server.requests == []
