"""The engines under measurement: how each is started, and what they all have in common."""

from __future__ import annotations

import compileall
import contextlib
import dataclasses
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench import peers
from bench.accounting import Group, engine_processes, machine_busy_s, pss_bytes
from bench.http import Connection

HERE = Path(__file__).parent
CALM_S = 0.25
CALM_CPU_S = 0.01
"""An engine is at rest when it uses less than so much CPU time in so much time."""
SUBNETS = {"sampan": 1, "docker": 2, "podman": 3}
PODMAN_CONF = """[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "crun"
[containers]
log_driver = "k8s-file"
"""
PODMAN_REGISTRIES = """[[registry]]
location = "127.0.0.1:5000"
insecure = true
"""
POLICY = '{"default": [{"type": "insecureAcceptAnything"}]}'


@dataclass(frozen=True)
class Cost:
    """What one measured piece of work took."""

    wall_s: float
    cpu_s: float
    machine_s: float


@dataclass
class Meter:
    """Filled in when its measurement ends."""

    cost: Cost | None = None


def own_block_groups(folder: Path) -> None:
    """Let ext4 give each folder below a block group of its own.

    Without a journal ext4 looks at every inode that was deleted lately in the group, for each new file: what
    one engine removes would slow down the next one. Other file systems do not know the attribute.
    """
    subprocess.run(["chattr", "+T", str(folder)], check=False, stderr=subprocess.DEVNULL)


