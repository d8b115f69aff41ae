"""Refuses requests that can never work, in Docker's words; warns of limits this host cannot enforce.

The order of the checks is Docker's, since clients see only the first failure.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator

from sampan.base.errors import InvalidArgument
from sampan.engine.container.signals import parse_signal
from sampan.model.container import ContainerConfig, HealthConfig, HostConfig, RestartPolicy
from sampan.security import capabilities

from . import security_options
from .hostfacts import HostFacts, parse_cpu_list
from .sysctls import check_sysctls

MIN_MEMORY_BYTES = 6 * 1024 * 1024
"""Not the kernel's limit: what a start needs, and a container to be of any use."""
MAX_HOSTNAME_BYTES = 64
BUILT_IN_RUNTIMES = ("runc", "io.containerd.runc.v2", "sampan")
"""All of them are Sampan's own: clients ask for ``runc`` by name."""
MIN_DURATION_NS = 1_000_000


class InvalidSetting(InvalidArgument):
    """A setting out of range, or two that exclude each other."""


class Validator:
    """Callable: ``validate(config, host)`` answers warnings."""

    def __init__(self, facts: HostFacts, runtimes: Iterable[str] = ()) -> None:
        """``runtimes``: names that ``--runtime`` accepts besides the built-in ones."""
        self._facts = facts
        self._runtimes = {*BUILT_IN_RUNTIMES, *runtimes}

    def __call__(self, config: ContainerConfig | None, host: HostConfig) -> list[str]:
        """Raises InvalidSetting, UnknownCapability, InvalidSecurityOption."""
        if config is not None:
            _check_modes(config, host)
        _check_requests(host, self._facts)
        if config is not None:
            _check_config(config)
        _check_host(host)
        self._check_backends(host)
        warnings = list(check_resources(host, self._facts, update=False))
        warnings += _check_platform(config, host, self._facts)
        return warnings

    def _check_backends(self, host: HostConfig) -> None:
        if host.runtime and host.runtime not in self._runtimes:
            raise InvalidSetting(f"unknown or invalid runtime name: {host.runtime}")
        for option in host.storage_opt or ():
            if option == "size":
                raise InvalidSetting(
                    "--storage-opt is supported only for overlay over xfs with 'pquota' mount option"
                )
            raise InvalidSetting(f"Unknown option {option}")

    def update(self, host: HostConfig) -> list[str]:
        """For ``docker update``: resources only."""
        return list(check_resources(host, self._facts, update=True))


# --- conflicts between modes ------------------------------------------------------------------------------


def _check_modes(config: ContainerConfig, host: HostConfig) -> None:
    mode = host.network_mode
    if mode == "container" or mode.startswith("container:"):
        if not mode.partition(":")[2]:
            raise InvalidSetting("invalid network mode: invalid container format container:<name|id>")
        for present, what in (
            (config.hostname, "hostname and the network mode"),
            (
                host.links,
                "container type network can't be used with links. This would result in undefined behavior",
            ),
            (host.dns, "dns and the network mode"),
            (host.extra_hosts, "custom host-to-IP mapping and the network mode"),
            (
                host.port_bindings or host.publish_all_ports,
                "port publishing and the container type network mode",
            ),
            (config.exposed_ports, "port exposing and the container type network mode"),
        ):
            if present:
                raise InvalidSetting(f"conflicting options: {what}")
    if host.uts_mode == "host" and config.hostname:
        raise InvalidSetting("conflicting options: hostname and the UTS mode")
    if mode == "host" and host.links:
        raise InvalidSetting(
            "conflicting options: host type networking can't be used with links. "
            "This would result in undefined behavior"
        )


