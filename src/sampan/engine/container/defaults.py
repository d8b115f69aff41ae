"""The host configuration that a container gets where its creator said nothing."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from sampan.model.container import HostConfig, LogConfig, RestartPolicy

from .registry import Entry

DEFAULT_SHM_SIZE = 64 * 1024 * 1024


class EngineDefaults(msgspec.Struct, frozen=True, kw_only=True):
    """From the daemon's configuration."""

    log: LogConfig = LogConfig(type="json-file", config={})
    shm_size: int = DEFAULT_SHM_SIZE
    ipc_mode: str = "private"
    cgroupns_mode: str = "host"
    """``private`` on cgroup v2."""
    unified_cgroups: bool = False
    runtime: str = "runc"
    """The name that inspect shows; clients compare it with Docker's default."""
    stop_timeout_s: int = 10


def complete_host(
    host: HostConfig, defaults: EngineDefaults, find: Callable[[str], Entry | None]
) -> HostConfig:
    """Fill in what the request left open, and turn ``container:NAME`` into ``container:ID``.

    The rules are those of moby's adaptContainerSettings.
    """
    return msgspec.structs.replace(
        host,
        memory_swap=host.memory * 2 if host.memory > 0 and host.memory_swap == 0 else host.memory_swap,
        # the docker client says -1 for "not set"
        memory_swappiness=None if host.memory_swappiness == -1 else host.memory_swappiness,
        shm_size=host.shm_size or defaults.shm_size,
        cgroupns_mode=host.cgroupns_mode or _cgroupns(host, defaults),
        oom_kill_disable=bool(host.oom_kill_disable),
        pids_limit=host.pids_limit if host.pids_limit is not None and host.pids_limit > 0 else None,
        restart_policy=host.restart_policy if host.restart_policy.name else RestartPolicy(name="no"),
        log_config=_log(host.log_config, defaults.log),
        network_mode=_by_id("bridge" if host.network_mode in ("", "default") else host.network_mode, find),
        pid_mode=_by_id(host.pid_mode, find),
        ipc_mode=_by_id(host.ipc_mode or defaults.ipc_mode, find),
        runtime=host.runtime or defaults.runtime,
    )


def _cgroupns(host: HostConfig, defaults: EngineDefaults) -> str:
    if host.privileged and not defaults.unified_cgroups:
        return "host"
    return defaults.cgroupns_mode


def _log(log: LogConfig, default: LogConfig) -> LogConfig:
    if log.type and log.type != default.type:
        return LogConfig(type=log.type, config=log.config or {})
    return LogConfig(type=default.type, config={**(default.config or {}), **(log.config or {})})


def _by_id(mode: str, find: Callable[[str], Entry | None]) -> str:
    prefix, colon, ref = mode.partition(":")
    if prefix != "container" or not colon or not ref:
        return mode
    entry = find(ref)
    return f"container:{entry.id}" if entry is not None else mode