class Engine:
    """One engine in its own jail. Subclasses say which program it is."""

    name = ""

    def __init__(self, work: Path) -> None:
        self.home = work / self.name
        self.home.mkdir(parents=True)
        self.socket = str(self.home / "engine.sock")
        self._group_name = f"sampan-bench-{os.getpid()}-{self.name}"
        self.group = Group(self._group_name)
        self._jail: subprocess.Popen[bytes] | None = None

    def root(self) -> str:
        return str(peers.ensure_peers())

    def command(self) -> list[str]:
        raise NotImplementedError

    def start(self) -> float:
        """Start the daemon; seconds until it first answered a ping."""
        self._open_jail()
        began = time.perf_counter()
        self._release_jail()
        self.wait_ready()
        return time.perf_counter() - began

    def _open_jail(self) -> None:
        log = (self.home / "daemon.log").open("ab")
        self._jail = subprocess.Popen(
            [
                "bash",
                str(HERE / "jail.sh"),
                self._group_name,
                self.root(),
                str(self.home),
                "--",
                *self.command(),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
        assert self._jail.stdout is not None
        if self._jail.stdout.readline() != b"ready\n":
            raise SystemExit(f"{self.name}: no jail:\n{self._log_tail()}")

    def _release_jail(self) -> None:
        assert self._jail is not None
        assert self._jail.stdin is not None
        self._jail.stdin.write(b"go\n")
        self._jail.stdin.flush()

    def wait_ready(self, timeout_s: float = 60) -> None:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            try:
                with Connection(self.socket) as connection:
                    connection.call("GET", "/_ping")
                    return
            except (FileNotFoundError, ConnectionError):
                time.sleep(0.002)
            if self._jail is not None and self._jail.poll() is not None:
                break
        raise SystemExit(f"{self.name}: no answer:\n{self._log_tail()}")

    def _log_tail(self) -> str:
        return "\n".join((self.home / "daemon.log").read_text(errors="replace").splitlines()[-20:])

    def init_pid(self) -> int:
        """The jail's pid 1, as this namespace counts."""
        assert self._jail is not None
        children = Path(f"/proc/{self._jail.pid}/task/{self._jail.pid}/children").read_text().split()
        return int(children[0])

    def stop(self) -> None:
        """Ask the daemon to end, then end everything that is left in the jail."""
        if self._jail is None:
            return
        with contextlib.suppress(IndexError, FileNotFoundError, ProcessLookupError):
            os.kill(self.init_pid(), signal.SIGTERM)
            self._jail.wait(timeout=30)
        self._jail.kill()
        self._jail.wait()
        deadline = time.monotonic() + 20
        while self.group.pids() and time.monotonic() < deadline:
            time.sleep(0.01)
        self._jail = None

    def close(self) -> None:
        self.stop()
        self.group.remove()

    def connect(self) -> Connection:
        return Connection(self.socket)

    def pss_bytes(self) -> int:
        return pss_bytes(engine_processes(self.group, self.init_pid()))

    def processes(self) -> int:
        return len(list(engine_processes(self.group, self.init_pid())))

    @contextlib.contextmanager
    def measure(self) -> Iterator[Meter]:
        """Wall time, the engine's CPU time and the machine's between entry and exit."""
        meter = Meter()
        machine, cpu, began = machine_busy_s(), self.group.cpu_s(), time.perf_counter()
        yield meter
        wall = time.perf_counter() - began
        meter.cost = Cost(wall, self.group.cpu_s() - cpu, machine_busy_s() - machine)

    @contextlib.contextmanager
    def measure_until_calm(self) -> Iterator[Meter]:
        """As measure, but CPU time counts until the engine is at rest: what it puts off is not free."""
        with self.measure() as meter:
            yield meter
        assert meter.cost is not None
        before = self.group.cpu_s() - meter.cost.cpu_s
        deadline = time.monotonic() + 60
        reading = self.group.cpu_s()
        while time.monotonic() < deadline:
            time.sleep(CALM_S)
            previous, reading = reading, self.group.cpu_s()
            if reading - previous < CALM_CPU_S:
                break
        meter.cost = dataclasses.replace(meter.cost, cpu_s=reading - before)


class Sampan(Engine):
    name = "sampan"

    def __init__(self, work: Path) -> None:
        super().__init__(work)
        # as installed: pip compiles what it installs, a checkout may never have been
        package = Path(importlib.util.find_spec("sampan").submodule_search_locations[0])  # type: ignore[union-attr, index]
        compileall.compile_dir(package, quiet=1)

    def root(self) -> str:
        return "/"

    def command(self) -> list[str]:
        program = Path(sys.executable).with_name("sampand")
        found = str(program) if program.exists() else shutil.which("sampand")
        if found is None:
            raise SystemExit("sampand is not installed beside this Python nor in PATH")
        return [
            *(found, "-H", f"unix://{self.socket}"),
            *("--data-root", str(self.home / "data"), "--exec-root", str(self.home / "exec")),
            *("--pidfile", str(self.home / "pid"), "--bridge", "sbench0", "--bip", "10.213.1.1/24"),
        ]


class Docker(Engine):
    name = "docker"

    def command(self) -> list[str]:
        return [
            *("dockerd", "-H", f"unix://{self.socket}"),
            *("--data-root", str(self.home / "data"), "--exec-root", str(self.home / "exec")),
            *("--pidfile", str(self.home / "pid"), "--bip", "10.213.2.1/24"),
        ]


class Podman(Engine):
    name = "podman"

    def __init__(self, work: Path) -> None:
        super().__init__(work)
        (self.home / "containers.conf").write_text(PODMAN_CONF)
        (self.home / "registries.conf").write_text(PODMAN_REGISTRIES)

    def command(self) -> list[str]:
        policy = peers.ensure_peers() / "etc/containers/policy.json"
        policy.parent.mkdir(parents=True, exist_ok=True)
        policy.write_text(POLICY)
        return [
            *("env", f"CONTAINERS_CONF={self.home}/containers.conf"),
            f"CONTAINERS_REGISTRIES_CONF={self.home}/registries.conf",
            *("podman", "--root", str(self.home / "data"), "--runroot", str(self.home / "exec")),
            *("--network-config-dir", str(self.home / "networks"), "--tmpdir", str(self.home / "tmp")),
            *("system", "service", "--time=0", f"unix://{self.socket}"),
        ]


ENGINES: dict[str, type[Engine]] = {"sampan": Sampan, "docker": Docker, "podman": Podman}