def _check_requests(host: HostConfig, facts: HostFacts) -> None:
    if host.isolation not in ("", "default"):
        raise InvalidSetting(f"invalid isolation ({host.isolation}): linux only supports 'default'")
    if host.io_maximum_bandwidth:
        raise InvalidSetting("invalid option: QoS maximum bandwidth configuration is not supported on linux")
    if host.io_maximum_iops:
        raise InvalidSetting("invalid option: QoS maximum IOPs configuration is not supported on linux")
    period, runtime = host.cpu_realtime_period, host.cpu_realtime_runtime
    if (period or runtime) and not facts.cpu_realtime:
        raise InvalidSetting("kernel does not support CPU real-time scheduler")
    if period and runtime > period:
        raise InvalidSetting("cpu real-time runtime cannot be higher than cpu real-time period")
    if host.cpu_shares < 0:
        raise InvalidSetting(f"invalid CPU shares ({host.cpu_shares}): value must be a positive integer")


# --- the portable part ------------------------------------------------------------------------------------


def _check_config(config: ContainerConfig) -> None:
    if config.stop_signal:
        parse_signal(config.stop_signal)
    if config.working_dir and not posixpath.isabs(config.working_dir):
        raise InvalidSetting(
            f"the working directory '{config.working_dir}' is invalid, it needs to be an absolute path"
        )
    for entry in config.env or ():
        if not entry.partition("=")[0]:
            raise InvalidSetting(f"invalid environment variable: {entry}")
    if config.healthcheck is not None:
        _check_health(config.healthcheck)


def _check_health(health: HealthConfig) -> None:
    for name, value in (
        ("Interval", health.interval),
        ("Timeout", health.timeout),
        ("StartPeriod", health.start_period),
        ("StartInterval", health.start_interval),
    ):
        if value and value < MIN_DURATION_NS:
            raise InvalidSetting(f"{name} in Healthcheck cannot be less than 1ms")
    if health.retries < 0:
        raise InvalidSetting("Retries in Healthcheck cannot be negative")


# --- the host's part --------------------------------------------------------------------------------------


def check_restart_policy(policy: RestartPolicy) -> None:
    """Raises InvalidSetting."""
    if policy.name in ("always", "unless-stopped", "no") and policy.maximum_retry_count:
        raise InvalidSetting(
            "invalid restart policy: maximum retry count can only be used with 'on-failure'"
            + (" and cannot be negative" if policy.maximum_retry_count < 0 else "")
        )
    if policy.name == "on-failure" and policy.maximum_retry_count < 0:
        raise InvalidSetting("invalid restart policy: maximum retry count cannot be negative")
    if policy.name not in ("", "no", "always", "unless-stopped", "on-failure"):
        raise InvalidSetting(
            f"invalid restart policy: unknown policy '{policy.name}'; "
            "use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
        )


def _check_host(host: HostConfig) -> None:
    policy = host.restart_policy
    if host.auto_remove and policy.name not in ("", "no"):
        raise InvalidSetting("can't create 'AutoRemove' container with restart policy")
    for entry in host.extra_hosts or ():
        name, _, address = entry.replace("=", ":", 1).partition(":")
        if not name or not address:
            raise InvalidSetting(f'bad format for add-host: "{entry}"')
    check_restart_policy(policy)
    for field, names in (("CapAdd", host.cap_add), ("CapDrop", host.cap_drop)):
        try:
            capabilities.normalize(names)
        except capabilities.UnknownCapability as error:
            raise InvalidSetting(f"invalid {field}: {error.message}") from error
    if "" in (host.annotations or {}):
        raise InvalidSetting("invalid Annotations: the empty string is not permitted as an annotation key")
    security_options.parse(host.security_opt)


