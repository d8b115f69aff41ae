"""create, start, run, kill, delete, state, pause, resume."""

from __future__ import annotations

import errno
import os
import pwd
import signal
import sys
import time

import msgspec

from sampan.base.clock import format_ns, now_ns
from sampan.kernel import capabilities
from sampan.kernel import process as proc
from sampan.kernel.cgroup import layout
from sampan.kernel.cgroup import steps as cgroup
from sampan.model.launch import LaunchRequest, Stdio
from sampan.model.oci import Hook, Hooks, RuntimeSpec
from sampan.runtime import direct, hooks, planner, scheduling
from sampan.runtime.cgroups import cgroups_of

from . import bundle as bundles
from . import idmaps
from .errors import InvalidBundle, NoSuchContainer, WrongState
from .filters import compile_spec, filter_operations, send_listener
from .options import CreateOptions, GlobalOptions
from .state import Record, Store, start_ticks, state_json
from .terminal import Proxy, send_to_console

_HOOK_NAMES = {
    "prestart": "createRuntime",
    "create_runtime": "createRuntime",
    "create_container": "createContainer",
    "start_container": "startContainer",
    "poststart": "poststart",
    "poststop": "poststop",
}


class Containers:
    """The verbs on whole containers."""

    def __init__(self, options: GlobalOptions) -> None:
        self.options = options
        self.store = Store(options.root)
        self.layout = layout.detect()
        self.groups = cgroups_of(self.layout)

    # --- create and start ---------------------------------------------------------------------------------

    def create(self, container_id: str, options: CreateOptions) -> direct.Child:
        """Everything but the command itself. Returns the process, which waits at its FIFO."""
        bundle = os.path.realpath(options.bundle)
        spec, text = bundles.read(os.path.join(bundle, options.config))
        spec = bundles.complete(spec, bundle, container_id, systemd=self.options.systemd)
        _check_terminal(spec, options)
        self.store.reserve(container_id)
        try:
            os.mkfifo(self.store.fifo(container_id), 0o600)
            return self._create(container_id, bundle, spec, text, options)
        except BaseException:
            self.store.forget(container_id)
            raise

    def _create(
        self, container_id: str, bundle: str, spec: RuntimeSpec, text: bytes, options: CreateOptions
    ) -> direct.Child:
        program = planner.plan_launch(
            LaunchRequest(
                id=container_id,
                run_dir=self.store.directory(container_id),
                spec=spec,
                stdio=_stdio(spec),
                seccomp_bpf=compile_spec(spec),
                user=None,
            ),
            planner.Host(layout=self.layout, last_capability=capabilities.last_capability()),
        )
        _join_before_clone(program)
        grouped = self.options.cgroup_manager != "disabled"
        if not grouped:
            _leave_groups_alone(program)
        record = Record(
            id=container_id,
            pid=0,
            pid_start=0,
            bundle=bundle,
            rootfs=spec.root.path if spec.root else "",
            created=format_ns(now_ns()),
            cgroups_path=spec.linux.cgroups_path if grouped else "",
            cgroup_dirs=program["cgroup_dirs"],
            annotations=spec.annotations,
            owner=pwd.getpwuid(os.getuid()).pw_name,
            external_descriptors=_descriptors(),
        )
        additions = self._additions(spec, record, options)
        create_runtime = additions.hooks.get("createRuntime", [])
        try:
            child = direct.spawn(
                program,
                direct.extend(program["operations"], additions),
                lambda pid: hooks.run(
                    create_runtime, state_json(record, "creating", pid), additions.hook_outputs
                ),
            )
        finally:
            os.close(additions.fifo_fd)
        record = msgspec.structs.replace(record, pid=child.pid, pid_start=start_ticks(child.pid))
        self.store.save(record, text)
        if options.pid_file:
            write_pid(options.pid_file, child.pid)
        if child.master_fd >= 0 and options.console_socket:
            send_to_console(options.console_socket, child.master_fd)
        if child.listener_fd >= 0 and spec.linux.seccomp is not None:
            send_listener(spec.linux.seccomp, child, state_json(record, "creating"))
        return child

    def _additions(self, spec: RuntimeSpec, record: Record, options: CreateOptions) -> direct.Additions:
        additions = direct.Additions()
        additions.hooks = hook_lists(spec.hooks)
        additions.hook_outputs = hook_outputs(spec)
        additions.state = state_json(record, "creating")
        additions.fifo_fd = os.open(self.store.fifo(record.id), os.O_RDWR | os.O_CLOEXEC)
        additions.keyring = not options.no_new_keyring
        additions.preserved_fds = options.preserve_fds + int(os.environ.get("LISTEN_FDS", "0") or 0)
        additions.keep_groups = spec.annotations.get("run.oci.keep_original_groups", "0") != "0"
        additions.binds = idmaps.prepare(spec)
        if spec.process is not None:
            additions.process = scheduling.operations(spec.process, spec.linux)
        additions.process += filter_operations(spec)
        return additions

    def start(self, container_id: str) -> None:
        """Open the FIFO: the process goes on to its command."""
        record = self.store.require(container_id)
        status = self.store.status(record, self.layout)
        if status != "created":
            raise WrongState(f"cannot start a container in the {status} state")
        fifo = self.store.fifo(container_id)
        try:
            descriptor = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            raise WrongState("the container's process ended before its start") from error
        try:
            os.write(descriptor, b"0")
        finally:
            os.close(descriptor)
        os.unlink(fifo)
        spec = bundles.parse(self.store.spec_text(container_id))
        after = hook_lists(spec.hooks).get("poststart", [])
        try:
            hooks.run(after, state_json(record, "running"), hook_outputs(spec))
        except hooks.HookFailed:
            self.delete(container_id, force=True)
            raise

    def run(self, container_id: str, options: CreateOptions) -> int:
        """create, start, wait, delete. Returns the exit code of the command, or 0 when detached."""
        child = self.create(container_id, options)
        try:
            self.start(container_id)
        except BaseException:
            child.kill()
            self.delete(container_id, force=True)
            raise
        if options.detach:
            return 0
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, lambda got, _: signal.pidfd_send_signal(child.pidfd, got))
        if child.master_fd >= 0 and not options.console_socket:
            with Proxy(child.master_fd) as proxy:
                proxy.run(child.pidfd)
        code = direct.exit_code(child.pid)
        if not options.keep:
            self.delete(container_id, force=True)
        return code

    # --- the rest of its life -----------------------------------------------------------------------------

    def state(self, container_id: str) -> str:
        record = self.store.require(container_id)
        return state_json(record, self.store.status(record, self.layout))

    def kill(self, container_id: str, signal_number: int, *, everybody: bool = False) -> None:
        """To the init process, or to every process of the container."""
        record = self.store.require(container_id)
        if everybody and record.cgroups_path:
            for pid in self.groups.processes(record.cgroups_path):
                _signal(pid, signal_number)
            return
        if self.store.status(record, self.layout) == "stopped":
            raise WrongState("container not running")
        pidfd = proc.pidfd_open(record.pid)
        try:
            if start_ticks(record.pid) != record.pid_start:
                raise WrongState("container not running")
            signal.pidfd_send_signal(pidfd, signal_number)
        finally:
            os.close(pidfd)

    def delete(self, container_id: str, *, force: bool = False) -> None:
        """Its processes, groups and state. With ``force`` whatever state it is in, and whether or not."""
        try:
            record = self.store.require(container_id)
        except NoSuchContainer:
            if force:
                return
            raise
        status = self.store.status(record, self.layout)
        if status not in ("stopped", "created") and not force:
            raise WrongState(f"cannot delete container {container_id!r} that is not stopped: {status}")
        if status != "stopped":
            _signal(record.pid, signal.SIGKILL)
            thaw_wherever_it_is(self.layout, record.pid)
        if record.cgroups_path and any(os.path.isdir(path) for path in record.cgroup_dirs):
            self.groups.kill(record.cgroups_path)
        _await_end(record)
        spec = bundles.parse(self.store.spec_text(container_id))
        if record.cgroups_path:
            cgroup.remove(self.layout.directories(record.cgroups_path))
        self.store.forget(container_id)
        for hook in hook_lists(spec.hooks).get("poststop", []):
            try:
                hooks.run([hook], state_json(record, "stopped"), hook_outputs(spec))
            except hooks.HookFailed as error:
                # runtime.md, "Lifecycle" 13: warned of, and the others run all the same
                print(f"warning: poststop {error}", file=sys.stderr)

    def pause(self, container_id: str) -> None:
        record = self._require("pause", container_id, ("running", "created"))
        self.groups.freeze(record.cgroups_path)

    def resume(self, container_id: str) -> None:
        record = self._require("resume", container_id, ("paused",))
        self.groups.thaw(record.cgroups_path)

    def _require(self, verb: str, container_id: str, states: tuple[str, ...]) -> Record:
        record = self.store.require(container_id)
        status = self.store.status(record, self.layout)
        if status not in states:
            raise WrongState(f"cannot {verb} a container in the {status} state")
        if not record.cgroups_path:
            raise WrongState(f"cannot {verb} a container without cgroup")
        return record


