"""Named points at which a test can make the process die, to prove that a restart finds nothing half done.

In production :func:`crash_point` compares one module attribute with None. A test starts the daemon with
``SAMPAN_CRASH_AT=container.start.launched`` (or ``name:3`` for the third pass) and the process kills
itself there with SIGKILL: no ``finally``, no ``atexit``, nothing flushed, as with a power cut.
"""

from __future__ import annotations

import os
import signal

VARIABLE = "SAMPAN_CRASH_AT"


class CrashPlan:
    """Which point kills the process, and at which pass."""

    def __init__(self, text: str) -> None:
        name, _, count = text.partition(":")
        self.name = name
        self.passes_left = int(count) if count else 1

    def hit(self, name: str) -> bool:
        """True when this pass is the one to die at."""
        if name != self.name:
            return False
        self.passes_left -= 1
        return self.passes_left == 0


def _from_environment() -> CrashPlan | None:
    text = os.environ.get(VARIABLE, "")
    return CrashPlan(text) if text else None


_plan = _from_environment()


def crash_point(name: str) -> None:
    """Die here if a test asked for it. Names are ``<noun>.<verb>.<step just done>``."""
    if _plan is not None and _plan.hit(name):
        os.kill(os.getpid(), signal.SIGKILL)
