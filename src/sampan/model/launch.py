"""What the engine hands to the runtime beside the OCI specification, and what comes back."""

from __future__ import annotations

import msgspec

from .oci import Process, RuntimeSpec


class OverlayRoot(msgspec.Struct, frozen=True, kw_only=True):
    """The container's root as an overlay, mounted inside its own mount namespace only, so that it
    disappears with the namespace. Paths are absolute on the host."""

    lower: list[str]
    """Topmost first, as overlayfs's lowerdir."""
    upper: str
    work: str
    options: str = ""


class Interface(msgspec.Struct, frozen=True, kw_only=True):
    """A container's network interface, made while it starts and configured from inside. It dies with the
    container's network namespace."""

    kind: str = "veth"
    """``veth``: a pair whose host end joins a bridge; ``macvlan`` and ``ipvlan``: a part of the parent."""
    parent: str
    """The bridge, or the device of the host."""
    host_name: str = ""
    """Of the host end of a pair; of a part until it has its own name."""
    mode: str = ""
    """Of macvlan (bridge, private, vepa, passthru) and ipvlan (l2, l3, l3s)."""
    container_name: str = "eth0"
    mac: str = ""
    mtu: int = 1500
    addresses: list[str] = []
    """``172.17.0.2/16``, ``fd00::2/64``."""
    gateway4: str = ""
    gateway6: str = ""
    """An address, or ``dev``: everything is reached through the interface itself."""
    sysctls: list[tuple[str, str]] = []
    """``net.ipv4.conf.eth0.log_martians`` and the value."""
    receive_limit: int = 0
    """Bits per second that it gets at most; 0: no limit."""
    send_limit: int = 0


class LogSink(msgspec.Struct, frozen=True, kw_only=True):
    """Where and how the monitor writes a container's log (Docker's json-file format)."""

    path: str
    max_size_bytes: int = 20 * 1024 * 1024
    """-1: never rotated."""
    max_files: int = 5
    compress: bool = False
    attributes: str = ""
    """A JSON object text added as "attrs" to each line, or empty."""


class Stdio(msgspec.Struct, frozen=True, kw_only=True):
    tty: bool = False
    open_stdin: bool = False
    """Keep a pipe (or the tty) that attached clients write to; otherwise stdin is /dev/null."""
    stdin_once: bool = False
    """The end of the first attached client's input is the end of the process's input."""
    console_height: int = 0
    console_width: int = 0
    log: LogSink | None = None


class LaunchRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A container's init process."""

    id: str
    run_dir: str
    """The container's own directory below the run root: monitor socket, exit status, generated files."""
    spec: RuntimeSpec
    root: OverlayRoot | None = None
    """None: spec.root.path is a ready directory."""
    links: list[Interface] = []
    resolver: str = ""
    """Socket of the name server that is to answer in the container; empty for none."""
    stdio: Stdio = Stdio()
    init_path: str = ""
    """Host path of tini, bound at /sbin/docker-init and put before the arguments; empty for none."""
    seccomp_bpf: bytes = b""
    """The compiled filter (struct sock_filter[]), used instead of spec.linux.seccomp; empty for none."""
    user: str | None = None
    """``name[:group]`` resolved against the container's own /etc/passwd and /etc/group, inside; "" is
    root with root's groups. None: spec.process.user as it is."""
    extra_groups: list[str] = []
    """--group-add, names or numbers, resolved likewise."""


class ExecRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One more process in a running container."""

    id: str
    """The exec's own id."""
    run_dir: str
    container_pid: int
    """The container's init as the host counts it."""
    process: Process
    stdio: Stdio = Stdio()
    cgroups_path: str = ""
    seccomp_bpf: bytes = b""
    user: str | None = None
    extra_groups: list[str] = []


class ExitStatus(msgspec.Struct, frozen=True, kw_only=True):
    exit_code: int
    """128 + n after signal n; 126 and 127 when execve failed after start."""
    finished_ns: int
    oom_killed: bool = False