def _check_platform(config: ContainerConfig | None, host: HostConfig, facts: HostFacts) -> Iterator[str]:
    if config is not None and len(config.hostname.encode()) > MAX_HOSTNAME_BYTES:
        raise InvalidSetting(f'hostname "{config.hostname}" is too long (maximum {MAX_HOSTNAME_BYTES} bytes)')
    for valid, what, mode in (
        (_is_ipc_mode, "IPC", host.ipc_mode),
        (_is_pid_mode, "PID", host.pid_mode),
        (_is_host_or_empty, "UTS", host.uts_mode),
        (_is_host_or_empty, "user namespace", host.userns_mode),
        (_is_cgroupns_mode, "cgroup namespace", host.cgroupns_mode),
    ):
        if not valid(mode):
            raise InvalidSetting(f"invalid {what} mode: {mode}")
    if host.shm_size < 0:
        raise InvalidSetting("SHM size can not be less than 0")
    if not -1000 <= host.oom_score_adj <= 1000:
        raise InvalidSetting(f"Invalid value {host.oom_score_adj}, range for oom score adj is [-1000, 1000]")
    for target in host.tmpfs or {}:
        if not posixpath.isabs(target):
            raise InvalidSetting(f"invalid mount path: '{target}' mount path must be absolute")
        if posixpath.normpath(target) == "/":
            raise InvalidSetting("invalid specification: destination can't be '/'")
    check_sysctls(host)
    if not facts.ipv4_forwarding and host.network_mode not in ("host", "none"):
        yield "IPv4 forwarding is disabled. Networking will not work."
    if host.network_mode == "host" and host.port_bindings:
        yield "Published ports are discarded when using host network mode"
    if host.cgroupns_mode == "private" and not facts.cgroup_namespaces:
        yield "Your kernel does not support cgroup namespaces.  Cgroup namespace setting discarded."


def _is_host_or_empty(mode: str) -> bool:
    return mode in ("", "host")


def _is_cgroupns_mode(mode: str) -> bool:
    return mode in ("", "host", "private")


def _is_ipc_mode(mode: str) -> bool:
    return mode in ("", "none", "host", "private", "shareable") or _is_container(mode)


def _is_pid_mode(mode: str) -> bool:
    return mode in ("", "host") or _is_container(mode)


def _is_container(mode: str) -> bool:
    return mode.startswith("container:") and len(mode) > len("container:")


# --- resources --------------------------------------------------------------------------------------------


def check_resources(host: HostConfig, facts: HostFacts, *, update: bool) -> Iterator[str]:
    """Warnings for limits that are left out on this host. Raises InvalidSetting."""
    yield from _check_memory(host, facts, update)
    yield from _check_cpu(host, facts)
    yield from _check_cpuset(host, facts)
    yield from _check_block_io(host, facts)


_ABSENT = "or the cgroup is not mounted."


def _check_memory(host: HostConfig, facts: HostFacts, update: bool) -> Iterator[str]:
    memory, swap = host.memory, host.memory_swap
    if memory and memory < MIN_MEMORY_BYTES:
        raise InvalidSetting("Minimum memory limit allowed is 6MB")
    if memory > 0 and not facts.memory_limit:
        yield f"Your kernel does not support memory limit capabilities {_ABSENT} Limitation discarded."
        memory, swap = 0, -1
    if memory > 0 and swap != -1 and not facts.swap_limit:
        yield f"Your kernel does not support swap limit capabilities {_ABSENT} Memory limited without swap."
        swap = -1
    if 0 < swap < memory:
        raise InvalidSetting("Minimum memoryswap limit should be larger than memory limit, see usage")
    if not memory and swap > 0 and not update:
        raise InvalidSetting("You should always set the Memory limit when using Memoryswap limit, see usage")
    swappiness = host.memory_swappiness
    if swappiness not in (None, -1):
        if not facts.memory_swappiness:
            yield (
                f"Your kernel does not support memory swappiness capabilities {_ABSENT} "
                "Memory swappiness discarded."
            )
        elif swappiness is not None and not 0 <= swappiness <= 100:
            raise InvalidSetting(f"Invalid value: {swappiness}, valid memory swappiness range is 0-100")
    reservation = host.memory_reservation
    if reservation > 0 and not facts.memory_reservation:
        yield f"Your kernel does not support memory soft limit capabilities {_ABSENT} Limitation discarded."
        reservation = 0
    if 0 < reservation < MIN_MEMORY_BYTES:
        raise InvalidSetting("Minimum memory reservation allowed is 6MB")
    if 0 < memory < reservation:
        raise InvalidSetting("Minimum memory limit can not be less than memory reservation limit, see usage")
    if host.oom_kill_disable:
        if not facts.oom_kill_disable:
            yield "Your kernel does not support OomKillDisable. OomKillDisable discarded."
        elif not memory:
            yield (
                "OOM killer is disabled for the container, but no memory limit is set, "
                "this can result in the system running out of resources."
            )
    if host.pids_limit and host.pids_limit > 0 and not facts.pids_limit:
        yield f"Your kernel does not support PIDs limit capabilities {_ABSENT} PIDs limit discarded."


