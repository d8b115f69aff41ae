"""The door to the kernel: libc through ctypes, system call numbers, one place that turns errno into OSError.

Standard library only: the spawner and every monitor carry this module in memory.
"""

from __future__ import annotations

import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)

# Since kernel 5.1 a new call has one number on every architecture (asm-generic/unistd.h).
SYS_OPEN_TREE = 428
SYS_MOVE_MOUNT = 429
SYS_FSOPEN = 430
SYS_FSCONFIG = 431
SYS_FSMOUNT = 432
SYS_PIDFD_OPEN = 434
SYS_CLONE3 = 435
SYS_CLOSE_RANGE = 436
SYS_OPENAT2 = 437
SYS_MOUNT_SETATTR = 442

_OLD = {
    "x86_64": {"pivot_root": 155, "capset": 126, "capget": 125, "seccomp": 317, "keyctl": 250, "bpf": 321},
    "aarch64": {"pivot_root": 41, "capset": 91, "capget": 90, "seccomp": 277, "keyctl": 219, "bpf": 280},
}
_numbers = _OLD.get(os.uname().machine, _OLD["x86_64"])
SYS_PIVOT_ROOT = _numbers["pivot_root"]
SYS_CAPSET = _numbers["capset"]
SYS_CAPGET = _numbers["capget"]
SYS_SECCOMP = _numbers["seccomp"]
SYS_KEYCTL = _numbers["keyctl"]
SYS_BPF = _numbers["bpf"]

_syscall = libc.syscall
_syscall.restype = ctypes.c_long


def fail(what: str) -> OSError:
    """The OSError of the last call; ``what`` names the object, as a file name does."""
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), what)


def syscall(number: int, *arguments: object, what: str) -> int:
    """syscall(2). Bytes and ctypes pointers are passed as they are, integers as int, sign-extended: at most
    32 bits, which no call needs more than here. Making an object of each argument took 3 us a call, more
    than most calls do. Raises OSError."""
    result: int = _syscall(number, *arguments)
    if result < 0:
        raise fail(what)
    return result


def check(result: int, what: str) -> int:
    """The result of a libc function, or OSError when it is negative."""
    if result < 0:
        raise fail(what)
    return result
