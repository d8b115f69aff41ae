"""Containers as Docker's inspect and list show them. Pure functions from engine views to JSON.

Null, [] and absent differ on purpose: Go clients see no difference, docker-py and shell scripts do.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from typing import Any

import msgspec

from sampan.base.clock import format_ns
from sampan.engine.container.views import ContainerView, EndpointView, ExecView, StateView
from sampan.engine.spec.spec import MASKED_PATHS, READONLY_PATHS
from sampan.formats.durations import human_duration
from sampan.model.container import (
    Container,
    ContainerConfig,
    HealthState,
    HostConfig,
    MountPoint,
    PortBinding,
)

DRIVER = "overlay2"

_CONFIG_OMITTED_EMPTY = (
    "ExposedPorts",
    "Healthcheck",
    "ArgsEscaped",
    "NetworkDisabled",
    "MacAddress",
    "StopSignal",
    "StopTimeout",
    "Shell",
)
_HOST_OMITTED_EMPTY = ("Annotations", "StorageOpt", "Tmpfs", "Sysctls", "Runtime", "Mounts", "Init")
_HOST_FIRST = (
    "Binds",
    "ContainerIDFile",
    "LogConfig",
    "NetworkMode",
    "PortBindings",
    "RestartPolicy",
    "AutoRemove",
    "VolumeDriver",
    "VolumesFrom",
    "ConsoleSize",
    "Annotations",
    "CapAdd",
    "CapDrop",
    "CgroupnsMode",
    "Dns",
    "DnsOptions",
    "DnsSearch",
    "ExtraHosts",
    "GroupAdd",
    "IpcMode",
    "Cgroup",
    "Links",
    "OomScoreAdj",
    "PidMode",
    "Privileged",
    "PublishAllPorts",
    "ReadonlyRootfs",
    "SecurityOpt",
    "StorageOpt",
    "Tmpfs",
    "UTSMode",
    "UsernsMode",
    "ShmSize",
    "Sysctls",
    "Runtime",
    "Isolation",
)
_HOST_LAST = ("Mounts", "MaskedPaths", "ReadonlyPaths", "Init")
_TEXTS = {True: "true", False: "false"}


def render_config(config: ContainerConfig) -> dict[str, Any]:
    """``Config`` of inspect; containers always show a map of labels, if an empty one."""
    result: dict[str, Any] = msgspec.to_builtins(config)
    for name in _CONFIG_OMITTED_EMPTY:
        value = result[name]
        if value is None or value is False or value in ("", [], {}):
            del result[name]
    if result["Labels"] is None:
        result["Labels"] = {}
    return result


def render_host(host: HostConfig) -> dict[str, Any]:
    """``HostConfig`` of inspect, in Docker's order."""
    fields: dict[str, Any] = msgspec.to_builtins(host)
    result = {name: fields.pop(name) for name in _HOST_FIRST}
    last = {name: fields.pop(name) for name in _HOST_LAST}
    result.update(fields)
    result.update(last)
    for name in _HOST_OMITTED_EMPTY:
        value = result[name]
        if value is None or (not isinstance(value, bool) and not value):
            del result[name]
    # Go's client code expects maps and lists here where Docker fills them in at create time.
    if result["PortBindings"] is None:
        result["PortBindings"] = {}
    if result["LogConfig"]["Config"] is None:
        result["LogConfig"]["Config"] = {}
    if not host.privileged:
        if result["MaskedPaths"] is None:
            result["MaskedPaths"] = MASKED_PATHS
        if result["ReadonlyPaths"] is None:
            result["ReadonlyPaths"] = READONLY_PATHS
    result["Links"] = host.links or None
    return result


def render_health(health: HealthState) -> dict[str, Any]:
    return {
        "Status": health.status,
        "FailingStreak": health.failing_streak,
        "Log": [
            {
                "Start": format_ns(probe.start_ns),
                "End": format_ns(probe.end_ns),
                "ExitCode": probe.exit_code,
                "Output": probe.output,
            }
            for probe in health.log
        ],
    }