def _check_terminal(spec: RuntimeSpec, options: CreateOptions) -> None:
    terminal = bool(spec.process and spec.process.terminal)
    if options.console_socket and not terminal:
        raise InvalidBundle("a console socket needs process.terminal in config.json")
    if terminal and options.detach and not options.console_socket:
        raise InvalidBundle("a detached container with a terminal needs --console-socket")


def _stdio(spec: RuntimeSpec) -> Stdio:
    process = spec.process
    size = process.console_size if process else None
    return Stdio(
        tty=bool(process and process.terminal),
        console_height=size.height if size else 0,
        console_width=size.width if size else 0,
    )


def _join_before_clone(program: planner.Program) -> None:
    """With a user namespace of its own the process has no rights over namespaces that others own: it is
    cloned inside them instead."""
    if not program["id_maps"]:
        return
    joins = [operation for operation in program["operations"] if operation[0] == "join"]
    program["operations"] = [operation for operation in program["operations"] if operation[0] != "join"]
    program["parent_namespaces"] += [[path, kind] for _, path, kind in joins]


def _leave_groups_alone(program: planner.Program) -> None:
    program["operations"] = [
        operation
        for operation in program["operations"]
        if operation[0] not in ("create-cgroup", "enter-cgroup", "cgroup-views")
    ]
    program["cgroup_steps"], program["cgroup_dirs"], program["cgroup_into"] = [], [], ""


