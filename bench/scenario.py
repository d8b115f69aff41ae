"""What all scenarios have in common: settings, samples, the docker client."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from bench.engines import Engine, Meter
from bench.hub import Hub

LOG_LINES = 1_000_000


@dataclass
class Settings:
    """What the command line chose, for every scenario."""

    client: str
    archives: Path
    hub: Hub
    rounds: int = 7
    hundred: int = 100
    crowd_first: int = 50
    log_lines: int = LOG_LINES
    list_seconds: float = 3.0


@dataclass
class Samples:
    """Metric name to engine name to the values of each round."""

    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def add(self, metric: str, engine: str, value: float) -> None:
        self.values.setdefault(metric, {}).setdefault(engine, []).append(value)

    def add_cost(self, metric: str, engine: str, meter: Meter, per: int = 1, client_cpu_s: float = 0) -> None:
        """Wall, engine CPU, the same with the client's, and the machine's busy time, all in ms."""
        cost = meter.cost
        assert cost is not None
        self.add(f"{metric}.wall_ms", engine, cost.wall_s * 1000 / per)
        self.add(f"{metric}.cpu_ms", engine, cost.cpu_s * 1000 / per)
        if client_cpu_s:
            self.add(f"{metric}.total_cpu_ms", engine, (cost.cpu_s + client_cpu_s) * 1000 / per)
        self.add(f"{metric}.machine_ms", engine, cost.machine_s * 1000 / per)

    def keep_lowest(self, metric: str, engine: str) -> None:
        """Of each figure of metric."""
        for name, by_engine in self.values.items():
            if name.startswith(f"{metric}.") and engine in by_engine:
                by_engine[engine] = [min(by_engine[engine])]


class Scenario:
    """Subclasses set name and implement run; rounds_max bounds what one run would make too long."""

    name = ""
    rounds_max = 1000

    def __init__(self, settings: Settings, samples: Samples) -> None:
        self.settings = settings
        self.samples = samples

    def prepare(self, engine: Engine) -> None:
        """Outside the measurement, once per engine."""

    def floor(self) -> None:
        """Before each round: measure what no engine can be faster than, where there is such a thing."""

    def run(self, engine: Engine) -> None:
        """One round on one engine."""
        raise NotImplementedError

    def end(self) -> None:
        """After the last round, also of a scenario that failed."""


def run_client(settings: Settings, engine: Engine, *words: str) -> tuple[float, int]:
    """The docker client: its CPU seconds and the bytes it wrote. Raises RuntimeError when it fails."""
    environment = {"PATH": os.environ["PATH"], "DOCKER_CONFIG": "/nonexistent", "HOME": "/nonexistent"}
    process = subprocess.Popen(
        [settings.client, "-H", f"unix://{engine.socket}", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=environment,
    )
    assert process.stdout is not None
    count = 0
    while chunk := process.stdout.read1(1 << 20):  # type: ignore[attr-defined]
        count += len(chunk)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stdout.close()
    if process.returncode != 0:
        raise RuntimeError(f"docker {' '.join(words)} on {engine.name}: exit code {process.returncode}")
    return usage.ru_utime + usage.ru_stime, count
