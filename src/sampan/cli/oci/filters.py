"""The seccomp section: compiled, loaded with its flags, and its listener handed over."""

from __future__ import annotations

import array
import os
import socket

import msgspec

from sampan.model.oci import RuntimeSpec, Seccomp
from sampan.runtime import direct
from sampan.runtime.sandbox import Operation
from sampan.security.seccomp.compiler import UnsupportedFilter, compile_filter
from sampan.security.seccomp.syscalls import numbers

_FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": 0,
    "SECCOMP_FILTER_FLAG_LOG": 2,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": 32,
}
"""seccomp(2). TSYNC is for processes with threads: ours has one."""
_NEW_LISTENER = 8
FAIL_UNKNOWN = "run.oci.seccomp_fail_unknown_syscall"


def compile_spec(spec: RuntimeSpec) -> bytes:
    """For the plan itself; empty when the filter needs flags and is an operation of its own."""
    seccomp = spec.linux.seccomp
    if seccomp is None or _flags(seccomp):
        return b""
    return _compile(spec, seccomp)


def filter_operations(spec: RuntimeSpec) -> list[Operation]:
    seccomp = spec.linux.seccomp
    if seccomp is None or not _flags(seccomp):
        return []
    listens = bool(seccomp.listener_path)
    return [["seccomp", _compile(spec, seccomp), _flags(seccomp), listens]]


def _flags(seccomp: Seccomp) -> int:
    flags = _NEW_LISTENER if seccomp.listener_path else 0
    for name in seccomp.flags:
        if name not in _FLAGS:
            raise UnsupportedFilter(f"unknown seccomp flag {name!r}")
        flags |= _FLAGS[name]
    return flags


def _compile(spec: RuntimeSpec, seccomp: Seccomp) -> bytes:
    machine = os.uname().machine
    if FAIL_UNKNOWN in spec.annotations:
        for rule in seccomp.syscalls:
            for name in rule.names:
                if name not in numbers(machine):
                    raise UnsupportedFilter(f"invalid seccomp syscall {name!r}")
    return compile_filter(seccomp, machine)


def send_listener(seccomp: Seccomp, child: direct.Child, state: str) -> None:
    """The container process state with the descriptor (config-linux.md, "The Container Process State")."""
    message = {
        "ociVersion": "0.2.0",
        "fds": ["seccompFd"],
        "pid": child.pid,
        "metadata": seccomp.listener_metadata,
        "state": msgspec.json.decode(state),
    }
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(seccomp.listener_path)
        payload = array.array("i", [child.listener_fd])
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, payload)
        connection.sendmsg([msgspec.json.encode(message)], [rights])
    os.close(child.listener_fd)
