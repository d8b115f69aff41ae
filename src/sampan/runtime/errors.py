"""Why a process could not be started."""

from __future__ import annotations

from sampan.base.errors import SampanError


class StartFailed(SampanError):
    """The process was never execve'd. ``exit_code`` is 127 (no such command), 126 (it cannot be run) or
    125 (anything that is not the command's own fault)."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class MonitorLost(StartFailed):
    """The monitor was killed while it started the process, and cleaned up nothing."""


class SpawnerLost(SampanError):
    """The spawner died; a new one is started with the next launch. The request can be repeated."""
