"""sampan info and sampan version."""

from __future__ import annotations

import json
import sys

from sampan import __version__
from sampan.cli.failure import Failure, Unreachable
from sampan.cli.http import API_VERSION
from sampan.cli.options import BOOL, STRING, Command, Option, Values
from sampan.cli.session import Session
from sampan.cli.units import binary_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Json = dict[str, Any]


def _client_facts(session: Session) -> Json:
    import platform

    machine = platform.machine()
    return {
        "Version": __version__,
        "ApiVersion": session.client.version,
        "DefaultAPIVersion": API_VERSION,
        "PythonVersion": platform.python_version(),
        "Os": "linux",
        "Arch": {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine),
    }


def _formatted(values: Values, record: Json) -> bool:
    source = "json" if values.flag("json") else values.text("format")
    if not source:
        return False
    if source == "json":
        print(json.dumps(record, ensure_ascii=False, separators=(",", ":")))
        return True
    from sampan.cli.template import Template, TemplateError

    try:
        print(Template(source).render(record))
    except TemplateError as error:
        raise Failure(f"template parsing error: {error}", 64) from None
    return True


def version(session: Session, values: Values, words: list[str]) -> int:
    problem: Unreachable | None = None
    server: Json | None = None
    try:
        server = session.client.call("GET", "/version")
    except Unreachable as failure:
        problem = failure
    client = _client_facts(session)
    if not _formatted(values, {"Client": client, "Server": server}):
        _print_facts("Client", client)
        if server:
            _print_facts("Server", {key: value for key, value in server.items() if isinstance(value, str)})
    if problem:
        raise problem
    return 0


_TITLES = {
    "ApiVersion": "API version",
    "DefaultAPIVersion": "",
    "MinAPIVersion": "Minimum API version",
    "PythonVersion": "Python version",
    "GoVersion": "Go version",
    "GitCommit": "Git commit",
    "BuildTime": "Built",
    "KernelVersion": "Kernel version",
    "Os": "OS",
}


def _print_facts(title: str, facts: Json) -> None:
    print(f"{title}:")
    for key, value in facts.items():
        name = _TITLES.get(key, key)
        if name and value:
            print(f" {name + ':':<21}{value}")
    print()


# Lines of `info`: title, and the field of the answer.
_INFO = (
    ("Containers", "Containers"),
    (" Running", "ContainersRunning"),
    (" Paused", "ContainersPaused"),
    (" Stopped", "ContainersStopped"),
    ("Images", "Images"),
    ("Server Version", "ServerVersion"),
    ("Storage Driver", "Driver"),
    ("Logging Driver", "LoggingDriver"),
    ("Cgroup Driver", "CgroupDriver"),
    ("Cgroup Version", "CgroupVersion"),
    ("Default Runtime", "DefaultRuntime"),
    ("Init Binary", "InitBinary"),
    ("Kernel Version", "KernelVersion"),
    ("Operating System", "OperatingSystem"),
    ("OSType", "OSType"),
    ("Architecture", "Architecture"),
    ("CPUs", "NCPU"),
    ("Total Memory", "MemTotal"),
    ("Name", "Name"),
    ("ID", "ID"),
    ("Docker Root Dir", "DockerRootDir"),
    ("Debug Mode", "Debug"),
    ("Experimental", "ExperimentalBuild"),
    ("Live Restore Enabled", "LiveRestoreEnabled"),
)


def info(session: Session, values: Values, words: list[str]) -> int:
    server = session.client.call("GET", "/info")
    if _formatted(values, {**server, "ClientInfo": _client_facts(session)}):
        return 0
    print("Client:")
    print(f" Version:    {__version__}\n Address:    {session.client.endpoint.address}\n")
    print("Server:")
    for title, key in _INFO:
        if key not in server:
            continue
        value = server[key]
        if key == "MemTotal":
            value = binary_size(value)
        elif isinstance(value, bool):
            value = str(value).lower()
        print(f" {title}: {value}")
        if key == "Driver":
            for name, text in server.get("DriverStatus") or ():
                print(f"  {name}: {text}")
    _print_lists(server)
    sys.stdout.flush()
    for warning in server.get("Warnings") or ():
        session.warn(warning)
    return 0


def _print_lists(server: Json) -> None:
    plugins = server.get("Plugins") or {}
    for kind in ("Volume", "Network", "Log"):
        if plugins.get(kind):
            print(f" {kind} Drivers: {' '.join(plugins[kind])}")
    print(f" Runtimes: {' '.join(server.get('Runtimes') or ())}")
    for option in server.get("SecurityOptions") or ():
        print(f" Security Option: {option.removeprefix('name=')}")
    for label in server.get("Labels") or ():
        print(f" Label: {label}")


_FORMAT = (
    Option("format", "f", STRING, 'Output as "json" or a Go template'),
    Option("json", "", BOOL, "One JSON object"),
)
VERSION = Command(
    "version", "[OPTIONS]", "Show the versions of client and daemon", version, _FORMAT, maximum=0
)
INFO = Command("info", "[OPTIONS]", "Show what the daemon is and has", info, _FORMAT, maximum=0)
