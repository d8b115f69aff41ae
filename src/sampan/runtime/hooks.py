"""OCI hooks (runtime-spec config.md, "POSIX-platform Hooks"): programs with the state on their stdin.

Loaded before a container's process is cloned, since the last hooks run inside it. Standard library only.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from typing import IO, Any

Hook = list[Any]
"""[path, args, env, timeout_s (0: none)]."""


class HookFailed(Exception):
    """A hook that decides over the container did not succeed."""


def run(hooks: list[Hook], state: str, outputs: tuple[str, str] = ("", "")) -> None:
    """In order, each waited for. Raises HookFailed at the first that fails or takes too long.

    ``outputs``: files that standard output and error are added to; empty: the caller's own.
    """
    with ExitStack() as opened:
        files = [opened.enter_context(open(path, "ab")) if path else None for path in outputs]
        for path, args, env, timeout_s in hooks:
            _run_one(path, args, env, timeout_s, state, files)


def _run_one(
    path: str,
    args: list[str],
    env: list[str],
    timeout_s: float,
    state: str,
    files: Sequence[IO[bytes] | None],
) -> None:
    environment = dict(entry.partition("=")[::2] for entry in env) if env else None
    try:
        process = subprocess.Popen(
            args or [path],
            executable=path,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=files[0],
            stderr=files[1],
            restore_signals=True,
        )
    except OSError as error:
        raise HookFailed(f"error executing hook {path}: {error.strerror}") from error
    try:
        process.communicate(state.encode(), timeout=timeout_s or None)
    except subprocess.TimeoutExpired as error:
        process.send_signal(signal.SIGKILL)
        process.wait()
        raise HookFailed(f"hook {path} took longer than {timeout_s:g} seconds") from error
    if process.returncode:
        raise HookFailed(f"hook failed with exit code {process.returncode}: {path}")