def render_state(state: StateView) -> dict[str, Any]:
    result: dict[str, Any] = {
        "Status": state.status,
        "Running": state.running,
        "Paused": state.paused,
        "Restarting": state.restarting,
        "OOMKilled": state.oom_killed,
        "Dead": state.dead,
        "Pid": state.pid,
        "ExitCode": state.exit_code,
        "Error": state.error,
        "StartedAt": format_ns(state.started_ns),
        "FinishedAt": format_ns(state.finished_ns),
    }
    if state.health is not None:
        result["Health"] = render_health(state.health)
    return result


def render_mount(mount: MountPoint) -> dict[str, Any]:
    result: dict[str, Any] = {"Type": mount.type}
    if mount.name:
        result["Name"] = mount.name
    result["Source"] = mount.source
    result["Destination"] = mount.destination
    if mount.driver:
        result["Driver"] = mount.driver
    result["Mode"] = mount.mode
    result["RW"] = mount.rw
    result["Propagation"] = mount.propagation
    return result


def render_endpoint(endpoint: EndpointView, *, aliases: list[str] | None) -> dict[str, Any]:
    config, live = endpoint.config, endpoint.live
    return {
        "IPAMConfig": None if config.ipam_config is None else msgspec.to_builtins(config.ipam_config),
        "Links": config.links,
        "Aliases": aliases,
        "MacAddress": live.mac_address or config.mac_address,
        "DriverOpts": config.driver_opts,
        "GwPriority": config.gw_priority,
        "NetworkID": live.network_id,
        "EndpointID": live.endpoint_id,
        "Gateway": live.gateway,
        "IPAddress": live.ip_address,
        "IPPrefixLen": live.ip_prefix_len,
        "IPv6Gateway": live.ipv6_gateway,
        "GlobalIPv6Address": live.global_ipv6_address,
        "GlobalIPv6PrefixLen": live.global_ipv6_prefix_len,
        "DNSNames": live.dns_names,
    }


def is_user_defined(network: str) -> bool:
    return network not in ("bridge", "host", "none", "default") and not network.startswith("container:")


def exposed_and_bound(view: ContainerView) -> dict[str, list[PortBinding] | None]:
    """Ports of a running container: published ones with their bindings, merely exposed ones with None."""
    if not view.state.running or not view.endpoints:
        return {}
    if all(name in ("host", "none") for name in view.endpoints):
        return {}
    result: dict[str, list[PortBinding] | None] = dict.fromkeys(view.record.config.exposed_ports or {})
    result.update({port: bindings or None for port, bindings in view.ports.items()})
    return result


def render_network_settings(view: ContainerView, version: int) -> dict[str, Any]:
    record = view.record
    networks = {}
    for name, endpoint in view.endpoints.items():
        aliases = endpoint.config.aliases
        if version < 45 and is_user_defined(name):
            extra = [record.id[:12], record.config.hostname]
            aliases = list(dict.fromkeys([*(aliases or []), *extra]))
        networks[name] = render_endpoint(endpoint, aliases=aliases)
    bridge = networks.get("bridge", {})
    return {
        "Bridge": "",
        "SandboxID": sandbox_id(view),
        "SandboxKey": view.sandbox_key or (f"/proc/{view.state.pid}/ns/net" if view.state.pid else ""),
        "Ports": {
            port: None
            if bindings is None
            else [{"HostIp": one.host_ip, "HostPort": one.host_port} for one in bindings]
            for port, bindings in exposed_and_bound(view).items()
        },
        "HairpinMode": False,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": None,
        "SecondaryIPv6Addresses": None,
        "EndpointID": bridge.get("EndpointID", ""),
        "Gateway": bridge.get("Gateway", ""),
        "GlobalIPv6Address": bridge.get("GlobalIPv6Address", ""),
        "GlobalIPv6PrefixLen": bridge.get("GlobalIPv6PrefixLen", 0),
        "IPAddress": bridge.get("IPAddress", ""),
        "IPPrefixLen": bridge.get("IPPrefixLen", 0),
        "IPv6Gateway": bridge.get("IPv6Gateway", ""),
        "MacAddress": bridge.get("MacAddress", ""),
        "Networks": networks,
    }


