"""All settings of the daemon, in one table: the fields of :class:`Settings`.

Flags, file keys, environment variables, ``--help`` and docs/settings.md derive from it. Precedence: flag,
environment, file, default. A setting given both as flag and in the file is refused, as dockerd does.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from .options import (
    Option,
    SettingError,
    combine,
    from_file,
    from_text,
    read_pair,
    read_percent,
    read_span_s,
)

DEFAULT_FILES = ("/etc/sampan/sampan.toml", "/etc/sampan/daemon.json")
LOG_DRIVERS = ("json-file", "local", "none")
LAYER_BLOBS = ("auto", "keep", "drop")
FIREWALLS = ("docker", "respect")
LOG_LEVELS = ("trace", "debug", "info", "warn", "error", "fatal", "panic")


@dataclasses.dataclass(frozen=True)
class UlimitSetting:
    name: str
    soft: int
    hard: int


def read_ulimit(text: str) -> tuple[str, UlimitSetting]:
    """``nofile=1024:2048``."""
    name, value = read_pair(text)
    soft, _, hard = value.partition(":")
    try:
        limit = UlimitSetting(name, int(soft), int(hard or soft))
    except ValueError:
        raise SettingError(f"invalid ulimit value: {text}") from None
    if limit.hard != -1 and (limit.soft > limit.hard or limit.soft == -1):
        raise SettingError(f"ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}")
    return name, limit


def read_label(text: str) -> str:
    read_pair(text)
    return text


def read_level(text: str) -> str:
    if text not in LOG_LEVELS:
        raise SettingError(f"unable to parse logging level: {text}")
    return text


def read_layer_blobs(text: str) -> str:
    if text not in LAYER_BLOBS:
        raise SettingError(f"invalid layer-blobs: {text} (there are {', '.join(LAYER_BLOBS)})")
    return text


def read_firewall(text: str) -> str:
    if text not in FIREWALLS:
        raise SettingError(f"invalid firewall: {text} (there are {', '.join(FIREWALLS)})")
    return text


def read_host(text: str) -> str:
    """Docker's shorthands completed: ``:2375`` and ``host:2375`` are TCP."""
    host = text.strip()
    if not host:
        raise SettingError("invalid empty -H")
    if "://" not in host:
        host = f"unix://{host}" if host.startswith("/") else f"tcp://{host}"
    scheme, _, rest = host.partition("://")
    if scheme not in ("unix", "tcp", "fd"):
        raise SettingError(f"invalid bind address format: {text}")
    if scheme == "unix" and not rest:
        return ""
    return host


