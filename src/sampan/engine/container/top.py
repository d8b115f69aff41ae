"""``top``: the processes of a container as the host's ``ps`` would list them."""

from __future__ import annotations

import asyncio
import os
import pwd
import re
import time

from sampan.base.errors import InvalidArgument, SystemFailure
from sampan.engine.ports import Cgroups

from .ledger import Ledger
from .lifecycle import NotRunning, restarting_conflict
from .registry import Entry
from .views import TopResult

TITLES = ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
"""Of ``ps -ef``."""

_RENAMED_PID = re.compile(r"\s+([^\s]*)=\s*(PID[^\s]*)")
_TICKS = os.sysconf("SC_CLK_TCK")


class Top:
    """The usual columns come from /proc directly; other ``ps`` arguments need the host's ps."""

    def __init__(self, ledger: Ledger, cgroups: Cgroups) -> None:
        self._ledger = ledger
        self._cgroups = cgroups

    async def top(self, entry: Entry, ps_args: str) -> TopResult:
        """Raises NotRunning, Conflict (restarting), InvalidArgument or SystemFailure (ps)."""
        arguments = ps_args or "-ef"
        for name, value in _RENAMED_PID.findall(arguments):
            if name != "pid":
                raise InvalidArgument(f'specifying "{name}={value}" is not allowed')
        if entry.life.phase == "restarting":
            raise restarting_conflict(entry.id)
        if entry.run is None or entry.process is None:
            raise NotRunning(f"container {entry.id} is not running")
        pids = self._cgroups.processes(entry.run.cgroup_path)
        if arguments == "-ef":
            rows = [row for pid in sorted(pids) if (row := process_row(pid, time.time())) is not None]
            result = TopResult(titles=TITLES, processes=rows)
        else:
            result = parse_ps(await _run_ps(arguments.split(" "), pids), pids)
        self._ledger.publish(entry, "top")
        return result


async def _run_ps(arguments: list[str], pids: list[int]) -> str:
    """First restricted to the pids, then, if ps refuses the combination, all of the host's."""
    selection = f"-q{','.join(str(pid) for pid in pids)}"
    error = b""
    for command in ([*arguments, selection], arguments):
        try:
            process = await asyncio.create_subprocess_exec(
                "ps", *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
            )
        except FileNotFoundError:
            raise SystemFailure(
                "ps: executable file not found in $PATH: install procps on the host"
            ) from None
        output, error = await process.communicate()
        if process.returncode == 0:
            return output.decode("utf-8", "replace")
    raise SystemFailure(f"ps: {error.decode('utf-8', 'replace').partition(chr(10))[0]}")


def parse_ps(output: str, pids: list[int]) -> TopResult:
    """The rows of our pids; a row without a pid (a thread under ``m``) belongs to the one above it."""
    lines = output.split("\n")
    titles = lines[0].split()
    if "PID" not in titles:
        raise SystemFailure("Couldn't find PID field in ps output")
    column, wanted = titles.index("PID"), {str(pid) for pid in pids}
    rows: list[list[str]] = []
    inside = False
    for line in lines[1:]:
        fields = line.split(None, len(titles) - 1)
        if len(fields) < len(titles):
            continue
        if fields[column] != "-":
            inside = fields[column] in wanted
        if inside:
            rows.append(fields)
    return TopResult(titles=titles, processes=rows)


def process_row(pid: int, now_s: float) -> list[str] | None:
    """One row of ``ps -ef`` from /proc (proc(5)); None for a process that has just ended."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            stat = file.read()
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            command_line = file.read()
        owner = os.stat(f"/proc/{pid}").st_uid
    except (FileNotFoundError, ProcessLookupError):
        return None
    name = stat[stat.index("(") + 1 : stat.rindex(")")]
    fields = stat[stat.rindex(")") + 2 :].split()  # from field 3 (state) on
    used_s = (int(fields[11]) + int(fields[12])) / _TICKS
    started_s = _boot_time_s(now_s) + int(fields[19]) / _TICKS
    elapsed_s = max(now_s - started_s, 1e-9)
    command = command_line.rstrip(b"\0").replace(b"\0", b" ").decode("utf-8", "replace") or f"[{name}]"
    return [
        _user(owner),
        str(pid),
        fields[1],
        str(min(99, int(used_s * 100 / elapsed_s))),
        _start(started_s, now_s),
        _terminal(int(fields[4])),
        _cpu_time(int(used_s)),
        command,
    ]


def _boot_time_s(now_s: float) -> float:
    return now_s - time.clock_gettime(time.CLOCK_BOOTTIME)


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _start(started_s: float, now_s: float) -> str:
    started, now = time.localtime(started_s), time.localtime(now_s)
    if started.tm_year != now.tm_year:
        return time.strftime("%Y", started)
    return time.strftime("%H:%M" if started.tm_yday == now.tm_yday else "%b%d", started)


def _terminal(number: int) -> str:
    major, minor = os.major(number), os.minor(number)
    if 136 <= major <= 143:  # Documentation/admin-guide/devices.txt: UNIX98 pty slaves
        return f"pts/{(major - 136) * 256 + minor}"
    return f"tty{minor}" if major == 4 else "?"


def _cpu_time(seconds: int) -> str:
    minutes, second = divmod(seconds, 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return f"{f'{days}-' if days else ''}{hour:02}:{minute:02}:{second:02}"
