"""From a container's record to what the runtime starts: the OCI specification that Docker's process sees.

``Specs`` implements the engine's ``SpecSource``. Apart from looking up device numbers for ``--device`` and
its kin it is pure; everything else it needs is in ``SpecSettings``, ``LaunchFacts`` and the record.
"""

from __future__ import annotations

import posixpath

import msgspec

from sampan.base.errors import FailedPrecondition
from sampan.engine.collaborators import LaunchFacts
from sampan.engine.container.views import ExecConfig
from sampan.engine.streams.logsink import log_sink
from sampan.model.container import Container, HostConfig, Ulimit
from sampan.model.launch import ExecRequest, LaunchRequest, OverlayRoot, Stdio
from sampan.model.oci import (
    Box,
    CapabilitySets,
    Device,
    DeviceRule,
    Linux,
    Namespace,
    OCIMount,
    Process,
    Resources,
    Root,
    RuntimeSpec,
)
from sampan.security import capabilities, seccomp
from sampan.store.containers import RunRecord

from . import devices, limits, security_options, sysctls
from .hostfacts import HostFacts
from .rootmounts import container_mounts, rootfs_propagation
from .security_options import SecurityOptions

DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_CGROUP_PARENT = "/docker"
APPARMOR_PROFILE = "docker-default"
INIT_INSIDE = "/sbin/docker-init"

MASKED_PATHS = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
]
"""Places where the kernel tells of the host, or lets it be changed, without asking a namespace."""

READONLY_PATHS = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]


def _allow(major: int, minor: int) -> DeviceRule:
    return DeviceRule(allow=True, type="c", major=major, minor=minor, access="rwm")


DEVICE_RULES = [
    DeviceRule(allow=False, access="rwm"),
    DeviceRule(allow=True, type="c", access="m"),
    DeviceRule(allow=True, type="b", access="m"),
    _allow(1, 3),  # null
    _allow(1, 5),  # zero
    _allow(1, 7),  # full
    _allow(1, 8),  # random
    _allow(1, 9),  # urandom
    _allow(5, 0),  # tty
    _allow(5, 1),  # console
    _allow(5, 2),  # ptmx
    DeviceRule(allow=True, type="c", major=136, access="rwm"),  # pts
]
"""Making a node of any kind is allowed, opening it is not: mknod is how images are unpacked."""


class SpecSettings(msgspec.Struct, frozen=True, kw_only=True):
    """From the daemon's configuration."""

    cgroup_parent: str = DEFAULT_CGROUP_PARENT
    ulimits: list[Ulimit] = []
    init: bool = False
    """Whether containers get an init when they do not say."""
    init_path: str = ""
    """Host path of tini; empty when there is none."""
    no_new_privileges: bool = False
    seccomp_profile: str = ""
    """JSON of the profile for containers that name none; "" for Docker's, ``unconfined`` for none."""


class MissingInit(FailedPrecondition):
    def __init__(self) -> None:
        super().__init__("--init needs docker-init, and no docker-init or tini was found on this host")


