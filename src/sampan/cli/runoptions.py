"""The options of ``run`` and ``create``, one row each."""

from __future__ import annotations

from sampan.cli import runvalues
from sampan.cli.mounts import parse_mount
from sampan.cli.options import BOOL, INT, LIST, PLATFORM, STRING, Option
from sampan.cli.units import parse_duration, parse_size

_BYTES = "bytes"
_DURATION = "duration"

_PROCESS = (
    Option("attach", "a", LIST, "Attach to STDIN, STDOUT or STDERR", check=runvalues.attach_stream),
    Option("entrypoint", "", STRING, "Program to run instead of the image's ENTRYPOINT"),
    Option("env", "e", LIST, "Set environment variables", check=runvalues.environment_variable),
    Option("env-file", "", LIST, "Read environment variables from a file", complete="file"),
    Option("group-add", "", LIST, "Additional groups of the process"),
    Option("hostname", "h", STRING, "Host name in the container"),
    Option("domainname", "", STRING, "NIS domain name in the container"),
    Option("init", "", BOOL, "Run an init as process 1 that forwards signals and reaps processes"),
    Option("interactive", "i", BOOL, "Keep STDIN open even if not attached"),
    Option("tty", "t", BOOL, "Allocate a pseudo-TTY"),
    Option("user", "u", STRING, "User name or id (format: <name|uid>[:<group|gid>])"),
    Option("workdir", "w", STRING, "Working directory inside the container"),
    Option("stop-signal", "", STRING, "Signal that stops the container", complete="signal"),
    Option("stop-timeout", "", INT, "Seconds between the stop signal and the kill"),
    Option("ulimit", "", "ulimit", "Resource limits, NAME=SOFT[:HARD]", repeats=True, check=runvalues.ulimit),
)

_CONTAINER = (
    Option("annotation", "", "map", "Annotation passed to the OCI runtime", repeats=True),
    Option("cidfile", "", STRING, "Write the container's id to this file", complete="file"),
    Option("label", "l", LIST, "Set metadata on the container", check=runvalues.label),
    Option("label-file", "", LIST, "Read labels from a file, one per line", complete="file"),
    Option("name", "", STRING, "Name of the container"),
    PLATFORM,
    Option("pull", "", STRING, "Get the image first: always, missing or never", default="missing"),
    Option("quiet", "q", BOOL, "No progress while the image is fetched"),
    Option(
        "restart", "", STRING, "When to start again: no, always, unless-stopped, on-failure[:N]", default="no"
    ),
    Option("rm", "", BOOL, "Remove the container and its anonymous volumes when it exits"),
    Option("use-api-socket", "", BOOL, "Bind mount the daemon's API socket"),
    Option("disable-content-trust", "", BOOL, "Skip image verification", default=True, hidden=True),
)

_SECURITY = (
    Option("cap-add", "", LIST, "Add Linux capabilities", complete="capability"),
    Option("cap-drop", "", LIST, "Drop Linux capabilities", complete="capability"),
    Option("privileged", "", BOOL, "All capabilities and devices, no confinement"),
    Option("read-only", "", BOOL, "Mount the root file system read only"),
    Option("security-opt", "", LIST, "Security options"),
    Option(
        "sysctl",
        "",
        "map",
        "Kernel parameters of the container's namespaces",
        repeats=True,
        check=runvalues.sysctl,
    ),
    Option("userns", "", STRING, "User namespace: host"),
    Option("cgroupns", "", STRING, "Cgroup namespace: host or private (default: as the daemon is set)"),
    Option("ipc", "", STRING, "IPC namespace: private, shareable, host, none or container:NAME"),
    Option("pid", "", STRING, "PID namespace: host or container:NAME"),
    Option("uts", "", STRING, "UTS namespace: host"),
    Option("runtime", "", STRING, "OCI runtime of this container"),
    Option("isolation", "", STRING, "Isolation technology", hidden=True),
)

_NETWORK = (
    Option("add-host", "", LIST, "Line for /etc/hosts (HOST:IP)", check=runvalues.extra_host),
    Option("dns", "", LIST, "DNS servers", check=runvalues.ip_address),
    Option("dns-option", "", LIST, "DNS options"),
    Option("dns-opt", "", LIST, "DNS options", hidden=True, stores="dns-option"),
    Option("dns-search", "", LIST, "DNS search domains", check=runvalues.search_domain),
    Option("expose", "", LIST, "Expose a port or a range of ports"),
    Option("ip", "", STRING, "IPv4 address (such as 172.30.100.104)"),
    Option("ip6", "", STRING, "IPv6 address (such as 2001:db8::33)"),
    Option("link", "", LIST, "Link to another container", check=runvalues.link, complete="container"),
    Option("link-local-ip", "", LIST, "IPv4 and IPv6 link-local addresses"),
    Option("mac-address", "", STRING, "MAC address (such as 92:d0:c6:0a:29:33)"),
    Option(
        "network",
        "",
        "network",
        "Connect to a network",
        repeats=True,
        check=runvalues.network,
        complete="network",
    ),
    Option(
        "net",
        "",
        "network",
        "Connect to a network",
        repeats=True,
        check=runvalues.network,
        hidden=True,
        stores="network",
    ),
    Option("network-alias", "", LIST, "Alias in the network"),
    Option("net-alias", "", LIST, "Alias in the network", hidden=True, stores="network-alias"),
    Option("publish", "p", LIST, "Publish ports on the host, [[IP:]HOST:]PORT[/PROTOCOL]"),
    Option("publish-all", "P", BOOL, "Publish all exposed ports on random ports"),
)

