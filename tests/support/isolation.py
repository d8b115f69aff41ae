"""A mount and a network namespace for the whole test session, so that tests touch nothing of the machine.

Daemons started by tests inherit them: their bridges, firewall rules and mounts are seen by nobody else, and
comparing what is there before and after is exact even when other engines run on the same machine.
"""

from __future__ import annotations

import ctypes
import os
import subprocess

CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000
MS_REC_PRIVATE = 0x4000 | (1 << 18)
UPLINK_ADDRESS = "198.51.100.2"


def enter() -> None:
    """Move this process, single-threaded and root, into namespaces of its own."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS | CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    if libc.mount(b"none", b"/", None, MS_REC_PRIVATE, None) != 0:
        raise OSError(ctypes.get_errno(), "mount")
    # /sys shows the links of the namespace it was mounted in
    for command in (
        "ip link set lo up",
        "ip link add uplink type veth peer name uplink-peer",
        # no addresses that come by themselves, a second later
        "ip link set uplink addrgenmode none",
        "ip link set uplink-peer addrgenmode none",
        f"ip address add {UPLINK_ADDRESS}/24 dev uplink",
        "ip link set uplink up",
        "ip link set uplink-peer up",
        f"ip route add default via {UPLINK_ADDRESS}",
    ):
        subprocess.run(command.split(), check=True)


def is_root() -> bool:
    return os.geteuid() == 0
