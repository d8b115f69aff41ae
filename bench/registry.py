"""Our registry beside Debian's docker-registry: pushes, eight pulls at once, and a large catalogue.

`python -m bench --only registry` and `python -m bench.registry` are the same. Both servers are processes of
their own on loopback ports with folders on the same disk; clients are processes that read and throw away.
CPU is the server's alone, from /proc/PID/stat, without what the kernel does for a socket in other processes.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.synchronize import Event
from pathlib import Path

from bench import peers, report
from bench.scenario import Samples

CLIENTS = 8
LAYERS = 4
LAYER_BYTES = 64 << 20
REPOSITORIES = 1000
TAGS_EACH = 100
PAGES = 200
"""Asked for to measure one: the books count CPU in hundredths of a second."""
_REPOSITORY = "bench/large"
_INDEX = "application/vnd.oci.image.index.v1+json"
_PIECE = 1 << 20
_SETTINGS = """version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {folder}}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""


class Server:
    """A registry while it is measured."""

    def __init__(self, name: str, command: Sequence[str], port: int, log: Path) -> None:
        self.name = name
        self.port = port
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [*command], stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        self._wait()

    def _wait(self, timeout_s: float = 20) -> None:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except ConnectionRefusedError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise SystemExit(f"{self.name} does not start") from None
                time.sleep(0.02)

    def cpu_s(self) -> float:
        """Of all its threads, in user and kernel mode."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def peak_mb(self) -> float:
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.split("VmHWM:", 1)[1].split()[0]) / 1024

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=30)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(name: str, work: Path) -> Server:
    """`sampan` or `docker-registry`, with an empty folder below ``work``."""
    port, folder = _free_port(), work / name
    folder.mkdir()
    if name == "sampan":
        command = [sys.executable, "-m", "sampan.daemon.registry", "--listen", f"127.0.0.1:{port}"]
        command += ["--root", str(folder / "root"), "--admin-socket", str(folder / "admin.sock")]
        command += ["--log-level", "error"]
    else:
        settings = folder / "config.yml"
        settings.write_text(_SETTINGS.format(folder=folder / "storage", port=port))
        command = [str(peers.ensure_tool("docker-registry")), "serve", str(settings)]
    return Server(name, command, port, folder / "log")


def _call(
    connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None = None, kind: str = ""
) -> http.client.HTTPResponse:
    connection.request(method, path, body, {"Content-Type": kind} if kind else {})
    answer = connection.getresponse()
    answer.read()
    if answer.status >= 300:
        raise SystemExit(f"{method} {path}: {answer.status}")
    return answer


def push(server: Server, layers: Sequence[bytes]) -> list[str]:
    """Each in a session of its own, over one connection; the digests."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    digests = []
    for layer in layers:
        digest = "sha256:" + hashlib.sha256(layer).hexdigest()
        place = _call(connection, "POST", f"/v2/{_REPOSITORY}/blobs/uploads/").headers["Location"]
        path = "/" + place.split("/", 3)[3] if "://" in place else place
        path += ("&" if "?" in path else "?") + f"digest={digest}"
        _call(connection, "PUT", path, layer, "application/octet-stream")
        digests.append(digest)
    connection.close()
    return digests


def _pull(port: int, digests: Sequence[str], go: Event) -> None:
    """One client, without an HTTP library: it should cost as little as can be."""
    buffer = bytearray(_PIECE)
    connection = socket.create_connection(("127.0.0.1", port))
    go.wait()
    for digest in digests:
        request = f"GET /v2/{_REPOSITORY}/blobs/{digest} HTTP/1.1\r\nHost: bench\r\n\r\n"
        connection.sendall(request.encode())
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(4096)
        fields, _, rest = head.partition(b"\r\n\r\n")
        lengths = [line for line in fields.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        left = int(lengths[0].partition(b":")[2]) - len(rest)
        while left:
            count = connection.recv_into(buffer, min(left, _PIECE))
            if not count:
                raise SystemExit("the answer was cut short")
            left -= count


def pull(server: Server, digests: Sequence[str]) -> float:
    """Seconds until all clients have everything."""
    context = multiprocessing.get_context("fork")
    go = context.Event()
    clients = [context.Process(target=_pull, args=(server.port, digests, go)) for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    time.sleep(0.3)  # connected and waiting; what is measured begins with the event
    began = time.perf_counter()
    go.set()
    for client in clients:
        client.join()
    took = time.perf_counter() - began
    if any(client.exitcode for client in clients):
        raise SystemExit(f"{server.name}: a pull failed")
    return took


def _fill_catalog(server: Server, repositories: int) -> None:
    """Each with an index of its own under TAGS_EACH tags."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    tags = "&".join(f"tag=1.{number}.0" for number in range(TAGS_EACH))
    for number in range(repositories):
        index = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": [], "annotations": {"n": f"{number}"}}
        body = json.dumps(index).encode()
        digest = "sha256:" + hashlib.sha256(body).hexdigest()
        _call(connection, "PUT", f"/v2/team/{number:04}/manifests/{digest}?{tags}", body, _INDEX)
    connection.close()


def _list(server: Server, path: str) -> float:
    """CPU milliseconds for one page."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    _call(connection, "GET", path)
    began = server.cpu_s()
    for _ in range(PAGES):
        _call(connection, "GET", path)
    connection.close()
    return (server.cpu_s() - began) * 1000 / PAGES


def _transfers(samples: Samples, servers: Sequence[Server], rounds: int, layers: Sequence[bytes]) -> None:
    size = sum(len(layer) for layer in layers)
    digests: list[str] = []
    for server in servers:
        cpu_s, began = server.cpu_s(), time.perf_counter()
        digests = push(server, layers)
        samples.add("registry_push.mb_per_s", server.name, size / 1e6 / (time.perf_counter() - began))
        samples.add("registry_push.cpu_ms", server.name, (server.cpu_s() - cpu_s) * 1000)
    for number in range(rounds):
        turn = number % len(servers)
        for server in [*servers[turn:], *servers[:turn]]:
            cpu_s = server.cpu_s()
            took = pull(server, digests)
            samples.add("registry_pull_8.mb_per_s", server.name, CLIENTS * size / 1e6 / took)
            samples.add("registry_pull_8.cpu_ms", server.name, (server.cpu_s() - cpu_s) * 1000)
    for server in servers:
        samples.add("registry_peak_mb", server.name, server.peak_mb())


def measure(samples: Samples, rounds: int, *, smoke: bool = False) -> None:
    """Everything, into ``samples``; ``smoke``: small, and without the peer."""
    layers = [os.urandom(1 << 20 if smoke else LAYER_BYTES) for _ in range(LAYERS)]
    names = ["sampan"] if smoke else ["sampan", "docker-registry"]
    servers: list[Server] = []
    with tempfile.TemporaryDirectory(prefix="registry-", dir=peers.cache_dir()) as folder:
        try:
            servers.extend(start(name, Path(folder)) for name in names)
            _transfers(samples, servers, rounds, layers)
            # tags by the hundred in one push are what the peer does not have
            _fill_catalog(servers[0], 10 if smoke else REPOSITORIES)
            samples.add("registry_catalog.cpu_ms", "sampan", _list(servers[0], "/v2/_catalog"))
            samples.add("registry_tags.cpu_ms", "sampan", _list(servers[0], "/v2/team/0001/tags/list"))
        finally:
            for server in servers:
                server.close()


if __name__ == "__main__":
    peers.cache_dir().mkdir(parents=True, exist_ok=True)
    measured = Samples()
    measure(measured, 5)
    print(report.table(measured.values))
