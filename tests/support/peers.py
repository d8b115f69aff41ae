"""Programs of others that images are exchanged with; what is not here is skipped, see bench/peers.py."""

from __future__ import annotations

import json
import re
import subprocess
import time
from pathlib import Path

import pytest
from bench import peers
from tests.support.docker import Result


def require_tool(name: str) -> Path:
    """Skip the test without the program."""
    found = peers.find_tool(name)
    if found is None:
        pytest.skip(f"{name} is neither installed nor unpacked: python -m bench.peers")
    return found


class Skopeo:
    """``skopeo("copy", source, target)``: raises AssertionError unless it ends with ``code``."""

    def __init__(self) -> None:
        self._program = require_tool("skopeo")

    def __call__(self, *words: str, code: int | None = 0) -> Result:
        ended = subprocess.run(
            [self._program, "--insecure-policy", *words],
            env={**peers.tool_environment(self._program), "HOME": "/nonexistent"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        result = Result(words, ended.returncode, ended.stdout, ended.stderr)
        assert code is None or result.code == code, str(result)
        return result

    def copy(self, source: str, target: str, *options: str) -> None:
        """Between registries on the loopback address, daemons, layouts and archives."""
        insecure = ("--src-tls-verify=false", "--dest-tls-verify=false")
        self("copy", *insecure, *options, source, target)

    def manifest(self, source: str) -> bytes:
        """As it is kept there, byte by byte."""
        return self("inspect", "--raw", "--tls-verify=false", source).out.encode()


class DockerRegistry:
    """Debian's registry on the loopback address, as a context manager."""

    def __init__(self, folder: Path) -> None:
        self._program = require_tool("docker-registry")
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.host = ""

    def __enter__(self) -> DockerRegistry:
        settings = self._folder / "config.yml"
        settings.write_text(
            json.dumps(  # which is YAML as well
                {
                    "version": "0.1",
                    "log": {"level": "info"},
                    "storage": {"filesystem": {"rootdirectory": str(self._folder / "storage")}},
                    "http": {"addr": "127.0.0.1:0"},
                }
            )
        )
        with (self._folder / "log").open("wb") as log:
            command = [str(self._program), "serve", str(settings)]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.host = f"127.0.0.1:{self._wait_for_port()}"
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait(timeout=10)

    def _wait_for_port(self, timeout_s: float = 20) -> int:
        """The port that the kernel chose, which the registry writes in its log when it listens."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            found = re.search(r"listening on 127\.0\.0\.1:(\d+)", (self._folder / "log").read_text())
            if found:
                return int(found[1])
            time.sleep(0.02)
        raise AssertionError(f"docker-registry does not start:\n{(self._folder / 'log').read_text()}")
