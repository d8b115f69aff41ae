"""sampan stats: one sample per container and second, shown in place."""

from __future__ import annotations

import sys

from sampan.cli import table
from sampan.cli.failure import Failure, Refused
from sampan.cli.options import BOOL, Command, Option, Values
from sampan.cli.session import Session, is_terminal
from sampan.cli.table import Column, View
from sampan.cli.units import binary_size, human_size, short_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Sample = dict[str, Any]

_HOME = "\x1b[H"
_ERASE_LINE = "\x1b[K"
_ERASE_BELOW = "\x1b[J"
_NONE = "--"


def _cpu_percent(sample: Sample) -> float:
    now, before = sample["cpu_stats"], sample.get("precpu_stats") or {}
    used = now["cpu_usage"]["total_usage"] - (before.get("cpu_usage") or {}).get("total_usage", 0)
    passed = now.get("system_cpu_usage", 0) - before.get("system_cpu_usage", 0)
    count = now.get("online_cpus") or len(now["cpu_usage"].get("percpu_usage") or ())
    return used / passed * count * 100.0 if used > 0 and passed > 0 else 0.0


def _memory(sample: Sample) -> int:
    """What is used without what the kernel can drop at once: inactive file pages, cgroup v1 and v2."""
    memory = sample.get("memory_stats") or {}
    usage: int = memory.get("usage") or 0
    stats = memory.get("stats") or {}
    for name in ("total_inactive_file", "inactive_file"):
        if name in stats and stats[name] < usage:
            return int(usage - stats[name])
    return usage


def _memory_percent(sample: Sample) -> float:
    limit = (sample.get("memory_stats") or {}).get("limit") or 0
    return _memory(sample) / limit * 100.0 if limit else 0.0


def _network(sample: Sample) -> str:
    networks = (sample.get("networks") or {}).values()
    received = sum(network["rx_bytes"] for network in networks)
    sent = sum(network["tx_bytes"] for network in networks)
    return f"{human_size(received, 3)} / {human_size(sent, 3)}"


def _blocks(sample: Sample) -> str:
    entries = (sample.get("blkio_stats") or {}).get("io_service_bytes_recursive") or ()
    read = sum(entry["value"] for entry in entries if entry["op"][:1] in ("r", "R"))
    written = sum(entry["value"] for entry in entries if entry["op"][:1] in ("w", "W"))
    return f"{human_size(read, 3)} / {human_size(written, 3)}"


def _is_empty(sample: Sample) -> bool:
    return not (sample.get("memory_stats") or {}).get("usage") and not sample.get("pids_stats")


def _or_none(cell: Any) -> Any:
    return lambda sample, _: _NONE if _is_empty(sample) else cell(sample)


def _memory_text(sample: Sample) -> str:
    return f"{binary_size(_memory(sample))} / {binary_size((sample['memory_stats']).get('limit') or 0)}"


SAMPLES = View(
    {
        "Container": Column("CONTAINER", lambda sample, _: sample["container"]),
        "ID": Column("CONTAINER ID", lambda sample, short: short_id(sample["id"]) if short else sample["id"]),
        "Name": Column("NAME", lambda sample, _: sample["name"].removeprefix("/") or _NONE),
        "CPUPerc": Column("CPU %", _or_none(lambda sample: f"{_cpu_percent(sample):.2f}%")),
        "MemUsage": Column("MEM USAGE / LIMIT", _or_none(_memory_text)),
        "MemPerc": Column("MEM %", _or_none(lambda sample: f"{_memory_percent(sample):.2f}%")),
        "NetIO": Column("NET I/O", _or_none(_network)),
        "BlockIO": Column("BLOCK I/O", _or_none(_blocks)),
        "PIDs": Column("PIDS", _or_none(lambda sample: str((sample["pids_stats"] or {}).get("current", 0)))),
    },
    ("ID", "Name", "CPUPerc", "MemUsage", "MemPerc", "NetIO", "BlockIO", "PIDs"),
)


class _Board:
    """The newest sample of each container that is being watched."""

    def __init__(self, session: Session, names: list[str], *, everything: bool) -> None:
        self._session = session
        self._names = names
        self._everything = everything

    def names(self) -> list[str]:
        if self._names:
            return self._names
        query = [("all", "1")] if self._everything else []
        return [item["Id"] for item in self._session.client.call("GET", "/containers/json", query)]

    def samples(self) -> list[Sample]:
        """One of each, all asked for together, since each takes the daemon a second."""
        from threading import Thread

        names = self.names()
        found: dict[str, Sample] = {}
        problems: list[Failure] = []

        def ask(name: str) -> None:
            try:
                sample = self._session.another_client().call(
                    "GET", f"/containers/{name}/stats", (("stream", "0"),)
                )
                found[name] = {"container": name if self._names else short_id(name), **sample}
            except Refused as refused:
                if refused.code != 404 or self._names:  # else: removed since it was listed
                    problems.append(refused)
            except Failure as failure:
                problems.append(failure)

        threads = [Thread(target=ask, args=(name,), daemon=True) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if problems:
            raise problems[0]
        return [found[name] for name in names if name in found]


def stats(session: Session, values: Values, words: list[str]) -> int:
    board = _Board(session, words, everything=values.flag("all"))
    source = table.wanted_format(values.text("format"), values.flag("json"))
    truncate = not values.flag("no-trunc")
    if values.flag("no-stream"):
        table.write(SAMPLES, board.samples(), source, truncate=truncate)
        return 0
    in_place = is_terminal(1) and source in ("", "table")
    if in_place:
        sys.stdout.write(_HOME + _ERASE_BELOW)
        sys.stdout.write(table.align([[SAMPLES.columns[name].header for name in SAMPLES.default]]))
        sys.stdout.flush()
    while True:
        samples = board.samples()
        if in_place:
            sys.stdout.write(_screen(samples, truncate))
        else:
            table.write(SAMPLES, samples, source, truncate=truncate)
        sys.stdout.flush()
        if not samples:
            import time

            time.sleep(1)


def _screen(samples: list[Sample], truncate: bool) -> str:
    columns = [SAMPLES.columns[name] for name in SAMPLES.default]
    rows = [[column.header for column in columns]]
    rows += [[str(column.cell(sample, truncate)) for column in columns] for sample in samples]
    return _HOME + table.align(rows).replace("\n", _ERASE_LINE + "\n") + _ERASE_BELOW


STATS = Command(
    "stats",
    "[OPTIONS] [CONTAINER...]",
    "Display what containers use, live",
    stats,
    (
        Option("all", "a", BOOL, "Show all containers (default shows just running)"),
        *table.FORMAT_OPTIONS,
        Option("no-stream", "", BOOL, "One sample, then end"),
        table.NO_TRUNC,
    ),
    complete="container",
)
