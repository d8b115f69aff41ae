"""The unmodified Compose of two generations: 1.29, written in Python, and 2, written in Go."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from bench import peers
from tests.support.docker import Result, find_client


def find_compose(generation: int) -> Path | None:
    """Installed, or unpacked by bench/peers.py."""
    found = (peers.find_tool("docker-compose"), peers.find_sid_tool("docker-compose"))
    return next((program for program in found if program and _generation(program) == generation), None)


def _generation(program: Path) -> int:
    """1 for a script, 2 for a program of its own."""
    with program.open("rb") as file:
        return 1 if file.read(2) == b"#!" else 2


class Compose:
    """``compose("up", "-d")`` for one project; raises AssertionError unless it ends with ``code``."""

    def __init__(self, generation: int, host: str, folder: Path, project: str) -> None:
        """``folder`` has the docker-compose.yml. Skips the test without the program."""
        program = find_compose(generation)
        if program is None:
            pytest.skip(f"Compose {generation} is neither installed nor unpacked: python -m bench.peers")
        self._words = [str(program), "-p", project]
        self._folder = folder
        self._environment = {
            "PATH": f"{os.path.dirname(find_client())}:{os.environ['PATH']}",  # 1.29 runs the client
            "HOME": "/nonexistent",
            "DOCKER_CONFIG": "/nonexistent",
            "DOCKER_HOST": host,
        }
        if peers.cache_dir() in program.parents:
            environment = peers.tool_environment(program)
            self._environment |= {key: environment[key] for key in ("PYTHONPATH",) if key in environment}

    def __call__(self, *words: str, code: int | None = 0) -> Result:
        ended = subprocess.run(
            [*self._words, *words],
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=self._environment,
            timeout=120,
            check=False,
        )
        result = Result(words, ended.returncode, ended.stdout, ended.stderr)
        assert code is None or result.code == code, str(result)
        return result
