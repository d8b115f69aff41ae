"""The unmodified Compose of two generations: 1.29, written in Python, and 2, written in Go."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from bench import peers
from tests.support.docker import Result, find_client


def find_compose(generation: int) -> Path | None:
    """Installed, or unpacked by bench/peers.py; one that does not run here is none."""
    for program in (peers.find_tool("docker-compose"), peers.find_sid_tool("docker-compose")):
        if program is not None and _generation(program) == generation:
            return program
    return None


def _generation(program: Path) -> int:
    """0 when it does not run: a script's Python or a library is missing."""
    command, environment = [str(program), "version"], environment_of(program)
    try:
        ended = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=30, check=False
        )
    except OSError:
        return 0
    found = re.search(r"version v?(\d+)\.", ended.stdout)
    return int(found[1]) if found and ended.returncode == 0 else 0


def environment_of(program: Path) -> dict[str, str]:
    own = {
        "PATH": f"{os.path.dirname(find_client())}:{os.environ['PATH']}",  # 1.29 runs the client
        "HOME": "/nonexistent",
        "DOCKER_CONFIG": "/nonexistent",
    }
    if peers.cache_dir() in program.parents and "PYTHONPATH" in peers.tool_environment(program):
        own["PYTHONPATH"] = peers.tool_environment(program)["PYTHONPATH"]
    return own


class Compose:
    """``compose("up", "-d")`` for one project; raises AssertionError unless it ends with ``code``."""

    def __init__(self, generation: int, host: str, folder: Path, project: str) -> None:
        """``folder`` has the docker-compose.yml. Skips the test without the program."""
        program = find_compose(generation)
        if program is None:
            pytest.skip(f"Compose {generation} is neither installed nor unpacked: python -m bench.peers")
        self._words = [str(program), "-p", project]
        self._folder = folder
        self._environment = {**environment_of(program), "DOCKER_HOST": host}

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
