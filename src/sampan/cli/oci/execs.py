"""One more process in a running container."""

from __future__ import annotations

import argparse
import os
import signal

import msgspec

from sampan.kernel import capabilities
from sampan.kernel.cgroup import steps as cgroup
from sampan.model.launch import ExecRequest, Stdio
from sampan.model.oci import CapabilitySets, Linux, Process, RuntimeSpec, User
from sampan.runtime import direct, planner, scheduling

from . import bundle as bundles
from .errors import InvalidBundle, WrongState
from .filters import compile_spec
from .lifecycle import Containers, write_pid
from .terminal import Proxy, send_to_console


def run(containers: Containers, arguments: argparse.Namespace) -> int:
    """The exit code of the command, or 0 when detached. Raises WrongState, InvalidBundle, ProcessFailed."""
    record = containers.store.require(arguments.id)
    status = containers.store.status(record, containers.layout)
    if status == "paused" and not arguments.ignore_paused:
        raise WrongState("cannot exec in a paused container")
    if status not in ("running", "paused"):
        raise WrongState(f"the container {arguments.id!r} is not running: {status}")
    spec = bundles.parse(containers.store.spec_text(arguments.id))
    process = _process(spec, arguments)
    path = record.cgroups_path
    if path and arguments.cgroup:
        path = _sub_group(containers, path, arguments.cgroup)
    request = ExecRequest(
        id=arguments.id,
        run_dir=containers.store.directory(arguments.id),
        container_pid=record.pid,
        process=process,
        stdio=Stdio(tty=process.terminal),
        cgroups_path=path,
        seccomp_bpf=compile_spec(spec),
        user=None,
    )
    host = planner.Host(layout=containers.layout, last_capability=capabilities.last_capability())
    program = planner.plan_exec(request, host)
    additions = direct.Additions()
    additions.preserved_fds = arguments.preserve_fds
    additions.process = scheduling.operations(process, Linux())
    child = direct.spawn(program, direct.extend(program["operations"], additions), None)
    if arguments.pid_file:
        write_pid(arguments.pid_file, child.pid)
    if child.master_fd >= 0 and arguments.console_socket:
        send_to_console(arguments.console_socket, child.master_fd)
    if arguments.detach:
        return 0
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, lambda got, _: signal.pidfd_send_signal(child.pidfd, got))
    if child.master_fd >= 0 and not arguments.console_socket:
        with Proxy(child.master_fd) as proxy:
            proxy.run(child.pidfd)
    return direct.exit_code(child.pid)


def _process(spec: RuntimeSpec, arguments: argparse.Namespace) -> Process:
    if arguments.process:
        return _from_file(arguments.process)
    command = arguments.args[1:] if arguments.args[:1] == ["--"] else arguments.args
    if not command:
        raise InvalidBundle("no command given; usage: sampan-oci exec [OPTION...] CONTAINER cmd")
    base = spec.process or Process()
    process = msgspec.structs.replace(
        base,
        args=command,
        terminal=arguments.tty,
        cwd=arguments.cwd or base.cwd,
        env=[*base.env, *arguments.env],
        no_new_privileges=base.no_new_privileges or arguments.no_new_privs,
        apparmor_profile=arguments.apparmor or base.apparmor_profile,
        selinux_label=arguments.process_label or base.selinux_label,
    )
    if arguments.user or arguments.additional_gids:
        process = msgspec.structs.replace(process, user=_user(base.user, arguments))
    if arguments.cap and base.capabilities is not None:
        process = msgspec.structs.replace(
            process, capabilities=_with_capabilities(base.capabilities, arguments.cap)
        )
    return process


def _from_file(path: str) -> Process:
    try:
        with open(path, "rb") as file:
            return msgspec.convert(bundles.without_nulls(msgspec.json.decode(file.read())), Process)
    except (OSError, msgspec.DecodeError, msgspec.ValidationError) as error:
        raise InvalidBundle(f"cannot read the process from {path}: {error}") from error


def _user(base: User, arguments: argparse.Namespace) -> User:
    uid, colon, gid = arguments.user.partition(":")
    for text in (uid, gid):
        if text and not text.isdigit():
            raise InvalidBundle(f"invalid user {arguments.user!r}: want UID[:GID] as numbers")
    return User(
        uid=int(uid) if uid else base.uid,
        gid=int(gid) if colon and gid else (base.gid if not uid else 0),
        additional_gids=arguments.additional_gids or base.additional_gids,
        umask=base.umask,
    )


def _with_capabilities(base: CapabilitySets, names: list[str]) -> CapabilitySets:
    added = [name if name.startswith("CAP_") else f"CAP_{name}" for name in names]
    bundles.check_capabilities(added)

    def plus(given: list[str]) -> list[str]:
        return list(dict.fromkeys([*given, *added]))

    return CapabilitySets(
        bounding=plus(base.bounding),
        effective=plus(base.effective),
        inheritable=base.inheritable,
        permitted=plus(base.permitted),
        ambient=base.ambient,
    )


def _sub_group(containers: Containers, path: str, below: str) -> str:
    """A group below the container's, made when missing."""
    if ".." in below.split("/"):
        raise InvalidBundle(f"invalid cgroup {below!r}: `..` components are not allowed")
    inner = os.path.normpath("/" + below)
    for directory in containers.layout.directories(path):
        if os.path.isdir(directory):
            cgroup.create([["mkdir", directory + inner]])
            if os.path.exists(directory + inner + "/cpuset.cpus"):
                cgroup.inherit_cpuset(directory + inner)
    return path + inner