class Specs:
    """The engine's source of launch and exec requests."""

    def __init__(self, facts: HostFacts, settings: SpecSettings) -> None:
        self._facts = facts
        self._settings = settings

    def cgroup_path(self, record: Container) -> str:
        parent = record.host.cgroup_parent or self._settings.cgroup_parent
        return posixpath.normpath(f"/{parent}/{record.id}").replace("//", "/")

    def resources(self, host: HostConfig) -> Resources:
        """The limits alone, for ``docker update``: device rules stay as they are."""
        return limits.resources(host, self._facts, [], devices.block_io(host))

    def launch(self, record: Container, facts: LaunchFacts) -> LaunchRequest:
        """Raises InvalidArgument and FailedPrecondition with Docker's texts."""
        host, config = record.host, record.config
        options = security_options.parse(
            host.security_opt, no_new_privileges=self._settings.no_new_privileges
        )
        process = self._process(record, options, facts.link_env)
        found = devices.resolve(host)
        spec = RuntimeSpec(
            process=process,
            root=Root(path="rootfs", readonly=host.readonly_rootfs),
            hostname="" if host.uts_mode == "host" else config.hostname,
            domainname="" if host.uts_mode == "host" else config.domainname,
            mounts=self._mounts(record, facts, options),
            annotations=host.annotations or {},
            linux=self._linux(record, facts, options, found),
        )
        return LaunchRequest(
            id=record.id,
            run_dir=facts.run_dir,
            spec=spec,
            root=OverlayRoot(lower=facts.lower, upper=facts.upper, work=facts.work),
            links=facts.links,
            resolver=facts.resolver,
            stdio=Stdio(
                tty=config.tty,
                open_stdin=config.open_stdin,
                stdin_once=config.stdin_once,
                console_height=host.console_size[0],
                console_width=host.console_size[1],
                log=log_sink(record, facts.log_path),
            ),
            seccomp_bpf=self._seccomp(host, options),
            user=config.user,
            extra_groups=host.group_add or [],
        )

    def exec(
        self, record: Container, config: ExecConfig, *, exec_id: str, run_dir: str, pid: int, run: RunRecord
    ) -> ExecRequest:
        """One more process: the container's environment, limits and confinement, its own command."""
        host = record.host
        options = security_options.parse(
            host.security_opt, no_new_privileges=self._settings.no_new_privileges
        )
        height, width = config.console_size or (0, 0)
        caps = self._capabilities(host, privileged=host.privileged or config.privileged)
        process = Process(
            terminal=config.tty,
            console_size=Box(height=height, width=width) if height or width else None,
            args=config.cmd or [],
            env=environment(record, tty=config.tty, extra=config.env or []),
            cwd=config.working_dir or record.config.working_dir or "/",
            capabilities=caps,
            rlimits=limits.rlimits(host, self._settings.ulimits),
            no_new_privileges=options.no_new_privileges,
            apparmor_profile=self._apparmor(host, options),
            oom_score_adj=host.oom_score_adj,
        )
        return ExecRequest(
            id=exec_id,
            run_dir=run_dir,
            container_pid=pid,
            process=process,
            stdio=Stdio(
                tty=config.tty,
                open_stdin=config.attach_stdin,
                stdin_once=True,
                console_height=height,
                console_width=width,
            ),
            cgroups_path=run.cgroup_path,
            # the container's own filter, even with --privileged, as in Docker
            seccomp_bpf=self._seccomp(host, options),
            user=config.user or record.config.user,
            extra_groups=host.group_add or [],
        )

    def _process(self, record: Container, options: SecurityOptions, link_env: list[str]) -> Process:
        host, config = record.host, record.config
        height, width = host.console_size
        args = [record.path, *record.args]
        if self._wants_init(host):
            args = [INIT_INSIDE, "--", *args]
        return Process(
            terminal=config.tty,
            console_size=Box(height=height, width=width) if height or width else None,
            args=args,
            env=environment(record, tty=config.tty, links=link_env),
            cwd=config.working_dir or "/",
            capabilities=self._capabilities(host, privileged=host.privileged),
            rlimits=limits.rlimits(host, self._settings.ulimits),
            no_new_privileges=options.no_new_privileges,
            apparmor_profile=self._apparmor(host, options),
            oom_score_adj=host.oom_score_adj,
        )

    def _wants_init(self, host: HostConfig) -> bool:
        """Only in a pid namespace of its own: elsewhere somebody else is the init already."""
        wanted = self._settings.init if host.init is None else host.init
        if not wanted or host.pid_mode:
            return False
        if not self._settings.init_path:
            raise MissingInit
        return True

    def _mounts(self, record: Container, facts: LaunchFacts, options: SecurityOptions) -> list[OCIMount]:
        mounts = container_mounts(record, facts, options, recursive_read_only=self._facts.recursive_read_only)
        if self._wants_init(record.host):
            mounts.append(
                OCIMount(
                    destination=INIT_INSIDE,
                    type="bind",
                    source=self._settings.init_path,
                    options=["bind", "ro"],
                )
            )
        return mounts

    def _linux(
        self,
        record: Container,
        facts: LaunchFacts,
        options: SecurityOptions,
        found: devices.ResolvedDevices,
    ) -> Linux:
        host = record.host
        rules = found.rules if host.privileged else [*DEVICE_RULES, *found.rules]
        own_network = host.network_mode != "host" and not host.network_mode.startswith("container:")
        open_paths = host.privileged or options.system_paths_unconfined
        return Linux(
            sysctl={**sysctls.defaults(own_network=own_network), **(host.sysctls or {})},
            resources=limits.resources(host, self._facts, rules, devices.block_io(host)),
            cgroups_path=self.cgroup_path(record),
            namespaces=namespaces(host, facts.joined_pids, self._facts),
            devices=_without_duplicates(found.devices),
            rootfs_propagation=rootfs_propagation(record.mounts),
            masked_paths=_paths(host.masked_paths, MASKED_PATHS, open_paths),
            readonly_paths=_paths(host.readonly_paths, READONLY_PATHS, open_paths),
        )

    def _capabilities(self, host: HostConfig, *, privileged: bool) -> CapabilitySets:
        names = capabilities.effective_set(host.cap_add, host.cap_drop, privileged=privileged)
        return CapabilitySets(bounding=names, effective=names, permitted=names)

    def _apparmor(self, host: HostConfig, options: SecurityOptions) -> str:
        if not self._facts.apparmor:
            return ""
        if options.apparmor:
            return options.apparmor
        return security_options.UNCONFINED if host.privileged else APPARMOR_PROFILE

    def _seccomp(self, host: HostConfig, options: SecurityOptions) -> bytes:
        profile = options.seccomp
        if not profile and not host.privileged:
            profile = self._settings.seccomp_profile or security_options.BUILTIN
        if profile in ("", security_options.UNCONFINED) or not self._facts.seccomp:
            return b""
        names = capabilities.effective_set(host.cap_add, host.cap_drop, privileged=host.privileged)
        return seccomp.filter_for(
            "" if profile == security_options.BUILTIN else profile,
            capabilities=frozenset(names),
            machine=self._facts.machine,
            kernel=self._facts.kernel,
        )


