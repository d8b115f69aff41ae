"""The unmodified docker client, with and without a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from dataclasses import dataclass


def find_client() -> str:
    """SAMPAN_TEST_CLIENT, or docker from PATH."""
    chosen = os.environ.get("SAMPAN_TEST_CLIENT")
    if chosen:
        return chosen
    for folder in os.environ["PATH"].split(":"):
        candidate = os.path.join(folder, "docker")
        if os.access(candidate, os.X_OK):
            return candidate
    raise RuntimeError("no docker client: run tests through ./run-tests, which provides one")


@dataclass(frozen=True)
class Result:
    """What one command of the client did."""

    words: tuple[str, ...]
    code: int
    out: str
    err: str

    def __str__(self) -> str:
        return f"docker {' '.join(self.words)}: {self.code}\n--- out\n{self.out}\n--- err\n{self.err}"


class Client:
    """``client("run", "--rm", "busybox", "true")``: raises AssertionError unless it ends with ``code``."""

    def __init__(self, host: str, program: str | None = None, *, config: str = "/nonexistent") -> None:
        """``config`` is the folder with the client's configuration."""
        self.host = host
        self.program = program or find_client()
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": "/nonexistent",
            "DOCKER_CONFIG": config,
            "DOCKER_HOST": host,
            "TERM": "xterm",
        }

    def __call__(
        self, *words: str, code: int | None = 0, stdin: str | bytes | None = None, timeout_s: float = 60
    ) -> Result:
        """Run to the end; ``code=None`` accepts any exit code."""
        given = stdin.encode() if isinstance(stdin, str) else stdin
        ended = subprocess.run(
            [self.program, *words],
            input=given,
            stdin=subprocess.DEVNULL if given is None else None,
            capture_output=True,
            env=self._environment,
            timeout=timeout_s,
            check=False,
        )
        out, err = ended.stdout.decode(errors="replace"), ended.stderr.decode(errors="replace")
        result = Result(words, ended.returncode, out, err)
        assert code is None or result.code == code, str(result)
        return result

    def line(self, *words: str) -> str:
        """Standard output without the last line's end."""
        return self(*words).out.rstrip("\n")

    def raw(self, *words: str) -> bytes:
        """Standard output as bytes, for archives."""
        return subprocess.run(
            [self.program, *words], check=True, stdout=subprocess.PIPE, env=self._environment, timeout=60
        ).stdout

    def popen(self, *words: str, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        """Started and left running, its output in pipes."""
        return subprocess.Popen(
            [self.program, *words],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self._environment,
        )

    def terminal(self, *words: str, rows: int = 24, columns: int = 80) -> Terminal:
        """Started under a pseudo-terminal, as a person would."""
        return Terminal([self.program, *words], self._environment, rows, columns)


class Terminal:
    """A command under a pty. Use as a context manager: it is killed at the end if it still runs."""

    def __init__(self, command: list[str], environment: dict[str, str], rows: int, columns: int) -> None:
        self._master, slave = pty.openpty()
        self.output = b""
        self._seen = 0
        self.resize(rows, columns, notify=False)
        self.process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._master)

    def resize(self, rows: int, columns: int, *, notify: bool = True) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        if notify:
            os.kill(self.process.pid, signal.SIGWINCH)

    def send(self, text: str) -> None:
        os.write(self._master, text.encode())

    def expect(self, pattern: str, timeout_s: float = 20) -> str:
        """Read until the pattern appears after what earlier calls matched; the text up to its end."""
        compiled = re.compile(pattern.encode(), re.DOTALL | re.MULTILINE)
        deadline = time.monotonic() + timeout_s
        while True:
            found = compiled.search(self.output, self._seen)
            if found:
                text = self.output[self._seen : found.end()]
                self._seen = found.end()
                return text.decode(errors="replace")
            left = deadline - time.monotonic()
            if left <= 0 or not self._read(left):
                shown = self.output[self._seen :].decode(errors="replace")
                raise AssertionError(f"{pattern!r} did not appear in {shown!r}")

    def _read(self, timeout_s: float) -> bool:
        """False at the end of the output."""
        ready, _, _ = select.select([self._master], [], [], timeout_s)
        if not ready:
            return True
        try:
            data = os.read(self._master, 65536)
        except OSError:  # EIO: the last user of the slave has gone
            return False
        self.output += data
        return bool(data)

    def wait(self, timeout_s: float = 20) -> int:
        """The exit code, once all output has been read."""
        deadline = time.monotonic() + timeout_s
        while self._read(max(0.0, deadline - time.monotonic())) and time.monotonic() < deadline:
            pass
        return self.process.wait(max(0.1, deadline - time.monotonic()))