def sandbox_id(view: ContainerView) -> str:
    """Docker's id of a running container's network stack: new at each start. Ours has no other name than
    its namespace."""
    if not view.state.pid:
        return ""
    return hashlib.sha256(f"{view.record.id} {view.state.started_ns}".encode()).hexdigest()


def render_inspect(view: ContainerView, version: int) -> dict[str, Any]:
    """``GET /containers/{id}/json``. The generated files are named once they exist."""
    record = view.record
    started = view.state.started_ns != 0
    result: dict[str, Any] = {
        "Id": record.id,
        "Created": format_ns(record.created_ns),
        "Path": record.path,
        "Args": record.args,
        "State": render_state(view.state),
        "Image": record.image_id,
        "ResolvConfPath": view.resolv_conf_path if started else "",
        "HostnamePath": view.hostname_path if started else "",
        "HostsPath": view.hosts_path if started else "",
        "LogPath": view.log_path if started else "",
        "Name": f"/{record.name}",
        "RestartCount": view.restart_count,
        "Driver": DRIVER,
        "Platform": record.platform,
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": apparmor_profile(record),
        "ExecIDs": view.exec_ids or None,
        "HostConfig": render_host(record.host),
        "GraphDriver": {"Data": {"ID": record.id, **view.graph} if view.graph else None, "Name": DRIVER},
    }
    if view.size_rw is not None:
        result["SizeRw"] = view.size_rw
    if view.size_root_fs is not None:
        result["SizeRootFs"] = view.size_root_fs
    result["Mounts"] = [render_mount(mount) for mount in record.mounts]
    result["Config"] = render_config(record.config)
    _show_mac_address(result["Config"], view)
    result["NetworkSettings"] = render_network_settings(view, version)
    return result


def _show_mac_address(config: dict[str, Any], view: ContainerView) -> None:
    """Clients before 1.44 look for the address that was asked for in ``Config``."""
    mode = view.record.host.network_mode
    endpoint = view.endpoints.get("bridge" if mode in ("", "default") else mode)
    if endpoint is not None and endpoint.config.mac_address and "MacAddress" not in config:
        config["MacAddress"] = endpoint.config.mac_address


def apparmor_profile(record: Container) -> str:
    for option in record.host.security_opt or []:
        name, _, value = option.replace(":", "=", 1).partition("=")
        if name == "apparmor":
            return value
    return ""


def render_command(record: Container) -> str:
    """As ``docker ps`` shows it: arguments with spaces in single quotes."""
    return " ".join([record.path, *(f"'{arg}'" if " " in arg else arg for arg in record.args)])


def render_status(state: StateView, now_ns: int) -> str:
    """``Up 5 minutes (healthy)``, ``Exited (0) 2 hours ago``."""
    if state.running:
        up = human_duration((now_ns - state.started_ns) / 1e9)
        if state.paused:
            return f"Up {up} (Paused)"
        if state.restarting:
            ago = human_duration((now_ns - state.finished_ns) / 1e9)
            return f"Restarting ({state.exit_code}) {ago} ago"
        health = state.health
        if health is not None and health.status not in ("", "none"):
            word = "health: starting" if health.status == "starting" else health.status
            return f"Up {up} ({word})"
        return f"Up {up}"
    if state.status == "removing":
        return "Removal In Progress"
    if state.dead:
        return "Dead"
    if not state.started_ns:
        return "Created"
    if not state.finished_ns:
        return ""
    return f"Exited ({state.exit_code}) {human_duration((now_ns - state.finished_ns) / 1e9)} ago"


