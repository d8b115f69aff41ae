"""From the command line to the verb, and from what went wrong to a message and an exit status."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
from typing import Any

import msgspec

from sampan.base.clock import format_ns, now_ns
from sampan.base.errors import InvalidArgument, SampanError
from sampan.model.oci import Resources
from sampan.runtime.direct import ProcessFailed
from sampan.runtime.hooks import HookFailed

from . import bundle as bundles
from . import execs, reports
from .lifecycle import Containers
from .options import UPDATE_FLAGS, CreateOptions, GlobalOptions, parser


def main(argv: list[str] | None = None) -> int:
    """The exit status: the command's own for run and exec, else 0 or 1."""
    arguments = parser().parse_args(argv)
    manager = "systemd" if arguments.systemd_cgroup else arguments.cgroup_manager
    options = GlobalOptions(
        root=arguments.root,
        log=arguments.log,
        log_format=arguments.log_format,
        debug=arguments.debug,
        cgroup_manager=manager,
    )
    try:
        _check_log(options.log)
        return COMMANDS[arguments.command](options, arguments)
    except ProcessFailed as error:
        _report(options, error.message)
        return error.exit_code if arguments.command in ("run", "exec") else 1
    except (SampanError, HookFailed) as error:
        _report(options, str(error))
    except ValueError as error:
        _report(options, f"invalid value: {error}")
    except OSError as error:
        about = f"{error.filename}: " if error.filename else ""
        _report(options, f"{about}{error.strerror or error}")
    return 1


def _check_log(log: str) -> None:
    """A path, or ``file:PATH``. Raises InvalidArgument for crun's other kinds, which need other programs."""
    kind, colon, _ = log.partition(":")
    if colon and "/" not in kind and kind != "file":
        raise InvalidArgument(f"unknown log type {kind!r}")


def _report(options: GlobalOptions, message: str) -> None:
    """To the log that the caller reads (containerd, podman), and to standard error."""
    log = options.log.removeprefix("file:")
    if log:
        line = message
        if options.log_format == "json":
            line = json.dumps({"level": "error", "msg": message, "time": format_ns(now_ns())})
        with open(log, "a") as file:
            file.write(line + "\n")
    print(message, file=sys.stderr)


def _create_options(arguments: argparse.Namespace) -> CreateOptions:
    return CreateOptions(
        bundle=arguments.bundle,
        config=arguments.config,
        console_socket=arguments.console_socket,
        pid_file=arguments.pid_file,
        preserve_fds=arguments.preserve_fds,
        no_new_keyring=arguments.no_new_keyring,
        detach=getattr(arguments, "detach", False),
        keep=getattr(arguments, "keep", False),
    )


def _create(options: GlobalOptions, arguments: argparse.Namespace) -> int:
    Containers(options).create(arguments.id, _create_options(arguments))
    return 0


def _run(options: GlobalOptions, arguments: argparse.Namespace) -> int:
    return Containers(options).run(arguments.id, _create_options(arguments))


def _start(options: GlobalOptions, arguments: argparse.Namespace) -> int:
    Containers(options).start(arguments.id)
    return 0


def _state(options: GlobalOptions, arguments: argparse.Namespace) -> int:
    print(Containers(options).state(arguments.id))
    return 0


def _pause(options: GlobalOptions, arguments: argparse.Namespace) -> int:
    Containers(options).pause(arguments.id)
    return 0


def _resume(options: GlobalOptions, arguments: argparse.Namespace) -> int:
    Containers(options).resume(arguments.id)
    return 0


def _matching(containers: Containers, arguments: argparse.Namespace) -> list[str]:
    if not arguments.regex:
        return [arguments.id]
    pattern = re.compile(arguments.id)
    return [container_id for container_id in containers.store.ids() if pattern.search(container_id)]


def _kill(options: GlobalOptions, arguments: argparse.Namespace) -> int:
    containers = Containers(options)
    for container_id in _matching(containers, arguments):
        containers.kill(container_id, _signal_number(arguments.signal), everybody=arguments.all)
    return 0


def _signal_number(text: str) -> int:
    if text.isdigit():
        return int(text)
    name = text.upper()
    try:
        return signal.Signals[name if name.startswith("SIG") else f"SIG{name}"].value
    except KeyError:
        raise InvalidArgument(f"unknown signal {text!r}") from None


def _delete(options: GlobalOptions, arguments: argparse.Namespace) -> int:
    containers = Containers(options)
    for container_id in _matching(containers, arguments):
        containers.delete(container_id, force=arguments.force)
    return 0


def _exec(options: GlobalOptions, arguments: argparse.Namespace) -> int:
    return execs.run(Containers(options), arguments)


def _update(options: GlobalOptions, arguments: argparse.Namespace) -> int:
    containers = Containers(options)
    record = containers.store.require(arguments.id)
    value: dict[str, Any] = {}
    if arguments.resources:
        text = sys.stdin.read() if arguments.resources == "-" else _read(arguments.resources)
        try:
            value = bundles.without_nulls(json.loads(text))
        except ValueError as error:
            raise InvalidArgument(f"cannot parse {arguments.resources}: {error}") from error
    for flag, (section, name) in UPDATE_FLAGS.items():
        given = getattr(arguments, flag.replace("-", "_"))
        if given is not None:
            value.setdefault(section, {})[name] = given
    try:
        resources = msgspec.convert(value, Resources)
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"invalid resources: {error}") from error
    containers.groups.update(record.cgroups_path, resources)
    return 0


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()


def _list(options: GlobalOptions, arguments: argparse.Namespace) -> int:
    as_json = arguments.format == "json"
    text = reports.listing(Containers(options), quiet=arguments.quiet, as_json=as_json)
    if text:
        print(text)
    return 0


def _ps(options: GlobalOptions, arguments: argparse.Namespace) -> int:
    print(reports.processes(Containers(options), arguments.id, as_json=arguments.format == "json"))
    return 0


def _events(options: GlobalOptions, arguments: argparse.Namespace) -> int:
    print(reports.statistics(Containers(options), arguments.id))
    return 0


def _features(_: GlobalOptions, __: argparse.Namespace) -> int:
    print(json.dumps(reports.features(), indent=4))
    return 0


def _spec(_: GlobalOptions, arguments: argparse.Namespace) -> int:
    path = os.path.join(arguments.bundle, arguments.config)
    spec = reports.starting_spec(rootless=arguments.rootless)
    value = {"ociVersion": spec.oci_version, **msgspec.to_builtins(spec)}
    text = msgspec.json.format(msgspec.json.encode(value), indent=4)
    with open(path, "xb") as file:
        file.write(text)
    return 0


COMMANDS = {
    "create": _create,
    "run": _run,
    "start": _start,
    "state": _state,
    "pause": _pause,
    "resume": _resume,
    "kill": _kill,
    "delete": _delete,
    "exec": _exec,
    "update": _update,
    "list": _list,
    "ps": _ps,
    "events": _events,
    "features": _features,
    "spec": _spec,
}