def hook_lists(given: Hooks | None) -> dict[str, list[hooks.Hook]]:
    """By the point at which they run; ``prestart`` is the old name of ``createRuntime``."""
    lists: dict[str, list[hooks.Hook]] = {}
    if given is None:
        return lists
    for field, point in _HOOK_NAMES.items():
        entries: list[Hook] = getattr(given, field)
        for entry in entries:
            lists.setdefault(point, []).append([entry.path, entry.args, entry.env, entry.timeout or 0])
    return lists


def hook_outputs(spec: RuntimeSpec) -> tuple[str, str]:
    """Files that crun's annotations name for what hooks print."""
    return (
        spec.annotations.get("run.oci.hooks.stdout", ""),
        spec.annotations.get("run.oci.hooks.stderr", ""),
    )


def thaw_wherever_it_is(host: layout.Layout, pid: int) -> None:
    """v1: a process that somebody moved to a frozen group of their own does not die of SIGKILL."""
    if host.version != 1 or "freezer" not in host.mounts:
        return
    try:
        with open(f"/proc/{pid}/cgroup") as file:
            fields = [line.rstrip("\n").split(":", 2) for line in file]
    except (FileNotFoundError, ProcessLookupError):
        return
    path = next((path for _, names, path in fields if names == "freezer"), "/")
    if path != "/":
        cgroup.write(host.directory("freezer", path) + "/freezer.state", "THAWED")


def _descriptors() -> str:
    names = []
    for number in range(3):
        try:
            names.append(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:
            names.append("/dev/null")
    return msgspec.json.encode(names).decode()


def write_pid(path: str, pid: int) -> None:
    with open(path + ".new", "w") as file:
        file.write(str(pid))
    os.rename(path + ".new", path)


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _await_end(record: Record) -> None:
    """Its namespaces are gone when its init is."""
    deadline = time.monotonic() + 10
    while start_ticks(record.pid) == record.pid_start and record.pid and time.monotonic() < deadline:
        time.sleep(0.001)
