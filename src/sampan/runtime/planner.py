"""The plan of a start: from an OCI specification to the list of operations that the sandbox carries out.

Pure: what it must know of the host is in :class:`Host`. ``sampan debug explain`` prints its answer in the
words of :mod:`.explanation`.
"""

from __future__ import annotations

import os
import resource
import stat
from typing import Any

import msgspec

from sampan.base.errors import InvalidArgument
from sampan.kernel import capabilities
from sampan.kernel import mount as mnt
from sampan.kernel import process as proc
from sampan.kernel.cgroup.layout import Layout
from sampan.model.launch import ExecRequest, Interface, LaunchRequest, Stdio
from sampan.model.oci import Device, Linux, OCIMount, Process, Resources, RuntimeSpec

from . import cgroups, mountoptions
from .sandbox import Operation

Program = dict[str, Any]
"""What crosses to the monitor, by marshal: plain lists, strings, numbers and bytes."""

_DEFAULT_DEVICES = (
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/tty", 5, 0),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
)
"""Every container has them (runtime-spec config-linux.md, "Default Devices")."""

_DEVICE_LINKS = (
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
)

_DEVICE_TYPES = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}

_EXEC_NAMESPACES = [
    ["user", proc.CLONE_NEWUSER],
    ["cgroup", proc.CLONE_NEWCGROUP],
    ["ipc", proc.CLONE_NEWIPC],
    ["uts", proc.CLONE_NEWUTS],
    ["net", proc.CLONE_NEWNET],
    ["time", proc.CLONE_NEWTIME],
    ["mnt", proc.CLONE_NEWNS],
]
"""In the order of joining; the pid namespace is the monitor's part, since only children enter it."""


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """What a plan depends on besides the request."""

    layout: Layout
    last_capability: int


def plan_launch(request: LaunchRequest, host: Host) -> Program:
    """A container's init. Raises InvalidArgument for a specification that can never be started."""
    spec = request.spec
    process = _require_process(spec.process)
    linux = spec.linux
    group = cgroups.plan_cgroup(host.layout, linux.cgroups_path, linux.resources or Resources())
    flags, joins = _namespaces(linux)
    unified = host.layout.version == 2
    id_maps = _id_maps(linux) if flags & proc.CLONE_NEWUSER else []
    # What the new process can do itself it does: its memory is gone with execve, the monitor's stays.
    # Root of a user namespace has no say over the host's groups and links, and on v2 the process is best
    # cloned into its group; then the monitor does it before.
    by_monitor = unified or bool(id_maps)
    operations: list[Operation] = [["session"]]
    if not by_monitor:
        operations.append(["create-cgroup", group.steps])
    if not unified:
        operations.append(["enter-cgroup", group.enter])
    if request.links and not id_maps:
        flags &= ~proc.CLONE_NEWNET
        operations += _link_operations(request)
    if flags & proc.CLONE_NEWCGROUP:
        # only now, so that the group just entered is the root of the new view
        flags &= ~proc.CLONE_NEWCGROUP
        operations.append(["unshare", proc.CLONE_NEWCGROUP])
    if id_maps:
        operations += [["await", "maps"], ["become-root"]]
    operations += [["join", path, kind] for path, kind in joins if kind != proc.CLONE_NEWPID]
    if flags & proc.CLONE_NEWNS:
        operations += _root_operations(request, host)
    if spec.hostname and flags & proc.CLONE_NEWUTS:
        operations.append(["hostname", spec.hostname])
    if spec.domainname and flags & proc.CLONE_NEWUTS:
        operations.append(["domainname", spec.domainname])
    operations += _network_operations(request, bool(flags & proc.CLONE_NEWNET))
    operations += [["sysctl", key, value] for key, value in linux.sysctl.items()]
    if flags & proc.CLONE_NEWNS:
        operations += _last_root_operations(spec, process)
    operations.append(["keyring", request.id])
    operations += _process_operations(process, request.user, request.extra_groups, request.seccomp_bpf, host)
    oom = host.layout.directory("memory", linux.cgroups_path) if "memory" in _memory_hosts(host) else ""
    return {
        "run_dir": request.run_dir,
        "cgroup_steps": group.steps if by_monitor else [],
        "cgroup_dirs": group.dirs,
        "cgroup_into": group.dirs[0] if unified else "",
        "oom_path": oom + ("/memory.events" if unified else "/memory.oom_control") if oom else "",
        "parent_namespaces": [list(join) for join in joins if join[1] == proc.CLONE_NEWPID],
        "time_offsets": _time_offsets(linux),
        "clone_flags": flags & ~proc.CLONE_NEWTIME,
        "id_maps": id_maps,
        "links": [_link(link) for link in request.links] if id_maps else [],
        "operations": operations,
        **_stdio(request.stdio, process),
    }


