"""Making processes and changing what they are: clone3, setns, credentials, capabilities, seccomp, prctl."""

from __future__ import annotations

import ctypes
import os

from .syscalls import (
    SYS_CAPSET,
    SYS_CLONE3,
    SYS_CLOSE_RANGE,
    SYS_KEYCTL,
    SYS_PIDFD_OPEN,
    SYS_SECCOMP,
    check,
    fail,
    libc,
    syscall,
)

CLONE_NEWTIME = 0x00000080
CLONE_PIDFD = 0x00001000
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_INTO_CGROUP = 0x200000000

NAMESPACE_FLAGS = {
    "mount": CLONE_NEWNS,
    "pid": CLONE_NEWPID,
    "network": CLONE_NEWNET,
    "ipc": CLONE_NEWIPC,
    "uts": CLONE_NEWUTS,
    "user": CLONE_NEWUSER,
    "cgroup": CLONE_NEWCGROUP,
    "time": CLONE_NEWTIME,
}

_PR_SET_PDEATHSIG = 1
_PR_SET_KEEPCAPS = 8
_PR_SET_NAME = 15
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_PR_SET_DUMPABLE = 4

_SECCOMP_SET_MODE_FILTER = 1
_KEYCTL_JOIN_SESSION_KEYRING = 1
_CAPABILITY_VERSION_3 = 0x20080522


class _CloneArgs(ctypes.Structure):
    _fields_ = [
        ("flags", ctypes.c_uint64),
        ("pidfd", ctypes.c_uint64),
        ("child_tid", ctypes.c_uint64),
        ("parent_tid", ctypes.c_uint64),
        ("exit_signal", ctypes.c_uint64),
        ("stack", ctypes.c_uint64),
        ("stack_size", ctypes.c_uint64),
        ("tls", ctypes.c_uint64),
        ("set_tid", ctypes.c_uint64),
        ("set_tid_size", ctypes.c_uint64),
        ("cgroup", ctypes.c_uint64),
    ]