def environment(
    record: Container, *, tty: bool, links: list[str] | None = None, extra: list[str] | None = None
) -> list[str]:
    """PATH, HOSTNAME and TERM, replaced and continued by the links', the container's and the exec's own.

    An entry without ``=`` takes the variable away. HOME is set by the runtime, which looks the user up.
    """
    host = record.config.hostname
    entries = {"PATH": DEFAULT_PATH, "HOSTNAME": f"HOSTNAME={host}"}
    if tty:
        entries["TERM"] = "TERM=xterm"
    for entry in (*(links or ()), *(record.config.env or ()), *(extra or ())):
        name, equals, _ = entry.partition("=")
        if equals:
            entries[name] = entry
        else:
            entries.pop(name, None)
    return list(entries.values())


_JOINED_FILES = {"network": "net", "pid": "pid", "ipc": "ipc"}


def namespaces(host: HostConfig, joined_pids: dict[str, int], facts: HostFacts) -> list[Namespace]:
    """``host`` means no entry, ``container:ID`` the path of the other's, everything else a new one."""
    result = [Namespace(type="mount")]
    for kind, mode in (("network", host.network_mode), ("pid", host.pid_mode), ("ipc", host.ipc_mode)):
        if mode == "host":
            continue
        path = f"/proc/{joined_pids[kind]}/ns/{_JOINED_FILES[kind]}" if kind in joined_pids else ""
        result.append(Namespace(type=kind, path=path))
    if host.uts_mode != "host":
        result.append(Namespace(type="uts"))
    if host.cgroupns_mode == "private" and facts.cgroup_namespaces:
        result.append(Namespace(type="cgroup"))
    return result


def _paths(asked: list[str] | None, default: list[str], open_paths: bool) -> list[str]:
    if asked is not None:
        return asked
    return [] if open_paths else default


def _without_duplicates(found: list[Device]) -> list[Device]:
    """The last mapping of a path wins."""
    return list({device.path: device for device in found}.values())
