"""A private sampand: everything it owns is below one folder, one bridge and one control group."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path


class Daemon:
    """Started by start(), ended by stop() or kill(); the roots stay, so that it can be started again."""

    def __init__(self, folder: Path, number: int = 0, arguments: tuple[str, ...] = ()) -> None:
        self.folder = folder
        self.data_root = folder / "data"
        self.exec_root = folder / "run"
        self.socket = str(folder / "engine.sock")
        self.host = f"unix://{self.socket}"
        self.bridge = f"st{os.getpid() % 100000}n{number}"
        self.cgroup_parent = f"/sampan-test-{os.getpid()}-{number}"
        self.subnet_prefix = f"10.21{4 + number // 250}.{number % 250}"
        self.log_path = folder / "daemon.log"
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def command(self) -> list[str]:
        program = Path(sys.executable).with_name("sampand")
        return [
            *(str(program), "-H", self.host, "--data-root", str(self.data_root)),
            *("--exec-root", str(self.exec_root), "--pidfile", str(self.folder / "pid")),
            *("--bridge", self.bridge, "--bip", f"{self.subnet_prefix}.1/24"),
            *("--cgroup-parent", self.cgroup_parent, *self._arguments),
        ]

    def start(self, environment: dict[str, str] | None = None, *, may_die: bool = False) -> Daemon:
        """Returns once it answers a ping; with may_die also when it has ended instead."""
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
            )
        deadline = time.monotonic() + 30
        while not self.answers():
            if may_die and self._process.poll() is not None:
                return self
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"sampand does not answer:\n{self.log_tail()}")
            time.sleep(0.01)
        return self

    def answers(self) -> bool:
        connection = http.client.HTTPConnection("engine")
        try:
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.settimeout(5)
            connection.sock.connect(self.socket)
            connection.request("GET", "/_ping")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def stop(self) -> int:
        """SIGTERM; the exit code. Containers keep running."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(timeout=30)

    def kill(self) -> None:
        """As a crash would: nothing is told, nothing is tidied up."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(timeout=30)

    def wait_dead(self, timeout_s: float = 20) -> int:
        """Wait for the process to end by itself (a crash point)."""
        assert self._process is not None
        return self._process.wait(timeout_s)

    def log_tail(self, lines: int = 60) -> str:
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])