def plan_exec(request: ExecRequest, host: Host) -> Program:
    """One more process in the namespaces and groups of a running container."""
    process = _require_process(request.process)
    operations: list[Operation] = [["session"]]
    if request.cgroups_path:
        operations.append(["enter-cgroup", cgroups.enter_files(host.layout, request.cgroups_path), True])
    operations.append(["join-process", request.container_pid, _EXEC_NAMESPACES])
    if request.stdio.tty:
        operations.append(["terminal", request.stdio.console_height, request.stdio.console_width])
    operations.append(["keyring", request.id])
    operations += _process_operations(process, request.user, request.extra_groups, request.seccomp_bpf, host)
    return {
        "run_dir": request.run_dir,
        "cgroup_steps": [],
        "cgroup_dirs": [],
        "cgroup_into": "",
        "oom_path": "",
        "parent_namespaces": [[f"/proc/{request.container_pid}/ns/pid", proc.CLONE_NEWPID]],
        "time_offsets": "",
        "clone_flags": 0,
        "id_maps": [],
        "links": [],
        "operations": operations,
        **_stdio(request.stdio, process),
    }


def _require_process(process: Process | None) -> Process:
    if process is None or not process.args:
        raise InvalidArgument("no command specified")
    if not process.cwd.startswith("/"):
        raise InvalidArgument(
            f"the working directory '{process.cwd}' is invalid, it needs to be an absolute path"
        )
    return process


def _memory_hosts(host: Host) -> set[str]:
    return {"memory"} if host.layout.version == 2 or "memory" in host.layout.mounts else set()


# --- namespaces -------------------------------------------------------------------------------------------


def _namespaces(linux: Linux) -> tuple[int, list[tuple[str, int]]]:
    """Flags of the new ones and files of those to join; a user namespace is joined first."""
    flags = 0
    joins: list[tuple[str, int]] = []
    for namespace in linux.namespaces:
        kind = proc.NAMESPACE_FLAGS.get(namespace.type)
        if kind is None:
            raise InvalidArgument(f"unknown namespace type {namespace.type!r}")
        if namespace.path:
            joins.append((namespace.path, kind))
        else:
            flags |= kind
    joins.sort(key=lambda join: join[1] != proc.CLONE_NEWUSER)
    return flags, joins


def _id_maps(linux: Linux) -> list[list[str]]:
    def lines(mappings: list[Any]) -> str:
        return "".join(f"{m.container_id} {m.host_id} {m.size}\n" for m in mappings)

    return [["uid_map", lines(linux.uid_mappings)], ["gid_map", lines(linux.gid_mappings)]]


def _time_offsets(linux: Linux) -> str:
    if not any(namespace.type == "time" and not namespace.path for namespace in linux.namespaces):
        return ""
    offsets = linux.time_offsets or {"monotonic": {}}
    return "".join(
        f"{clock} {value.get('secs', 0)} {value.get('nanosecs', 0)}\n" for clock, value in offsets.items()
    )


def _link_operations(request: LaunchRequest) -> list[Operation]:
    operations: list[Operation] = [["links", [_link(link) for link in request.links]]]
    for link in request.links:
        # the host's /proc/sys shows the network namespace of whoever looks
        operations += [["sysctl", key, value] for key, value in link.sysctls]
    if request.resolver:
        operations.append(["resolver", request.resolver, request.id])
    return operations


def _network_operations(request: LaunchRequest, own_namespace: bool) -> list[Operation]:
    if not own_namespace:
        return []
    if not request.links:
        return [["loopback"]]
    return [
        ["await", "links"],
        *(["rename", k.host_name, k.container_name] for k in request.links if k.kind != "veth"),
        *(["network", k.container_name, k.addresses, k.gateway4, k.gateway6] for k in request.links),
    ]