def option(help: str, flag: str = "", *, default: Any = "", **kwargs: Any) -> Any:  # noqa: A002
    """A field with its spelling."""
    metadata = {"option": Option(help=help, flag=flag, **kwargs)}
    if kwargs.get("kind") == "list":
        return dataclasses.field(default=(), metadata=metadata)
    if kwargs.get("kind") == "map":
        return dataclasses.field(default_factory=dict, metadata=metadata)
    if kwargs.get("kind") == "flag" and default == "":
        default = False
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What the daemon was told. Paths are absolute, sizes bytes, durations seconds."""

    # where
    hosts: tuple[str, ...] = option(
        "Socket to listen on: unix://, tcp:// or fd://",
        "host",
        short="H",
        key="hosts",
        kind="list",
        read=read_host,
    )
    data_root: str = option("Directory of persistent data", "data-root", short="g", default="/var/lib/sampan")
    exec_root: str = option("Directory of run-time state", "exec-root", default="/run/sampan")
    pidfile: str = option("File with the daemon's process id", "pidfile", short="p")
    config_file: str = option("Configuration file (.toml or .json)", "config-file")
    group: str = option("Group of the unix socket", "group", short="G", default="docker")
    # network
    bridge: str = option("Attach containers to this bridge; none: no default network", "bridge", short="b")
    bip: str = option("Address and prefix of the default bridge", "bip")
    bip6: str = option("IPv6 address and prefix of the default bridge", "bip6")
    fixed_cidr: str = option("IPv4 subnet for container addresses", "fixed-cidr")
    fixed_cidr_v6: str = option("IPv6 subnet for container addresses", "fixed-cidr-v6")
    default_gateway: str = option("Default gateway of the default bridge, IPv4", "default-gateway")
    default_gateway_v6: str = option("Default gateway of the default bridge, IPv6", "default-gateway-v6")
    mtu: int = option("MTU of container networks", "mtu", kind="number", default=0)
    icc: bool = option(
        "Containers of the default bridge may reach each other", "icc", kind="flag", default=True
    )
    ip: str = option("Default address for published ports", "ip", default="0.0.0.0")
    ipv6: bool = option("IPv6 on the default bridge", "ipv6", kind="flag")
    ip_masq: bool = option("Masquerade what leaves the default bridge", "ip-masq", kind="flag", default=True)
    ip_forward: bool = option("Switch on net.ipv4.ip_forward", "ip-forward", kind="flag", default=True)
    firewall: str = option(
        "Published ports: docker (open to everybody) or respect (the host's rules for what comes in decide)",
        "firewall",
        default="docker",
        read=read_firewall,
    )
    iptables: bool = option("Firewall rules (Sampan writes nftables)", "iptables", kind="flag", default=True)
    ip6tables: bool = option("IPv6 firewall rules", "ip6tables", kind="flag", default=True)
    userland_proxy: bool = option(
        "Published ports never need a proxy", "userland-proxy", kind="flag", default=False, effect=False
    )
    userland_proxy_path: str = option(
        "Published ports never need a proxy", "userland-proxy-path", effect=False
    )
    firewall_backend: str = option("nftables is the only one", "firewall-backend", effect=False)
    ip_forward_no_drop: bool = option(
        "Do not set the FORWARD policy", "ip-forward-no-drop", kind="flag", effect=False
    )
    allow_direct_routing: bool = option(
        "Containers reachable by address from outside", "allow-direct-routing", kind="flag", effect=False
    )
    dns: tuple[str, ...] = option("DNS server of containers", "dns", kind="list")
    dns_opts: tuple[str, ...] = option("DNS option of containers", "dns-opt", key="dns-opts", kind="list")
    dns_search: tuple[str, ...] = option("DNS search domain of containers", "dns-search", kind="list")
    host_gateway_ip: str = option("Address that host-gateway stands for", "host-gateway-ip")
    default_address_pools: tuple[Any, ...] = option(
        "Pools for networks without a subnet (base=CIDR,size=N)",
        "default-address-pool",
        key="default-address-pools",
        kind="list",
    )
    default_network_opts: dict[str, Any] = option(
        "Options of new networks, by driver",
        "default-network-opt",
        key="default-network-opts",
        kind="map",
        effect=False,
    )
    # containers
    default_ulimits: dict[str, Any] = option(
        "Default resource limit (name=soft:hard)",
        "default-ulimit",
        key="default-ulimits",
        kind="map",
        read=read_ulimit,
    )
    default_shm_size: int = option(
        "Default size of /dev/shm", "default-shm-size", kind="size", default=64 << 20
    )
    default_runtime: str = option("Default OCI runtime", "default-runtime", default="runc", reloadable=True)
    runtimes: dict[str, Any] = option(
        "Additional OCI runtime (name=path)", "add-runtime", key="runtimes", kind="map", effect=False
    )
    default_ipc_mode: str = option("Default mode of the IPC namespace", "default-ipc-mode", default="private")
    default_cgroupns_mode: str = option("Default mode of the cgroup namespace", "default-cgroupns-mode")
    cgroup_parent: str = option("Parent control group of containers", "cgroup-parent")
    exec_opts: tuple[str, ...] = option("Option of the runtime", "exec-opt", key="exec-opts", kind="list")
    init: bool = option("Run an init process in every container", "init", kind="flag")
    init_path: str = option("The init program (tini)", "init-path")
    seccomp_profile: str = option(
        "Default seccomp profile: a file, builtin or unconfined", "seccomp-profile", default="builtin"
    )
    no_new_privileges: bool = option(
        "no-new-privileges for every container", "no-new-privileges", kind="flag"
    )
    selinux_enabled: bool = option("SELinux labels", "selinux-enabled", kind="flag", effect=False)
    userns_remap: str = option("User and group for user namespaces", "userns-remap")
    oom_score_adjust: int = option(
        "oom_score_adj of the daemon", "oom-score-adjust", kind="number", default=0
    )
    cpu_rt_period: int = option(
        "CPU real-time period of the parent group, microseconds", "cpu-rt-period", kind="number", default=0
    )
    cpu_rt_runtime: int = option(
        "CPU real-time runtime of the parent group, microseconds", "cpu-rt-runtime", kind="number", default=0
    )
    # logs of containers and of the daemon
    log_driver: str = option("Default log driver of containers", "log-driver", default="json-file")
    log_opts: dict[str, Any] = option(
        "Default log option (name=value)", "log-opt", key="log-opts", kind="map"
    )
    log_level: str = option(
        "trace, debug, info, warn or error", "log-level", short="l", default="info", read=read_level
    )
    log_format: str = option("text or json", "log-format", default="text")
    debug: bool = option("Log what is done in detail", "debug", short="D", kind="flag", reloadable=True)
    raw_logs: bool = option("Log without colours (it never has any)", "raw-logs", kind="flag", effect=False)
    # images
    storage_driver: str = option("overlay2 is the only one", "storage-driver", short="s", default="overlay2")
    storage_opts: tuple[str, ...] = option(
        "Option of the storage driver", "storage-opt", key="storage-opts", kind="list", effect=False
    )
    insecure_registries: tuple[str, ...] = option(
        "Registry without TLS", "insecure-registry", key="insecure-registries", kind="list", reloadable=True
    )
    registry_mirrors: tuple[str, ...] = option(
        "Mirror of the hub", "registry-mirror", key="registry-mirrors", kind="list", reloadable=True
    )
    mirrors: tuple[str, ...] = option(
        "Mirror of a registry (registry=URL), tried in order before it",
        "mirror",
        key="mirrors",
        kind="list",
        reloadable=True,
    )
    max_concurrent_downloads: int = option(
        "Layers pulled at once", "max-concurrent-downloads", kind="number", default=3, reloadable=True
    )
    max_concurrent_uploads: int = option(
        "Layers pushed at once", "max-concurrent-uploads", kind="number", default=5, reloadable=True
    )
    max_download_attempts: int = option(
        "Attempts at each layer", "max-download-attempts", kind="number", default=5, reloadable=True
    )
    layer_blobs: str = option(
        "Layer blobs stored beside unpacked layers: auto (those that cannot be written again), keep or drop",
        "layer-blobs",
        default="auto",
        read=read_layer_blobs,
    )
    min_free_space: int = option(
        "Bytes that images leave free on the disk", "min-free-space", kind="size", default=0
    )
    max_layer_size: int = option(
        "Bytes that one archive may unpack to", "max-layer-size", kind="size", default=1 << 40
    )
    max_layer_entries: int = option(
        "Files that one archive may hold", "max-layer-entries", kind="number", default=10_000_000
    )
    max_layer_ratio: int = option(
        "Times its size that an archive of more than 1 GiB may unpack to",
        "max-layer-ratio",
        kind="number",
        default=500,
    )
    image_gc_age: int = option(
        "Remove images that nobody used for so long (30d, 12h); 0: never",
        "image-gc-age",
        kind="number",
        default=0,
        read=read_span_s,
        reloadable=True,
    )
    image_gc_high: int = option(
        "Remove images used least recently when the disk is fuller than this (percent); 0: never",
        "image-gc-high",
        kind="number",
        default=0,
        read=read_percent,
        reloadable=True,
    )
    image_gc_low: int = option(
        "Until the disk is no fuller than this (percent)",
        "image-gc-low",
        kind="number",
        default=80,
        read=read_percent,
        reloadable=True,
    )
    image_gc_keep: tuple[str, ...] = option(
        "Never remove images with such a name (pattern)",
        "image-gc-keep",
        key="image-gc-keep",
        kind="list",
        reloadable=True,
    )
    image_gc_interval: int = option(
        "Time between two rounds of garbage collection (10m)",
        "image-gc-interval",
        kind="number",
        default=600,
        read=read_span_s,
        reloadable=True,
    )
    # the daemon
    labels: tuple[str, ...] = option(
        "Label of the daemon (key=value)",
        "label",
        key="labels",
        kind="list",
        read=read_label,
        reloadable=True,
    )
    live_restore: bool = option(
        "Containers always survive the daemon",
        "live-restore",
        kind="flag",
        default=True,
        effect=False,
        reloadable=True,
    )
    shutdown_timeout: int = option(
        "Seconds to finish requests at shutdown",
        "shutdown-timeout",
        kind="number",
        default=15,
        reloadable=True,
    )
    experimental: bool = option("Experimental features", "experimental", kind="flag", effect=False)
    features: dict[str, Any] = option(
        "Feature switch (name=true)", "feature", key="features", kind="map", effect=False
    )
    metrics_addr: str = option("Address of the metrics endpoint", "metrics-addr", effect=False)
    node_generic_resources: tuple[str, ...] = option(
        "Swarm only", "node-generic-resource", key="node-generic-resources", kind="list", effect=False
    )
    swarm_default_advertise_addr: str = option("Swarm only", "swarm-default-advertise-addr", effect=False)
    authorization_plugins: tuple[str, ...] = option(
        "Plugins are not supported",
        "authorization-plugin",
        key="authorization-plugins",
        kind="list",
    )
    containerd: str = option("Not used", "containerd", effect=False)
    containerd_namespace: str = option("Not used", "containerd-namespace", effect=False)
    containerd_plugins_namespace: str = option("Not used", "containerd-plugins-namespace", effect=False)
    cri_containerd: bool = option("Not used", "cri-containerd", kind="flag", effect=False)
    cdi_spec_dirs: tuple[str, ...] = option(
        "Directory of CDI specifications", "cdi-spec-dir", key="cdi-spec-dirs", kind="list", effect=False
    )
    builder: dict[str, Any] = option("Settings of the builder", key="builder", kind="map", effect=False)
    http_proxy: str = option("Proxy for the daemon's own requests", "http-proxy")
    https_proxy: str = option("Proxy for the daemon's own requests", "https-proxy")
    no_proxy: str = option("Hosts to reach without the proxy", "no-proxy")
    tls: bool = option("TLS on TCP sockets; implied by --tlsverify", "tls", kind="flag")
    tlsverify: bool = option("TLS, and clients need a certificate", "tlsverify", kind="flag")
    tlscacert: str = option("Certificates that clients' must be signed by", "tlscacert")
    tlscert: str = option("The daemon's certificate", "tlscert")
    tlskey: str = option("The daemon's private key", "tlskey")
    validate: bool = option("Check the configuration and end", "validate", kind="flag")

    @property
    def socket_hosts(self) -> tuple[str, ...]:
        """Where to listen, the default filled in."""
        default = f"unix://{self.exec_root}/sampan.sock"
        return tuple(host or default for host in self.hosts) or (default,)

    @property
    def pid_path(self) -> str:
        return self.pidfile or f"{self.exec_root}/sampand.pid"


OPTIONS: dict[str, Option] = {item.name: item.metadata["option"] for item in dataclasses.fields(Settings)}
"""By field name, in the order of ``--help``."""


def load(argv: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """Raises SettingError."""
    given = parse_flags(argv)
    values = dict(given)
    for name, one in OPTIONS.items():
        text = environ.get(one.environment)
        if name not in values and text is not None:
            values[name] = _from_environment(one, text)
    path = values.get("config_file") or _default_file()
    if path:
        values = _merge_file(values, given, path)
    settings = Settings(**values)
    _require_possible(settings)
    return dataclasses.replace(
        settings,
        data_root=os.path.abspath(settings.data_root),
        exec_root=os.path.abspath(settings.exec_root),
        config_file=path,
    )


def _require_possible(settings: Settings) -> None:
    """What would change how containers behave, and is not there, is refused instead of ignored."""
    if settings.storage_driver not in ("", "overlay2"):
        raise SettingError(
            f"error initializing graphdriver: driver not supported: {settings.storage_driver} (overlay2 is)"
        )
    if settings.userns_remap:
        raise SettingError("--userns-remap is not implemented yet: remove it to start")
    if settings.log_driver not in LOG_DRIVERS:
        raise SettingError(
            f"logger: no log driver named '{settings.log_driver}' is registered "
            f"(there are {', '.join(LOG_DRIVERS)})"
        )
    for one in settings.exec_opts:
        if one not in ("native.cgroupdriver=cgroupfs", "native.cgroupdriver="):
            raise SettingError(f"invalid --exec-opt: {one}: native.cgroupdriver=cgroupfs is the only one")
    if settings.image_gc_interval < 1:
        raise SettingError("invalid image-gc-interval: at least one second")
    if settings.authorization_plugins:
        raise SettingError("authorization plugins are not supported: requests would go unauthorized")


def _default_file() -> str:
    return next((path for path in DEFAULT_FILES if os.path.exists(path)), "")


def _from_environment(one: Option, text: str) -> Any:
    if one.kind in ("list", "map"):
        return combine(one, [from_text(one, part.strip()) for part in text.split(",") if part.strip()])
    return from_text(one, text)


def _merge_file(values: dict[str, Any], given: Mapping[str, Any], path: str) -> dict[str, Any]:
    content = read_file(path)
    fields = {one.file_key: name for name, one in OPTIONS.items()}
    unknown = sorted(key for key in content if key not in fields)
    if unknown:
        raise SettingError(
            f"unable to configure the Docker daemon with file {path}: the following directives don't match "
            f"any configuration option: {', '.join(unknown)}"
        )
    conflicts = []
    for key, value in content.items():
        name = fields[key]
        if name in given:
            conflicts.append(f"{key}: (from flag: {_shown(given[name])}, from file: {_shown(value)})")
            continue
        values.setdefault(name, from_file(OPTIONS[name], _complete(name, value), path))
    if conflicts:
        raise SettingError(
            f"unable to configure the Docker daemon with file {path}: the following directives are specified "
            f"both as a flag and in the configuration file: {', '.join(conflicts)}"
        )
    return values


def _shown(value: Any) -> str:
    return f"[{' '.join(map(str, value))}]" if isinstance(value, (list, tuple)) else str(value)


def _complete(name: str, value: Any) -> Any:
    """daemon.json writes a ulimit as ``{"Name": .., "Hard": .., "Soft": ..}``."""
    if name != "default_ulimits" or not isinstance(value, dict):
        return value
    return {
        key: {"name": key, "soft": one.get("Soft", 0), "hard": one.get("Hard", 0)}
        if isinstance(one, dict)
        else one
        for key, one in value.items()
    }


def read_file(path: str) -> dict[str, Any]:
    """daemon.json or sampan.toml. Raises SettingError."""
    prefix = f"unable to configure the Docker daemon with file {path}: "
    try:
        with open(path, "rb") as file:
            text = file.read()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise SettingError(f"{prefix}open {path}: {reason}") from None
    try:
        if path.endswith(".toml"):
            content: Any = tomllib.loads(text.decode())
        else:
            content = json.loads(text) if text.strip() else {}
    except ValueError as error:
        raise SettingError(f"{prefix}{error}") from None
    if not isinstance(content, dict):
        raise SettingError(f"{prefix}the file must contain one object")
    return content


def parse_flags(argv: Sequence[str]) -> dict[str, Any]:
    """``--name value``, ``--name=value``, ``-H value``, ``-Hvalue``; switches may have ``=false``."""
    by_flag = {one.flag: name for name, one in OPTIONS.items() if one.flag}
    by_short = {one.short: name for name, one in OPTIONS.items() if one.short}
    collected: dict[str, list[Any]] = {}
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if word.startswith("--"):
            flag, equals, text = word[2:].partition("=")
            name = by_flag.get(flag)
        elif word.startswith("-") and len(word) > 1:
            flag, text = word[1], word[2:].removeprefix("=")
            equals = "=" if text else ""
            name = by_short.get(flag)
        else:
            raise SettingError(f"\"sampand\" accepts no arguments.\nSee 'sampand --help'. (found: {word})")
        if name is None:
            raise SettingError(_unknown_flag(word))
        one = OPTIONS[name]
        if not equals:
            if one.kind == "flag":
                text = "true"
            elif not rest:
                raise SettingError(f"flag needs an argument: {word}\nSee 'sampand --help'.")
            else:
                text = rest.pop(0)
        collected.setdefault(name, []).append(_checked(one, text))
    return {name: combine(OPTIONS[name], found) for name, found in collected.items()}


def _unknown_flag(word: str) -> str:
    if word.startswith("--"):
        return f"unknown flag: {word.partition('=')[0]}\nSee 'sampand --help'."
    return f"unknown shorthand flag: '{word[1]}' in {word}\nSee 'sampand --help'."


def _checked(one: Option, text: str) -> Any:
    try:
        return from_text(one, text)
    except SettingError as error:
        label = f"-{one.short}, --{one.flag}" if one.short else f"--{one.flag}"
        raise SettingError(f'invalid argument "{text}" for "{label}" flag: {error}') from None


def reloaded(old: Settings) -> tuple[Settings, list[str]]:
    """What SIGHUP reads again from the file, and which fields changed. Raises SettingError."""
    if not old.config_file:
        return old, []
    content = read_file(old.config_file)
    fields = {one.file_key: name for name, one in OPTIONS.items()}
    changes = {}
    for key, value in content.items():
        name = fields.get(key)
        if name is None:
            raise SettingError(f"the following directives don't match any configuration option: {key}")
        if OPTIONS[name].reloadable:
            new = from_file(OPTIONS[name], value, old.config_file)
            if new != getattr(old, name):
                changes[name] = new
    return dataclasses.replace(old, **changes), sorted(changes)


def help_text() -> str:
    lines = [
        "Usage:  sampand [OPTIONS]",
        "",
        "A container platform that speaks the Docker Engine API.",
        "",
        "Options:",
    ]
    for one in OPTIONS.values():
        if not one.flag:
            continue
        short = f"-{one.short}, " if one.short else "    "
        kind = {"flag": "", "number": " int", "size": " bytes", "list": " list", "map": " map"}
        word = f"  {short}--{one.flag}{kind.get(one.kind, ' string')}"
        note = "" if one.effect else " (accepted, without effect)"
        lines.append(f"{word:<42} {one.help}{note}")
    lines += [
        "  -h, --help                               Print usage",
        "  -v, --version                            Print version information and quit",
    ]
    return "\n".join(lines)


def markdown() -> str:
    """docs/settings.md. Run ``python -m sampan.daemon.settings > docs/settings.md`` after a change."""
    lines = [
        "# Settings of the daemon",
        "",
        "Flag, key in `/etc/sampan/sampan.toml` or `daemon.json`, environment variable. A flag wins over",
        "the environment, that over the file; a setting given both as flag and in the file is refused.",
        "`SIGHUP` reads the reloadable ones again.",
        "",
        "| Flag | Key | Environment | Meaning | |",
        "|---|---|---|---|---|",
    ]
    for one in OPTIONS.values():
        flag = f"`--{one.flag}`" + (f", `-{one.short}`" if one.short else "") if one.flag else ""
        notes = []
        if one.kind in ("list", "map"):
            notes.append("repeatable")
        if one.reloadable:
            notes.append("reloadable")
        if not one.effect:
            notes.append("accepted, without effect")
        row = (flag, f"`{one.file_key}`", f"`{one.environment}`", one.help, ", ".join(notes))
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
