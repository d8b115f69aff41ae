"""The registry that every engine pulls from and pushes to: Debian's docker-registry, or ours.

Each engine has a process of it on the loopback address of its own network namespace, where engines speak
plain HTTP without being told to, and a folder of its own. What the registry costs is in no engine's CPU time.

`python -m bench.hub FOLDER NUMBER...` puts large images into the registry of its network namespace.
"""

from __future__ import annotations

import http.client
import subprocess
import sys
import time
from pathlib import Path
from typing import BinaryIO

from bench import images, peers
from bench.engines import Engine

ADDRESS = "127.0.0.1:5000"
KINDS = ("docker-registry", "sampan")
PULLED = f"{ADDRESS}/bench/large"
_REPOSITORY = "bench/large"
_SETTINGS = """version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {folder}}}}}
http: {{addr: "{address}"}}
"""


class Hub:
    """The registries of one run; the folder is removed with it."""

    def __init__(self, folder: Path, kind: str = KINDS[0]) -> None:
        folder.mkdir()
        self._folder = folder
        self._kind = kind
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def ensure_beside(self, engine: Engine, archives: Path, numbers: list[int]) -> None:
        """Serve the large images of these numbers to the engine, as PULLED:number."""
        inside = ["nsenter", f"--net=/proc/{engine.init_pid()}/ns/net"]
        if engine.name not in self._processes:
            folder = self._folder / engine.name
            folder.mkdir()
            with (folder / "log").open("ab") as log:  # every "not there" is an error to it
                self._processes[engine.name] = subprocess.Popen(
                    [*inside, *self._command(folder)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
                )
        words = [str(archives), *map(str, numbers)]
        subprocess.run([*inside, sys.executable, "-m", "bench.hub", *words], check=True)

    def _command(self, folder: Path) -> list[str]:
        if self._kind == "sampan":
            program = Path(sys.executable).with_name("sampan")
            options = ["--root", str(folder / "root"), "--admin-socket", str(folder / "admin.sock")]
            return [str(program), "registry", "serve", "--listen", ADDRESS, *options]
        settings = folder / "config.yml"
        settings.write_text(_SETTINGS.format(folder=folder / "storage", address=ADDRESS))
        return [str(peers.ensure_tool("docker-registry")), "serve", str(settings)]

    def close(self) -> None:
        for process in self._processes.values():
            process.terminate()
            process.wait(timeout=30)
        self._processes.clear()


def _connect(timeout_s: float = 20) -> http.client.HTTPConnection:
    deadline = time.monotonic() + timeout_s
    while True:
        connection = http.client.HTTPConnection(ADDRESS, timeout=120)
        try:
            connection.request("GET", "/v2/")
            connection.getresponse().read()
        except ConnectionError:
            connection.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
            continue
        return connection


def _call(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: bytes | BinaryIO | None = None,
    headers: dict[str, str] | None = None,
) -> http.client.HTTPResponse:
    connection.request(method, path, body, headers or {})
    answer = connection.getresponse()
    answer.read()
    return answer


def _put_blob(connection: http.client.HTTPConnection, digest: str, size: int, body: bytes | BinaryIO) -> None:
    if _call(connection, "HEAD", f"/v2/{_REPOSITORY}/blobs/{digest}").status == 200:
        return
    place = _call(connection, "POST", f"/v2/{_REPOSITORY}/blobs/uploads/").headers["Location"]
    path = "/" + place.split("/", 3)[3] if "://" in place else place
    path += ("&" if "?" in path else "?") + f"digest={digest}"
    answer = _call(connection, "PUT", path, body, {"Content-Length": str(size)})
    if answer.status != 201:
        raise SystemExit(f"the registry refused {digest}: {answer.status}")


def _seed(connection: http.client.HTTPConnection, archives: Path, number: int) -> None:
    image = images.large_blobs(archives, number)
    _put_blob(connection, image.config_digest, len(image.config), image.config)
    with image.layer.open("rb") as source:
        _put_blob(connection, image.layer_digest, image.layer.stat().st_size, source)
    headers = {"Content-Type": images.DOCKER_MANIFEST}
    answer = _call(connection, "PUT", f"/v2/{_REPOSITORY}/manifests/{number}", image.manifest, headers)
    if answer.status != 201:
        raise SystemExit(f"the registry refused the manifest: {answer.status}")


if __name__ == "__main__":
    registry = _connect()
    for word in sys.argv[2:]:
        _seed(registry, Path(sys.argv[1]), int(word))
    registry.close()