def _link(link: Interface) -> list[Any]:
    """How it is made, how it is configured inside, and how fast it may be."""
    return [
        link.kind,
        link.parent,
        link.host_name,
        link.container_name,
        link.mac,
        link.mtu,
        link.mode,
        link.addresses,
        link.gateway4,
        link.gateway6,
        link.receive_limit,
        link.send_limit,
    ]


# --- root and mounts --------------------------------------------------------------------------------------


def _root_operations(request: LaunchRequest, host: Host) -> list[Operation]:
    spec = request.spec
    linux = spec.linux
    spread = mountoptions.PROPAGATION.get(linux.rootfs_propagation, mnt.MS_PRIVATE | mnt.MS_REC)
    if spread & mnt.MS_SHARED:
        # a shared tree would carry our own mounts to the host; a shared bind is cloned over there instead
        spread = mnt.MS_SLAVE
    operations: list[Operation] = [["propagation", spread | mnt.MS_REC]]
    if request.root is not None:
        overlay = request.root
        operations.append(
            ["overlay", overlay.lower, overlay.upper, overlay.work, overlay.options, request.run_dir]
        )
    else:
        if spec.root is None:
            raise InvalidArgument("the specification has no root")
        operations.append(["bind-root", spec.root.path, mnt.MS_PRIVATE])
    has_dev = False
    for entry in spec.mounts:
        operations += _mount_operations(entry, request, host)
        if entry.destination.rstrip("/") == "/dev" and entry.type == "tmpfs":
            has_dev = True
            operations += _device_operations(linux.devices)
    if not has_dev:
        operations += _device_operations(linux.devices)
    if spec.process is not None and spec.process.terminal:
        stdio = request.stdio
        operations.append(["console", stdio.console_height, stdio.console_width])
    return operations


def _last_root_operations(spec: RuntimeSpec, process: Process) -> list[Operation]:
    linux, root = spec.linux, spec.root
    operations: list[Operation] = [["read-only", path] for path in linux.readonly_paths]
    operations += [["mask", path] for path in linux.masked_paths]
    read_only = bool(root and root.readonly)
    if read_only:
        # an image's WORKDIR may not be there yet
        operations.append(["directory", process.cwd, 0o755])
    operations.append(["pivot", read_only, mountoptions.PROPAGATION.get(linux.rootfs_propagation, 0)])
    return operations


def _mount_operations(entry: OCIMount, request: LaunchRequest, host: Host) -> list[Operation]:
    options = mountoptions.decode(entry.options)
    if entry.type == "cgroup":
        return _cgroup_mounts(entry, options, request.spec, host)
    if entry.type == "bind" or options.bind:
        recursive = bool(options.flags & mnt.MS_REC)
        namespace, source = _bind_source(entry.source, options, request)
        add, clear = options.add | options.deep_add, options.clear | options.deep_clear
        deep = bool(options.deep_add or options.deep_clear)
        return [["bind", source, entry.destination, recursive, add, clear, options.spread, deep, namespace]]
    flags = options.flags & ~mnt.MS_REC
    return [["mount", entry.source, entry.destination, entry.type, flags, options.data, options.spread]]


def _bind_source(source: str, options: mountoptions.MountOptions, request: LaunchRequest) -> tuple[str, str]:
    """The mount namespace to clone a bind's source in ("" is the new one), and its path there."""
    parts = source.split("/", 4)
    if len(parts) == 5 and parts[1] == "proc" and parts[3] == "root":
        # a path of another container: only its own mount namespace can clone it
        return f"/proc/{parts[2]}/ns/mnt", f"/{parts[4]}"
    if len(parts) == 5 and parts[1] == "proc" and parts[3] == "fd":
        # what another process has opened can be cloned in the mount namespace it was opened in
        return f"/proc/{parts[2]}/ns/mnt", source
    holds_root = request.root is not None and f"{request.run_dir}/".startswith(f"{source.rstrip('/')}/")
    in_user_namespace = any(one.type == "user" for one in request.spec.linux.namespaces)
    holds_root = holds_root and bool(options.flags & mnt.MS_REC) and not in_user_namespace
    if options.spread & mnt.MS_SHARED or holds_root:
        # a peer of the host's mount is cloned where it is one; and a tree that holds the place where this
        # container's own root is being put together is cloned without it
        return f"/proc/{os.getpid()}/ns/mnt", source
    return "", source


