"""The spawner stays small: what it imports is copied, as page tables, into every process it forks."""

import os
import socket
import subprocess
import sys

import sampan

HEAVY = {"typing", "enum", "re", "socket", "signal", "logging", "contextlib", "dataclasses", "asyncio"}


def test_the_spawner_imports_nothing_heavy() -> None:
    source = os.path.dirname(os.path.dirname(sampan.__file__))
    script = (
        f"import sys; sys.path.insert(0, {source!r}); "
        "from sampan.runtime import spawner; print(' '.join(sys.modules))"
    )
    arguments = [sys.executable, "-I", "-S", "-c", script]
    modules = set(subprocess.run(arguments, capture_output=True, text=True, check=True).stdout.split())
    assert "sampan.runtime.monitor" in modules
    assert modules & HEAVY == set()
    outside = {
        name for name in modules if "site-packages" in str(getattr(sys.modules.get(name), "__file__", ""))
    }
    assert outside - {"__main__"} == set()  # __main__ is this test run, not the spawner


def test_nobody_looks_into_what_it_forks() -> None:
    """What it forks runs for a moment with a container's own identity; it must not be dumpable then."""
    source = os.path.dirname(os.path.dirname(sampan.__file__))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    script = (
        f"import sys; sys.path.insert(0, {source!r}); from sampan.runtime import spawner; "
        "from sampan.kernel.syscalls import libc; "
        "spawner.serve = lambda _: (spawner.proc.clone3(0)[0] or print(libc.prctl(3, 0, 0, 0, 0))); "
        f"spawner.main({theirs.fileno()})"
    )
    arguments = [sys.executable, "-I", "-S", "-c", script]
    with ours, theirs:
        ended = subprocess.run(
            arguments, pass_fds=[theirs.fileno()], capture_output=True, text=True, check=True
        )
    assert ended.stdout.split() == ["0"], "PR_GET_DUMPABLE of a fork"
