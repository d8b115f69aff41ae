"""The figures to reach, and whether a run reached them."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Target:
    """Sampan's median of metric compared with that of a peer times factor, or with a constant.

    lower is better unless at_least is set.
    """

    metric: str
    peer: str | None
    factor: float
    at_least: bool = False
    peer_metric: str = ""

    def text(self) -> str:
        sign = "≥" if self.at_least else "≤"
        if self.peer is None:
            return f"{sign} {self.factor:g}"
        what = f" {self.peer_metric}" if self.peer_metric else ""
        if not self.at_least and self.factor < 1:
            return f"{sign} {self.peer}{what} / {1 / self.factor:g}"
        return f"{sign} {self.factor:g} x {self.peer}{what}"

    def reached(self, values: dict[str, dict[str, list[float]]]) -> bool | None:
        """None when a figure is missing from the run."""
        own = values.get(self.metric, {}).get("sampan")
        if not own:
            return None
        bound = self.factor
        if self.peer is not None:
            theirs = values.get(self.peer_metric or self.metric, {}).get(self.peer)
            if not theirs:
                return None
            bound *= median(theirs)
        return median(own) >= bound if self.at_least else median(own) <= bound


TARGETS = (
    Target("cli_run_bridge.wall_ms", "docker", 1 / 5),
    Target("cli_run_bridge.total_cpu_ms", "docker", 1 / 5),
    Target("api_bridge.cpu_ms", "docker", 1 / 12),
    Target("api_bridge.cpu_ms", "podman", 1 / 8),
    Target("api_bridge.wall_ms", "docker", 1 / 10),
    Target("api_bridge.wall_ms", "floor", 2.5),
    Target("hundred_1.per_s", "docker", 12, at_least=True),
    Target("hundred_1.cpu_ms", "docker", 1 / 15),
    Target("hundred_2.cpu_ms", "sampan", 1.1, peer_metric="hundred_1.cpu_ms"),
    Target("api_exec.cpu_ms", "docker", 1 / 8),
    Target("pss_0_mb", None, 70),
    Target("pss_each_kb", None, 716.8),
    Target("list_1.per_s", "docker", 20, at_least=True),
    Target("list_8.per_s", "docker", 20, at_least=True),
    Target("docker_ps.wall_ms", "docker", 1),
    Target("log_write.wall_ms", "podman", 1),
    Target("log_read.mb_per_s", "docker", 10, at_least=True),
    Target("log_read.mb_per_s", "podman", 10, at_least=True),
    Target("start_200_s", "docker", 1 / 2),
    Target("load.cpu_ms", "docker", 1 / 3),
    Target("load.cpu_ms", "podman", 1 / 2),
    Target("load.wall_ms", "floor", 1.5),
    Target("pull.total_cpu_ms", "docker", 1 / 3),
    Target("pull.total_cpu_ms", "podman", 1 / 2),
    Target("pull.wall_ms", "floor", 1.5),
    Target("push.total_cpu_ms", "docker", 1 / 2),
    Target("push_again.cpu_ms", None, 100),
    Target("remove.cpu_ms", "docker", 1 / 3),
    Target("registry_pull_8.mb_per_s", "docker-registry", 0.9, at_least=True),
    Target("registry_catalog.cpu_ms", None, 10),
)
