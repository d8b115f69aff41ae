"""Which kernel settings a container may have of its own: those of its namespaces (namespaces(7))."""

from __future__ import annotations

from sampan.base.errors import InvalidArgument
from sampan.model.container import HostConfig

_IPC_WORDS = "msgmax msgmnb msgmni sem shmall shmmax shmmni shm_rmid_forced"
_IPC = frozenset("kernel." + name for name in _IPC_WORDS.split())


class ForeignSysctl(InvalidArgument):
    """The setting belongs to the whole host."""


def check_sysctls(host: HostConfig) -> None:
    """Raises ForeignSysctl for a setting of a namespace that the container does not have of its own."""
    for name in host.sysctls or ():
        key = name.replace("/", ".") if "/" in name.partition(".")[0] else name
        if key in _IPC or key.startswith("fs.mqueue."):
            own = not host.ipc_mode.startswith(("host", "container:"))
        elif key.startswith("net."):
            if host.network_mode == "host":
                raise ForeignSysctl(f"sysctl '{name}' not allowed in host network namespace")
            own = not host.network_mode.startswith("container:")
        elif key == "kernel.domainname":
            own = host.uts_mode != "host"
        elif key == "kernel.hostname":
            raise ForeignSysctl(
                f'sysctl "{name}" is not allowed: it conflicts with the hostname of the container'
            )
        else:
            own = False
        if not own:
            raise ForeignSysctl(f'sysctl "{name}" is not in a separate kernel namespace')


def defaults(*, own_network: bool) -> dict[str, str]:
    """Ping without CAP_NET_RAW, low ports without CAP_NET_BIND_SERVICE: harmless in an own network."""
    if not own_network:
        return {}
    return {
        "net.ipv4.ping_group_range": "0 2147483647",
        "net.ipv4.ip_unprivileged_port_start": "0",
    }