class _CapHeader(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _CapData(ctypes.Structure):
    _fields_ = [
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    ]


class _SockFprog(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


_clone_pidfd = ctypes.c_int(-1)
_clone = _CloneArgs(pidfd=ctypes.addressof(_clone_pidfd), exit_signal=17)
"""Made once: the processes that clone are small, and building a structure touches much of ctypes."""

_prctl = libc.prctl
_setns = libc.setns
_setns.argtypes = [ctypes.c_int, ctypes.c_int]
_unshare = libc.unshare
_unshare.argtypes = [ctypes.c_int]


def clone3(flags: int, cgroup_fd: int = -1) -> tuple[int, int]:
    """fork with new namespaces (clone3(2), kernel 5.3; ``cgroup_fd`` 5.7). Returns (pid, pidfd), (0, -1)
    in the child. For single-threaded processes only: Python's own fork handlers are not run."""
    _clone.flags = flags | CLONE_PIDFD | (CLONE_INTO_CGROUP if cgroup_fd >= 0 else 0)
    _clone.cgroup = max(cgroup_fd, 0)
    pid = syscall(SYS_CLONE3, ctypes.byref(_clone), ctypes.sizeof(_clone), what="clone3")
    return pid, _clone_pidfd.value if pid else -1


def pidfd_open(pid: int) -> int:
    """pidfd_open(2). Raises ProcessLookupError for a process that is gone."""
    return syscall(SYS_PIDFD_OPEN, pid, 0, what=f"process {pid}")


def setns(fd: int, kind: int) -> None:
    """setns(2) with a namespace file or (kernel 5.8) a pidfd and several CLONE_NEW* flags."""
    check(_setns(fd, kind), f"setns {kind:#x}")


def unshare(flags: int) -> None:
    """unshare(2)."""
    check(_unshare(flags), f"unshare {flags:#x}")


def close_on_exec_from(first_fd: int) -> None:
    """Mark every descriptor from ``first_fd`` close-on-exec (close_range(2), kernel 5.11)."""
    syscall(SYS_CLOSE_RANGE, first_fd, 0xFFFFFFFF, 4, what="close_range")


def close_from(first_fd: int, last_fd: int = 0xFFFFFFFF) -> None:
    """close_range(2), kernel 5.9."""
    if first_fd <= last_fd:
        syscall(SYS_CLOSE_RANGE, first_fd, last_fd, 0, what="close_range")


def set_parent_death_signal(signal: int) -> None:
    """PR_SET_PDEATHSIG. Cleared by the kernel when credentials change: call it after setuid."""
    check(_prctl(_PR_SET_PDEATHSIG, signal, 0, 0, 0), "PR_SET_PDEATHSIG")


def set_name(name: str) -> None:
    """What ``ps`` shows in brackets and /proc/<pid>/comm says; 15 bytes."""
    buffer = ctypes.create_string_buffer(name.encode()[:15])
    check(_prctl(_PR_SET_NAME, buffer, 0, 0, 0), "PR_SET_NAME")


def set_no_new_privileges() -> None:
    """PR_SET_NO_NEW_PRIVS."""
    check(_prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "PR_SET_NO_NEW_PRIVS")


def set_keep_capabilities(on: bool) -> None:
    """PR_SET_KEEPCAPS: permitted capabilities survive the change from uid 0."""
    check(_prctl(_PR_SET_KEEPCAPS, int(on), 0, 0, 0), "PR_SET_KEEPCAPS")


def set_dumpable(on: bool) -> None:
    """PR_SET_DUMPABLE: whether other processes may look into this one's memory and descriptors."""
    check(_prctl(_PR_SET_DUMPABLE, int(on), 0, 0, 0), "PR_SET_DUMPABLE")


def drop_bounding(keep: int, last: int) -> None:
    """Drop from the bounding set every capability up to number ``last`` whose bit is not in ``keep``."""
    for number in range(last + 1):
        if not keep >> number & 1 and _prctl(_PR_CAPBSET_DROP, number, 0, 0, 0) < 0:
            raise fail(f"capability {number}")


def set_capabilities(effective: int, permitted: int, inheritable: int) -> None:
    """capset(2) with 64-bit masks."""
    header = _CapHeader(_CAPABILITY_VERSION_3, 0)
    data = (_CapData * 2)()
    for half in (0, 1):
        data[half].effective = effective >> 32 * half & 0xFFFFFFFF
        data[half].permitted = permitted >> 32 * half & 0xFFFFFFFF
        data[half].inheritable = inheritable >> 32 * half & 0xFFFFFFFF
    syscall(SYS_CAPSET, ctypes.byref(header), ctypes.byref(data), what="capset")


def set_ambient(mask: int) -> None:
    """Replace the ambient set (capabilities(7), kernel 4.3)."""
    check(_prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), "ambient capabilities")
    number = 0
    while mask >> number:
        if mask >> number & 1:
            check(_prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, number, 0, 0), f"ambient {number}")
        number += 1


def load_seccomp(bpf: bytes, flags: int = 0) -> int:
    """Install a filter, an array of struct sock_filter (seccomp(2)). With SECCOMP_FILTER_FLAG_NEW_LISTENER
    the answer is the listener's descriptor, else 0."""
    program = _SockFprog(len(bpf) // 8, bpf)
    return syscall(SYS_SECCOMP, _SECCOMP_SET_MODE_FILTER, flags, ctypes.byref(program), what="seccomp filter")


def join_new_session_keyring(name: str) -> None:
    """A keyring of its own, so that the host's keys are not inherited (keyctl(2)).

    Filters of an outer engine may refuse it; isolation then rests on the user's keys being the same anyway,
    which is how runc treats ENOSYS.
    """
    try:
        syscall(SYS_KEYCTL, _KEYCTL_JOIN_SESSION_KEYRING, name.encode(), 0, 0, 0, what="session keyring")
    except OSError as error:
        if error.errno not in (38, 1, 122):  # ENOSYS, EPERM, EDQUOT
            raise


def exit_code(status: int) -> int:
    """wait(2)'s status as a shell shows it: 128 + n after signal n."""
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