def _check_cpu(host: HostConfig, facts: HostFacts) -> Iterator[str]:
    if host.nano_cpus > 0 and host.cpu_period > 0:
        raise InvalidSetting("Conflicting options: Nano CPUs and CPU Period cannot both be set")
    if host.nano_cpus > 0 and host.cpu_quota > 0:
        raise InvalidSetting("Conflicting options: Nano CPUs and CPU Quota cannot both be set")
    if host.nano_cpus > 0 and not facts.cpu_cfs:
        raise InvalidSetting(
            "NanoCPUs can not be set, as your kernel does not support CPU CFS scheduler "
            "or the cgroup is not mounted"
        )
    if not 0 <= host.nano_cpus <= facts.cpus * 1_000_000_000:
        raise InvalidSetting(
            f"range of CPUs is from 0.01 to {facts.cpus}.00, as there are only {facts.cpus} CPUs available"
        )
    if host.cpu_shares > 0 and not facts.cpu_shares:
        yield f"Your kernel does not support CPU shares {_ABSENT} Shares discarded."
    if (host.cpu_period or host.cpu_quota) and not facts.cpu_cfs:
        yield "Your kernel does not support CPU CFS scheduler. CPU period/quota discarded."
    if host.cpu_period and not 1000 <= host.cpu_period <= 1_000_000:
        raise InvalidSetting(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)"
        )
    if 0 < host.cpu_quota < 1000:
        raise InvalidSetting("CPU cfs quota can not be less than 1ms (i.e. 1000)")
    if host.cpu_percent > 0:
        yield "linux does not support CPU percent. Percent discarded."


def _check_cpuset(host: HostConfig, facts: HostFacts) -> Iterator[str]:
    if (host.cpuset_cpus or host.cpuset_mems) and not facts.cpuset:
        yield f"Your kernel does not support cpuset {_ABSENT} Cpuset discarded."
        return
    if not _is_subset(host.cpuset_cpus, facts.cpuset_cpus, "cpuset cpus"):
        raise InvalidSetting(
            f"Requested CPUs are not available - requested {host.cpuset_cpus}, available: {facts.cpuset_cpus}"
        )
    if not _is_subset(host.cpuset_mems, facts.cpuset_mems, "cpuset mems"):
        raise InvalidSetting(
            f"Requested memory nodes are not available - requested {host.cpuset_mems}, "
            f"available: {facts.cpuset_mems}"
        )


def _is_subset(requested: str, available: str, what: str) -> bool:
    try:
        return parse_cpu_list(requested) <= parse_cpu_list(available)
    except ValueError as error:
        raise InvalidSetting(f"Invalid value {requested} for {what}: {error}") from error


def _check_block_io(host: HostConfig, facts: HostFacts) -> Iterator[str]:
    if host.blkio_weight > 0 and not facts.blkio_weight:
        yield f"Your kernel does not support Block I/O weight {_ABSENT} Weight discarded."
    elif host.blkio_weight and not 10 <= host.blkio_weight <= 1000:
        raise InvalidSetting("Range of blkio weight is from 10 to 1000")
    if host.blkio_weight_device and not facts.blkio_weight:
        yield f"Your kernel does not support Block I/O weight_device {_ABSENT} Weight-device discarded."
    if facts.blkio_throttle:
        return
    for asked, unit, direction in (
        (host.blkio_device_read_bps, "BPS", "read"),
        (host.blkio_device_write_bps, "BPS", "write"),
        (host.blkio_device_read_iops, "IOPS", "read"),
        (host.blkio_device_write_iops, "IOPS", "write"),
    ):
        if asked:
            subject = f"BPS Block I/O {direction}" if unit == "BPS" else f"IOPS Block {direction}"
            yield (
                f"Your kernel does not support {subject} limit {_ABSENT} "
                f"Block I/O {unit} {direction} limit discarded."
            )
