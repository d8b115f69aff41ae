"""Capabilities as the kernel numbers them (include/uapi/linux/capability.h), and how many this one has."""

from __future__ import annotations

_WORDS = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE"
    " NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO"
    " SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME"
    " SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG"
    " WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
)
NAMES = tuple("CAP_" + word for word in _WORDS.split())
"""Index is the number."""

NUMBERS = {name: number for number, name in enumerate(NAMES)}


def mask(names: list[str]) -> int:
    """The bit mask of ``CAP_*`` names; names this table does not know are left out, as runc does with a
    warning, because a newer specification may ask for what an older kernel lacks."""
    bits = 0
    for name in names:
        number = NUMBERS.get(name)
        if number is not None:
            bits |= 1 << number
    return bits


def last_capability() -> int:
    """The highest number the running kernel knows (/proc/sys/kernel/cap_last_cap)."""
    with open("/proc/sys/kernel/cap_last_cap") as file:
        return int(file.read())


def own_bounding_set() -> int:
    """The mask that the calling process cannot exceed, whatever it asks for (proc(5), ``CapBnd``)."""
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith("CapBnd:"):
                return int(line.split()[1], 16)
    return 0