def _cgroup_mounts(
    entry: OCIMount, options: mountoptions.MountOptions, spec: RuntimeSpec, host: Host
) -> list[Operation]:
    """The container's own groups below /sys/fs/cgroup: on v2 one mount, on v1 one for each hierarchy."""
    linux = spec.linux
    private = any(n.type == "cgroup" and not n.path for n in linux.namespaces)
    target = entry.destination
    flags = options.flags & ~mnt.MS_REC
    if host.layout.version == 2:
        if private:
            return [["mount", "cgroup", target, "cgroup2", flags, "", 0]]
        source = host.layout.directory("", linux.cgroups_path)
        return [["bind", source, target, True, options.add, options.clear, 0, False]]
    group = cgroups.plan_cgroup(host.layout, linux.cgroups_path, linux.resources or Resources())
    binds: list[list[str]] = []
    links: list[list[str]] = []
    seen: set[str] = set()
    for controller, point in host.layout.mounts.items():
        name = os.path.basename(point)
        if point + linux.cgroups_path not in group.dirs:
            continue  # the container has no group in this hierarchy
        if point not in seen:
            seen.add(point)
            binds.append([point + linux.cgroups_path, name])
        if controller != name:
            links.append([name, controller])
    writable = flags & ~mnt.MS_RDONLY
    return [
        ["mount", "tmpfs", target, "tmpfs", writable, "mode=755", 0],
        ["cgroup-views", target, binds, links, options.add],
    ]


def _device_operations(devices: list[Device]) -> list[Operation]:
    given = {device.path for device in devices}
    nodes: list[list[Any]] = [
        [path, stat.S_IFCHR | 0o666, major, minor, 0, 0]
        for path, major, minor in _DEFAULT_DEVICES
        if path not in given
    ]
    for device in devices:
        kind = _DEVICE_TYPES.get(device.type)
        if kind is None:
            raise InvalidArgument(f"unknown type {device.type!r} of device {device.path}")
        mode = kind | (0o666 if device.file_mode is None else device.file_mode & 0o7777)
        nodes.append([device.path, mode, device.major, device.minor, device.uid or 0, device.gid or 0])
    links = [*_DEVICE_LINKS, ("pts/ptmx", "/dev/ptmx")]
    return [["devices", nodes], ["symlinks", [list(link) for link in links]]]


# --- the process ------------------------------------------------------------------------------------------


def _process_operations(
    process: Process, user: str | None, extra_groups: list[str], bpf: bytes, host: Host
) -> list[Operation]:
    operations: list[Operation] = []
    for limit in process.rlimits:
        kind = getattr(resource, limit.type, None)
        if kind is None:
            raise InvalidArgument(f"unknown rlimit {limit.type}")
        operations.append(["rlimit", kind, _limit(limit.soft), _limit(limit.hard)])
    if process.oom_score_adj is not None:
        operations.append(["oom-score", process.oom_score_adj])
    if process.apparmor_profile:
        operations.append(["apparmor", process.apparmor_profile])
    who = process.user
    operations += [
        ["user", user, extra_groups, who.uid, who.gid, who.additional_gids],
        ["working-directory", process.cwd],
        ["credentials", _capability_masks(process), host.last_capability, process.no_new_privileges, bpf],
        ["execute", process.args, process.env, process.cwd, 0o022 if who.umask is None else who.umask],
    ]
    return operations


def _limit(value: int) -> int:
    """-1 and Go's unsigned forms of it are RLIM_INFINITY."""
    return -1 if value < 0 or value >= 2**63 - 1 else value


def _capability_masks(process: Process) -> dict[str, int]:
    sets = process.capabilities
    if sets is None:
        return {}
    mask = capabilities.mask
    return {
        "bounding": mask(sets.bounding),
        "effective": mask(sets.effective),
        "permitted": mask(sets.permitted),
        "inheritable": mask(sets.inheritable),
        "ambient": mask(sets.ambient),
    }


def _stdio(stdio: Stdio, process: Process) -> dict[str, Any]:
    return {
        "tty": process.terminal or stdio.tty,
        "open_stdin": stdio.open_stdin,
        "stdin_once": stdio.stdin_once,
        "log": None if stdio.log is None else msgspec.structs.asdict(stdio.log),
    }
