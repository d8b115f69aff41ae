"""What the daemon's flags say about the default network."""

from __future__ import annotations

import msgspec

DEFAULT_BRIDGE = "sampan0"


class NetworkSettings(msgspec.Struct, frozen=True, kw_only=True):
    """dockerd's network flags, by the same names and with the same defaults where they mean the same."""

    run_dir: str
    """The daemon's run root: the name server listens below it."""
    bridge: str = DEFAULT_BRIDGE
    """--bridge: the default network's device, made when it does not exist; ``none`` for no such network."""
    instance: str = ""
    """Names the firewall table and marks the bridges of this daemon among several on one host; the
    bridge's name when empty."""
    bip: str = ""
    """Address of the bridge with its prefix, ``192.168.1.1/24``; chosen when empty."""
    bip6: str = ""
    fixed_cidr: str = ""
    """Part of the subnet from which containers get addresses."""
    fixed_cidr_v6: str = ""
    default_gateway: str = ""
    default_gateway_v6: str = ""
    mtu: int = 1500
    firewall: str = "docker"
    """``docker``: published ports are open to everybody, whatever the host's rules for incoming packets say;
    ``respect``: they have their say; ``off`` (--iptables=false): nothing is published, masqueraded or
    isolated."""
    icc: bool = True
    """Containers on the default network reach each other."""
    ip_masq: bool = True
    ip_forward: bool = True
    """Switch forwarding on in the kernel."""
    ipv6: bool = False
    ip: str = "0.0.0.0"
    """Host address for published ports that name none."""
    default_address_pools: tuple[tuple[str, int], ...] = ()
    """(base, size): ``("10.10.0.0/16", 24)``; Docker's pools when empty."""
    ports_per_bridge: int = 1000
    """Endpoints beyond them go to further bridges; see net.segments."""
    host_gateway_ips: tuple[str, ...] = ()
    """What ``host-gateway`` stands for; the bridge's addresses when empty."""
