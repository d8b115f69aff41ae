"""Medians, ratios and targets as a table for people, and everything as JSON for programs."""

from __future__ import annotations

import json
import os
import platform
from statistics import median

from bench.targets import TARGETS

Values = dict[str, dict[str, list[float]]]
COLUMNS = ("floor", "sampan", "docker", "podman")
PEERS = ("docker", "podman")
REGISTRY = "docker-registry"
"""Its figures stand in Docker's columns: it is measured where engines are not."""


def _number(value: float) -> str:
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _cell(values: dict[str, list[float]], engine: str) -> str:
    samples = _of(values, engine)
    return _number(median(samples)) if samples else "-"


def _of(values: dict[str, list[float]], engine: str) -> list[float] | None:
    return values.get(engine) or (values.get(REGISTRY) if engine == "docker" else None)


def _ratio(values: dict[str, list[float]], peer: str) -> str:
    """How many times the peer's figure is Sampan's."""
    own, theirs = values.get("sampan"), _of(values, peer)
    if not own or not theirs or not median(own):
        return "-"
    return _number(median(theirs) / median(own))


def _verdict(metric: str, values: Values) -> str:
    words = []
    for target in TARGETS:
        if target.metric == metric:
            state = {True: "yes", False: "NO", None: "?"}[target.reached(values)]
            words.append(f"{target.text()}: {state}")
    return "; ".join(words)


def table(values: Values) -> str:
    """One row per metric, in the order they were measured, as a Markdown table."""
    rows = [["metric", *COLUMNS, "docker/sampan", "podman/sampan", "target: reached"]]
    for metric, by_engine in values.items():
        if metric.endswith(".machine_ms"):  # a coarse cross-check, for the JSON
            continue
        cells = [_cell(by_engine, engine) for engine in COLUMNS]
        ratios = [_ratio(by_engine, peer) for peer in PEERS]
        rows.append([metric, *cells, *ratios, _verdict(metric, values)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for number, row in enumerate(rows):
        padded = [
            cell.ljust(width) if i in (0, 7) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("| " + " | ".join(padded) + " |")
        if number == 0:
            lines.append("|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def machine() -> dict[str, str | int | float]:
    """What the figures were measured on."""
    return {
        "kernel": platform.release(),
        "cpus": os.cpu_count() or 0,
        "load": os.getloadavg()[0],
        "cgroup": 2 if os.path.exists("/sys/fs/cgroup/cgroup.controllers") else 1,
    }


def document(values: Values, versions: dict[str, str], rounds: int) -> str:
    medians = {
        metric: {name: median(samples) for name, samples in row.items()} for metric, row in values.items()
    }
    body = {
        "machine": machine(),
        "versions": versions,
        "rounds": rounds,
        "medians": medians,
        "samples": values,
    }
    return json.dumps(body, indent=1)


def missed(values: Values) -> list[str]:
    """Targets that this run shows as not reached."""
    return [f"{target.metric} {target.text()}" for target in TARGETS if target.reached(values) is False]
