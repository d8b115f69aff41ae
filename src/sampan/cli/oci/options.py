"""Command lines as runc and crun spell them."""

from __future__ import annotations

import argparse
import os

import msgspec

import sampan


class GlobalOptions(msgspec.Struct, frozen=True, kw_only=True):
    root: str
    log: str = ""
    log_format: str = "text"
    debug: bool = False
    cgroup_manager: str = "cgroupfs"
    """cgroupfs, systemd (its names, without systemd's help) or disabled."""

    @property
    def systemd(self) -> bool:
        return self.cgroup_manager == "systemd"


class CreateOptions(msgspec.Struct, frozen=True, kw_only=True):
    bundle: str = "."
    config: str = "config.json"
    console_socket: str = ""
    pid_file: str = ""
    preserve_fds: int = 0
    no_new_keyring: bool = False
    detach: bool = False
    keep: bool = False


def default_root() -> str:
    if os.getuid() == 0:
        return "/run/sampan-oci"
    return os.path.join(os.environ.get("XDG_RUNTIME_DIR", "/tmp"), "sampan-oci")


def parser() -> argparse.ArgumentParser:
    """All commands; each command's arguments are grouped in a function of its own below."""
    top = argparse.ArgumentParser(prog="sampan-oci", description="Start containers from OCI bundles.")
    top.add_argument(
        "--version",
        action="version",
        version=f"sampan-oci version {sampan.__version__}\nspec: 1.2.0\n+SECCOMP +CAP +CGROUPFS",
    )
    top.add_argument("--root", default=default_root(), help="where the state of containers is kept")
    top.add_argument("--log", default="", help="file for error messages")
    top.add_argument("--log-format", choices=("text", "json"), default="text")
    top.add_argument("--log-level", default="error")
    top.add_argument("--debug", action="store_true")
    top.add_argument("--cgroup-manager", default="cgroupfs", choices=("cgroupfs", "systemd", "disabled"))
    top.add_argument("--systemd-cgroup", action="store_true")
    top.add_argument("--rootless", default="auto", help=argparse.SUPPRESS)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_create(commands.add_parser("create", help="make a container, without starting its command"))
    run = commands.add_parser("run", help="create, start, wait for and delete a container")
    _add_create(run)
    run.add_argument("--detach", "-d", action="store_true")
    run.add_argument("--keep", action="store_true", help="do not delete the container when it has ended")
    for name, text in (
        ("start", "start the command of a created container"),
        ("state", "print the state as JSON"),
        ("pause", "freeze every process of the container"),
        ("resume", "let them run again"),
    ):
        commands.add_parser(name, help=text).add_argument("id")
    _add_kill(commands.add_parser("kill", help="send a signal (default SIGTERM)"))
    _add_delete(commands.add_parser("delete", help="remove what is left of a container"))
    _add_exec(commands.add_parser("exec", help="run one more process in a container"))
    _add_update(commands.add_parser("update", help="change the limits of a container"))
    _add_reports(commands)
    return top


_Parser = argparse.ArgumentParser


def _add_create(command: _Parser) -> None:
    command.add_argument("id")
    command.add_argument("--bundle", "-b", default=".")
    command.add_argument("--config", "-f", default="config.json")
    command.add_argument("--console-socket", default="")
    command.add_argument("--pid-file", default="")
    command.add_argument("--preserve-fds", type=int, default=0)
    command.add_argument("--no-new-keyring", action="store_true")
    command.add_argument("--no-pivot", action="store_true", help="accepted; pivot_root is always used")
    command.add_argument("--no-subreaper", action="store_true", help=argparse.SUPPRESS)


def _add_kill(command: _Parser) -> None:
    command.add_argument("id")
    command.add_argument("signal", nargs="?", default="SIGTERM")
    command.add_argument("--all", "-a", action="store_true")
    command.add_argument("--regex", "-r", action="store_true")


def _add_delete(command: _Parser) -> None:
    command.add_argument("id")
    command.add_argument("--force", "-f", action="store_true")
    command.add_argument("--regex", "-r", action="store_true", help="the id is a regular expression")


def _add_exec(command: _Parser) -> None:
    command.add_argument("--process", "-p", default="", help="file with the process as JSON")
    command.add_argument("--tty", "-t", action="store_true")
    command.add_argument("--user", "-u", default="")
    command.add_argument("--additional-gids", "-g", action="append", type=int, default=[])
    command.add_argument("--cwd", default="")
    command.add_argument("--env", "-e", action="append", default=[])
    command.add_argument("--cap", "-c", action="append", default=[])
    command.add_argument("--no-new-privs", action="store_true")
    command.add_argument("--apparmor", default="")
    command.add_argument("--process-label", default="")
    command.add_argument("--detach", "-d", action="store_true")
    command.add_argument("--console-socket", default="")
    command.add_argument("--pid-file", default="")
    command.add_argument("--preserve-fds", type=int, default=0)
    command.add_argument("--cgroup", default="", help="group below the container's")
    command.add_argument("--ignore-paused", action="store_true")
    command.add_argument("--no-subreaper", action="store_true", help=argparse.SUPPRESS)
    command.add_argument("id")
    command.add_argument("args", nargs=argparse.REMAINDER)


UPDATE_FLAGS = {
    "blkio-weight": ("blockIO", "weight"),
    "cpu-period": ("cpu", "period"),
    "cpu-quota": ("cpu", "quota"),
    "cpu-rt-period": ("cpu", "realtimePeriod"),
    "cpu-rt-runtime": ("cpu", "realtimeRuntime"),
    "cpu-share": ("cpu", "shares"),
    "cpuset-cpus": ("cpu", "cpus"),
    "cpuset-mems": ("cpu", "mems"),
    "kernel-memory": ("memory", "kernel"),
    "kernel-memory-tcp": ("memory", "kernelTCP"),
    "memory": ("memory", "limit"),
    "memory-reservation": ("memory", "reservation"),
    "memory-swap": ("memory", "swap"),
    "pids-limit": ("pids", "limit"),
}
"""Flag: where its value goes in OCI's resources."""


def _add_update(command: _Parser) -> None:
    command.add_argument("id")
    command.add_argument("--resources", "-r", default="", help="file with the limits as JSON, - for stdin")
    for flag in UPDATE_FLAGS:
        text = flag.startswith("cpuset")
        command.add_argument(f"--{flag}", type=str if text else int, default=None)


def _add_reports(commands: argparse._SubParsersAction[_Parser]) -> None:
    listing = commands.add_parser("list", help="containers below --root")
    listing.add_argument("--quiet", "-q", action="store_true")
    listing.add_argument("--format", "-f", choices=("table", "json"), default="table")
    processes = commands.add_parser("ps", help="processes of a container")
    processes.add_argument("id")
    processes.add_argument("--format", "-f", choices=("table", "json"), default="table")
    events = commands.add_parser("events", help="statistics of a container as JSON")
    events.add_argument("id")
    events.add_argument("--stats", action="store_true", help="once")
    events.add_argument("--interval", default="5s")
    commands.add_parser("features", help="what this runtime can do, as JSON")
    specification = commands.add_parser("spec", help="write a config.json to begin with")
    specification.add_argument("--bundle", "-b", default=".")
    specification.add_argument("--config", "-f", default="config.json")
    specification.add_argument("--rootless", action="store_true")
