"""The spawner stays small: what it imports is copied, as page tables, into every process it forks."""

import os
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
    assert outside == set()
