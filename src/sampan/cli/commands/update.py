"""sampan update."""

from __future__ import annotations

from sampan.cli import runvalues
from sampan.cli.failure import Failure
from sampan.cli.options import INT, STRING, Command, Option, Values
from sampan.cli.session import Session
from sampan.cli.units import parse_size

_NUMBERS = {
    "blkio-weight": "BlkioWeight",
    "cpu-period": "CpuPeriod",
    "cpu-quota": "CpuQuota",
    "cpu-rt-period": "CpuRealtimePeriod",
    "cpu-rt-runtime": "CpuRealtimeRuntime",
    "cpu-shares": "CpuShares",
    "memory": "Memory",
    "memory-reservation": "MemoryReservation",
    "memory-swap": "MemorySwap",
    "cpus": "NanoCpus",
    "pids-limit": "PidsLimit",
}
_TEXTS = {"cpuset-cpus": "CpusetCpus", "cpuset-mems": "CpusetMems"}


def update(session: Session, values: Values, words: list[str]) -> int:
    body: dict[str, object] = {
        field: values.number(name) for name, field in _NUMBERS.items() if values.given(name)
    }
    body.update({field: values.text(name) for name, field in _TEXTS.items() if values.given(name)})
    if values.text("restart"):
        name, _, count = values.text("restart").partition(":")
        if count and not count.isdigit():
            raise Failure("invalid restart policy format: maximum retry count must be an integer")
        body["RestartPolicy"] = {"Name": name, "MaximumRetryCount": int(count or 0)}
    if not body:
        raise Failure(
            f"'sampan update' needs an option that says what to change (see 'sampan {values.command} --help')"
        )
    status = 0
    for container in words:
        try:
            answer = session.client.call("POST", f"/containers/{container}/update", (), body)
        except Failure as failure:
            session.warn(failure.message)
            status = 1
            continue
        print(container)
        for warning in (answer or {}).get("Warnings") or ():
            session.warn(warning)
    return status


UPDATE = Command(
    "update",
    "[OPTIONS] CONTAINER [CONTAINER...]",
    "Update the configuration of one or more containers",
    update,
    (
        Option("blkio-weight", "", "uint16", "Block I/O weight, 10 to 1000", check=runvalues.unsigned(16)),
        Option("cpu-period", "", INT, "Period of the CPU quota in microseconds"),
        Option("cpu-quota", "", INT, "CPU time in each period in microseconds"),
        Option("cpu-rt-period", "", INT, "Real-time period in microseconds"),
        Option("cpu-rt-runtime", "", INT, "Real-time runtime in microseconds"),
        Option("cpu-shares", "c", INT, "CPU shares (relative weight)"),
        Option("cpus", "", "decimal", "Number of CPUs", check=runvalues.cpus),
        Option("cpuset-cpus", "", STRING, "CPUs to run on (0-3, 0,1)"),
        Option("cpuset-mems", "", STRING, "Memory nodes to use (0-3, 0,1)"),
        Option("memory", "m", "bytes", "Memory limit", check=parse_size),
        Option("memory-reservation", "", "bytes", "Memory soft limit", check=parse_size),
        Option(
            "memory-swap", "", "bytes", "Memory plus swap, -1 for unlimited swap", check=runvalues.swap_size
        ),
        Option("pids-limit", "", INT, "Number of processes, -1 for unlimited"),
        Option("restart", "", STRING, "When to start again: no, always, unless-stopped, on-failure[:N]"),
    ),
    minimum=1,
    complete="container",
)
