"""Which ports a container wants on the host: pure."""

from __future__ import annotations

from sampan.model.container import ContainerConfig, HostConfig, PortBinding


def wanted_ports(config: ContainerConfig, host: HostConfig) -> dict[str, list[PortBinding]]:
    """By ``80/tcp``: the bindings asked for; with ``-P`` every other exposed port on any free host port."""
    wanted = {
        with_protocol(port): list(bindings) if bindings else [PortBinding()]
        for port, bindings in (host.port_bindings or {}).items()
    }
    if host.publish_all_ports:
        for port in config.exposed_ports or {}:
            wanted.setdefault(with_protocol(port), [PortBinding()])
    return wanted


def with_protocol(port: str) -> str:
    """``80`` is ``80/tcp``."""
    return port if "/" in port else f"{port}/tcp"