def render_ports(view: ContainerView) -> list[dict[str, Any]]:
    result: list[dict[str, Any]] = []
    for port, bindings in exposed_and_bound(view).items():
        number, _, protocol = port.partition("/")
        if not number.isdigit():
            continue
        if bindings is None:
            result.append({"PrivatePort": int(number), "Type": protocol or "tcp"})
            continue
        for one in bindings:
            entry: dict[str, Any] = {"IP": one.host_ip} if one.host_ip else {}
            entry["PrivatePort"] = int(number)
            if one.host_port and one.host_port != "0":
                entry["PublicPort"] = int(one.host_port)
            entry["Type"] = protocol or "tcp"
            result.append(entry)
    return result


def render_summary(view: ContainerView, version: int, image: str, status: str) -> dict[str, Any]:
    """One entry of ``GET /containers/json``."""
    record = view.record
    result: dict[str, Any] = {
        "Id": record.id,
        "Names": [f"/{record.name}", *view.aliases] if record.name else [],
        "Image": image,
        "ImageID": record.image_id,
        "Command": render_command(record),
        "Created": record.created_ns // 1_000_000_000,
        "Ports": render_ports(view),
    }
    if view.size_rw:
        result["SizeRw"] = view.size_rw
    if view.size_root_fs:
        result["SizeRootFs"] = view.size_root_fs
    result["Labels"] = record.config.labels or {}
    result["State"] = view.state.status
    result["Status"] = status
    host: dict[str, Any] = {"NetworkMode": record.host.network_mode} if record.host.network_mode else {}
    if record.host.annotations and version >= 46:
        host["Annotations"] = record.host.annotations
    result["HostConfig"] = host
    result["NetworkSettings"] = {
        "Networks": {name: _summary_endpoint(endpoint) for name, endpoint in view.endpoints.items()}
    }
    result["Mounts"] = [render_mount(mount) for mount in record.mounts]
    return result


def _summary_endpoint(endpoint: EndpointView) -> dict[str, Any]:
    result = render_endpoint(endpoint, aliases=None)
    result.update(Links=None, DriverOpts=None, DNSNames=None)
    return result


class SummaryCache:
    """Encoded list entries. Only what changed since the last listing is rendered again.

    Keyed by container; an entry is good while the view's revision, the image's name, the version's shape
    and the words of the status are the same.
    """

    def __init__(self, encode: Any) -> None:
        self._encode = encode
        self._entries: dict[str, tuple[tuple[Any, ...], bytes]] = {}

    def render(self, views: list[ContainerView], version: int, images: Mapping[str, str]) -> bytes:
        """The whole list as JSON. ``images``: by container id, a name to show in place of the asked one."""
        now_ns = time.time_ns()
        entries = self._entries
        parts = []
        shape = version >= 46
        for view in views:
            record = view.record
            status = render_status(view.state, now_ns)
            image = images.get(record.id) or record.image_ref
            key = (view.revision, status, image, shape, view.size_rw, view.size_root_fs)
            known = entries.get(record.id)
            if known is None or known[0] != key or not view.revision:
                known = (key, self._encode(render_summary(view, version, image, status)))
                entries[record.id] = known
            parts.append(known[1])
        if len(entries) > 2 * len(views) + 64:
            alive = {view.record.id for view in views}
            self._entries = {key: value for key, value in entries.items() if key in alive}
        return b"[%b]\n" % b",".join(parts)


def render_exec(view: ExecView) -> dict[str, Any]:
    """``GET /exec/{id}/json``."""
    process: dict[str, Any] = {
        "tty": view.tty,
        "entrypoint": view.entrypoint,
        "arguments": view.arguments,
    }
    if view.privileged is not None:
        process["privileged"] = view.privileged
    if view.user:
        process["user"] = view.user
    return {
        "ID": view.id,
        "Running": view.running,
        "ExitCode": view.exit_code,
        "ProcessConfig": process,
        "OpenStdin": view.open_stdin,
        "OpenStderr": view.open_stderr,
        "OpenStdout": view.open_stdout,
        "CanRemove": view.can_remove,
        "ContainerID": view.container_id,
        "DetachKeys": view.detach_keys,
        "Pid": view.pid,
    }
