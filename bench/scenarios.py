"""What is measured. Every scenario does the same work through the same client on each engine."""

from __future__ import annotations

import queue
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

from bench import images
from bench.engines import Engine
from bench.http import Connection, Refused
from bench.scenario import Samples, Scenario, Settings, run_client
from bench.travel import Load, Pull, Push

NETWORKS = ("bridge", "none", "host")
WORKERS = 8
LOG_WIDTH = 100
LOG_OPTIONS = {"Type": "json-file", "Config": {"max-size": "1g", "max-file": "1"}}


def create(connection: Connection, command: list[str], network: str, **host: Any) -> str:
    body = {
        "Image": images.BUSYBOX,
        "Cmd": command,
        "HostConfig": {"NetworkMode": network, **host},
    }
    return str(connection.call("POST", "/v1.41/containers/create", body)["Id"])


def remove(connection: Connection, container: str) -> None:
    connection.call("DELETE", f"/v1.41/containers/{container}?force=1&v=1")


def all_containers(connection: Connection) -> list[str]:
    return [row["Id"] for row in connection.call("GET", "/v1.41/containers/json?all=1")]


def in_parallel(engine: Engine, items: list[Any], work: Callable[[Connection, Any], None]) -> None:
    """work(connection, item) for every item, WORKERS at a time; the first exception is raised."""
    waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for item in items:
        waiting.put(item)
    failures: list[BaseException] = []

    def worker() -> None:
        with engine.connect() as connection:
            while not failures:
                try:
                    item = waiting.get_nowait()
                except queue.Empty:
                    return
                try:
                    work(connection, item)
                except (Refused, OSError, KeyError) as failure:
                    failures.append(failure)

    threads = [threading.Thread(target=worker) for _ in range(WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


class ClientRun(Scenario):
    """`docker run --rm busybox true` from nothing to the prompt."""

    name = "cli_run"

    def prepare(self, engine: Engine) -> None:
        for network in NETWORKS:
            run_client(self.settings, engine, "run", "--rm", "--network", network, images.BUSYBOX, "true")

    def run(self, engine: Engine) -> None:
        for network in NETWORKS:
            with engine.measure() as meter:
                words = ("run", "--rm", "--network", network, images.BUSYBOX, "true")
                client, _ = run_client(self.settings, engine, *words)
            self.samples.add_cost(f"cli_run_{network}", engine.name, meter, client_cpu_s=client)


class ApiCycle(Scenario):
    """create, start, wait, remove over one connection."""

    name = "api_cycle"
    repeats = 3

    def run(self, engine: Engine) -> None:
        with engine.connect() as connection:
            for network in NETWORKS:
                for _ in range(self.repeats):
                    self._cycle(engine, connection, network)

    def _cycle(self, engine: Engine, connection: Connection, network: str) -> None:
        marks = []
        with engine.measure() as meter:
            marks.append(time.perf_counter())
            container = create(connection, ["true"], network)
            marks.append(time.perf_counter())
            connection.call("POST", f"/v1.41/containers/{container}/start")
            marks.append(time.perf_counter())
            status = connection.call("POST", f"/v1.41/containers/{container}/wait")["StatusCode"]
            marks.append(time.perf_counter())
            connection.call("DELETE", f"/v1.41/containers/{container}")
            marks.append(time.perf_counter())
        if status != 0:
            raise RuntimeError(f"{engine.name}: true ended with {status}")
        self.samples.add_cost(f"api_{network}", engine.name, meter)
        for verb, began, ended in zip(("create", "start", "wait", "remove"), marks, marks[1:], strict=False):
            self.samples.add(f"api_{network}.{verb}_ms", engine.name, (ended - began) * 1000)


class ApiExec(Scenario):
    """exec of `true` in a running container: create, start attached to its end, inspect."""

    name = "api_exec"
    repeats = 5

    def __init__(self, settings: Settings, samples: Samples) -> None:
        super().__init__(settings, samples)
        self._containers: dict[str, str] = {}

    def run(self, engine: Engine) -> None:
        with engine.connect() as connection:
            container = create(connection, ["sleep", "100000"], "none")
            connection.call("POST", f"/v1.41/containers/{container}/start")
            try:
                for _ in range(self.repeats):
                    self._exec(engine, connection, container)
            finally:
                remove(connection, container)

    def _exec(self, engine: Engine, connection: Connection, container: str) -> None:
        with engine.measure() as meter:
            body = {"Cmd": ["true"], "AttachStdout": True, "AttachStderr": True}
            made = connection.call("POST", f"/v1.41/containers/{container}/exec", body)["Id"]
            with engine.connect() as stream:
                stream.hijack(f"/v1.41/exec/{made}/start", {"Detach": False, "Tty": False})
            status = connection.call("GET", f"/v1.41/exec/{made}/json")["ExitCode"]
        if status != 0:
            raise RuntimeError(f"{engine.name}: exec of true ended with {status}")
        self.samples.add_cost("api_exec", engine.name, meter)


class Crowd(Scenario):
    """Two hundred running containers: rate, memory, listing; then the daemon's start beside them stopped."""

    name = "crowd"
    rounds_max = 1

    def run(self, engine: Engine) -> None:
        settings = self.settings
        add = self.samples.add
        add("pss_0_mb", engine.name, engine.pss_bytes() / 1e6)
        self._start(engine, settings.crowd_first)
        empty, first = engine.pss_bytes(), engine.processes()
        add("pss_50_mb", engine.name, empty / 1e6)
        add("processes_50", engine.name, first)
        self._remove_all(engine)
        base = engine.pss_bytes()
        for label in ("hundred_1", "hundred_2"):
            with engine.measure() as meter:
                self._start(engine, settings.hundred)
            self.samples.add_cost(label, engine.name, meter, per=settings.hundred)
            assert meter.cost is not None
            add(f"{label}.per_s", engine.name, settings.hundred / meter.cost.wall_s)
        crowded = engine.pss_bytes()
        add("pss_200_mb", engine.name, crowded / 1e6)
        add("pss_each_kb", engine.name, (crowded - base) / 1e3 / (2 * settings.hundred))
        for connections in (1, 8):
            rate = list_rate(engine, connections, settings.list_seconds)
            add(f"list_{connections}.per_s", engine.name, rate)
        for _ in range(settings.rounds):
            with engine.measure() as meter:
                client, _ = run_client(settings, engine, "ps")
            self.samples.add_cost("docker_ps", engine.name, meter, client_cpu_s=client)
        self._restart_with_stopped(engine)

    def _start(self, engine: Engine, count: int) -> None:
        def start(connection: Connection, _: Any) -> None:
            container = create(connection, ["sleep", "100000"], "bridge")
            connection.call("POST", f"/v1.41/containers/{container}/start")

        in_parallel(engine, list(range(count)), start)

    def _restart_with_stopped(self, engine: Engine) -> None:
        def kill(connection: Connection, container: str) -> None:
            connection.call("POST", f"/v1.41/containers/{container}/kill")
            connection.call("POST", f"/v1.41/containers/{container}/wait")

        with engine.connect() as connection:
            containers = all_containers(connection)
        in_parallel(engine, containers, kill)
        for _ in range(3):  # the last thing done with an engine: what is left goes with its jail
            engine.stop()
            self.samples.add("start_200_s", engine.name, engine.start())
        with engine.connect() as connection:
            assert len(all_containers(connection)) == len(containers)

    def _remove_all(self, engine: Engine) -> None:
        with engine.connect() as connection:
            containers = all_containers(connection)
        in_parallel(engine, containers, remove)


_LISTER = """
import socket, sys, time
path, seconds = sys.argv[1], float(sys.argv[2])
s = socket.socket(socket.AF_UNIX); s.connect(path)
request = b"GET /v1.41/containers/json HTTP/1.1\\r\\nHost: e\\r\\n\\r\\n"
count, buffer, end = 0, bytearray(1 << 20), time.monotonic() + seconds
while time.monotonic() < end:
    s.sendall(request)
    got = s.recv(1 << 20)
    while b"\\r\\n\\r\\n" not in got: got += s.recv(1 << 20)
    head, _, rest = got.partition(b"\\r\\n\\r\\n")
    assert head.startswith(b"HTTP/1.1 200"), head
    head = head.lower()
    if b"content-length:" in head:
        left = int(head.split(b"content-length:")[1].split(b"\\r\\n")[0]) - len(rest)
        while left > 0: left -= s.recv_into(buffer)
    else:
        tail = rest[-5:]
        while tail != b"0\\r\\n\\r\\n":
            tail = (tail + s.recv(1 << 20))[-5:]
    count += 1
print(count)
"""


def list_rate(engine: Engine, connections: int, seconds: float) -> float:
    """GET /containers/json per second over so many connections, each a process of its own."""
    lister = ["python3", "-I", "-S", "-c", _LISTER, engine.socket, str(seconds)]
    began = time.perf_counter()
    readers = [subprocess.Popen(lister, stdout=subprocess.PIPE) for _ in range(connections)]
    counts = [int(reader.communicate()[0]) for reader in readers]
    return sum(counts) / max(seconds, time.perf_counter() - began)


class Logs(Scenario):
    """A container writes lines as fast as it can; then the client reads them all back."""

    name = "logs"
    rounds_max = 2

    def run(self, engine: Engine) -> None:
        lines = self.settings.log_lines
        line = "x" * (LOG_WIDTH - 1)
        with engine.connect() as connection:
            command = ["sh", "-c", f"yes {line} | head -n {lines}"]
            container = create(connection, command, "none", LogConfig=LOG_OPTIONS)
            try:
                with engine.measure() as meter:
                    connection.call("POST", f"/v1.41/containers/{container}/start")
                    connection.call("POST", f"/v1.41/containers/{container}/wait")
                self.samples.add_cost("log_write", engine.name, meter)
                with engine.measure() as meter:
                    client, size = run_client(self.settings, engine, "logs", container)
                self.samples.add_cost("log_read", engine.name, meter, client_cpu_s=client)
                assert meter.cost is not None
                self.samples.add("log_read.mb_per_s", engine.name, size / 1e6 / meter.cost.wall_s)
            finally:
                remove(connection, container)
        if size != lines * LOG_WIDTH:
            raise RuntimeError(f"{engine.name}: {size} bytes of log read back, {lines * LOG_WIDTH} written")


SCENARIOS: dict[str, type[Scenario]] = {
    kind.name: kind for kind in (ClientRun, ApiCycle, ApiExec, Logs, Load, Pull, Push, Crowd)
}