_STORAGE = (
    Option("device", "", LIST, "Add a host device, HOST[:CONTAINER][:rwm]", complete="file"),
    Option("log-driver", "", STRING, "Logging driver"),
    Option("log-opt", "", LIST, "Options of the logging driver"),
    Option("mount", "", "mount", "Attach a mount, type=...,src=...,dst=...", repeats=True, check=parse_mount),
    Option("storage-opt", "", LIST, "Options of the storage driver"),
    Option("tmpfs", "", LIST, "Mount a tmpfs, PATH[:OPTIONS]"),
    Option(
        "volume", "v", LIST, "Mount a volume or a directory, [SOURCE:]TARGET[:OPTIONS]", complete="volume"
    ),
    Option("volume-driver", "", STRING, "Driver of volumes made for this container"),
    Option("volumes-from", "", LIST, "Mount the volumes of other containers", complete="container"),
    Option(
        "gpus", "", "gpu-request", "GPUs to add ('all' for all of them)", repeats=True, check=runvalues.gpus
    ),
)

_HEALTH = (
    Option("health-cmd", "", STRING, "Command that checks the container's health"),
    Option("health-interval", "", _DURATION, "Time between checks (ms|s|m|h)", check=parse_duration),
    Option("health-retries", "", INT, "Failures in a row that make it unhealthy"),
    Option(
        "health-start-interval",
        "",
        _DURATION,
        "Time between checks in the start period",
        check=parse_duration,
    ),
    Option("health-start-period", "", _DURATION, "Time in which failures do not count", check=parse_duration),
    Option("health-timeout", "", _DURATION, "Longest time of one check", check=parse_duration),
    Option("no-healthcheck", "", BOOL, "Disable the image's HEALTHCHECK"),
)


def _device_list(name: str, help: str, check: object) -> Option:  # noqa: A002
    return Option(name, "", LIST, help, check=check)  # type: ignore[arg-type]


_RESOURCES = (
    Option(
        "blkio-weight", "", "uint16", "Block I/O weight, 10 to 1000, 0 for none", check=runvalues.unsigned(16)
    ),
    _device_list("blkio-weight-device", "Block I/O weight of a device", runvalues.weight_device),
    Option("cgroup-parent", "", STRING, "Parent cgroup of the container"),
    Option("cpu-count", "", INT, "CPUs on Windows", hidden=True),
    Option("cpu-percent", "", INT, "CPU percent on Windows", hidden=True),
    Option("cpu-period", "", INT, "Period of the CPU quota in microseconds"),
    Option("cpu-quota", "", INT, "CPU time in each period in microseconds"),
    Option("cpu-rt-period", "", INT, "Real-time period in microseconds"),
    Option("cpu-rt-runtime", "", INT, "Real-time runtime in microseconds"),
    Option("cpu-shares", "c", INT, "CPU shares (relative weight)"),
    Option("cpus", "", "decimal", "Number of CPUs", check=runvalues.cpus),
    Option("cpuset-cpus", "", STRING, "CPUs to run on (0-3, 0,1)"),
    Option("cpuset-mems", "", STRING, "Memory nodes to use (0-3, 0,1)"),
    Option("device-cgroup-rule", "", LIST, "Rule for the devices cgroup", check=runvalues.device_rule),
    _device_list("device-read-bps", "Bytes per second read from a device", runvalues.bytes_per_second),
    _device_list("device-read-iops", "Reads per second from a device", runvalues.operations_per_second),
    _device_list("device-write-bps", "Bytes per second written to a device", runvalues.bytes_per_second),
    _device_list("device-write-iops", "Writes per second to a device", runvalues.operations_per_second),
    Option("io-maxbandwidth", "", _BYTES, "I/O bandwidth on Windows", check=parse_size, hidden=True),
    Option("io-maxiops", "", "uint", "I/O operations on Windows", check=runvalues.unsigned(64), hidden=True),
    Option("kernel-memory", "", _BYTES, "Kernel memory limit", check=parse_size, hidden=True),
    Option("memory", "m", _BYTES, "Memory limit", check=parse_size),
    Option("memory-reservation", "", _BYTES, "Memory soft limit", check=parse_size),
    Option(
        "memory-swap",
        "",
        _BYTES,
        "Limit of memory plus swap, -1 for unlimited swap",
        check=runvalues.swap_size,
    ),
    Option("memory-swappiness", "", INT, "Swappiness, 0 to 100", default=-1),
    Option("oom-kill-disable", "", BOOL, "Disable the OOM killer"),
    Option("oom-score-adj", "", INT, "OOM preference, -1000 to 1000"),
    Option("pids-limit", "", INT, "Number of processes, -1 for unlimited"),
    Option("shm-size", "", _BYTES, "Size of /dev/shm", check=parse_size),
)

CREATE_OPTIONS = (
    *_PROCESS,
    *_CONTAINER,
    *_SECURITY,
    *_NETWORK,
    *_STORAGE,
    *_HEALTH,
    *_RESOURCES,
)

RUN_OPTIONS = (
    *CREATE_OPTIONS,
    Option("detach", "d", BOOL, "Run in the background and print the container's id"),
    Option("detach-keys", "", STRING, "Keys that detach from the container", default="", complete="keys"),
    Option("sig-proxy", "", BOOL, "Pass signals on to the process", default=True),
)
