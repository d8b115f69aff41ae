"""Operations of the OCI lifecycle, which the engine's own containers do not use: hooks, the pause between
create and start, scheduling, NUMA policy, id-mapped binds, seccomp listeners.

Registered with the sandbox by :func:`register`, before the clone, so that nothing need be imported once the
files of the host are out of sight.
"""

from __future__ import annotations

import ctypes
import os
import socket
import stat
import struct
from typing import Any

from sampan.kernel import mount as mnt
from sampan.kernel import process as proc
from sampan.kernel.paths import make_directories, make_file
from sampan.kernel.syscalls import libc

from . import hooks as hook_runner
from .accounts import resolve_user
from .sandbox import OPERATIONS, Sandbox, SandboxError, await_monitor, candidates, give_streams


def ask(sandbox: Sandbox, what: str) -> None:
    """Let the caller do something at this point, and wait until it has."""
    sandbox.sync.send(what.encode())
    await_monitor(sandbox, what)


def hooks(_: Sandbox, entries: list[list[Any]], state: str, outputs: tuple[str, str]) -> None:
    """The hooks that run inside the container's namespaces, where the process has another pid."""
    try:
        hook_runner.run(entries, state.replace('"pid": 0', f'"pid": {os.getpid()}', 1), outputs)
    except hook_runner.HookFailed as error:
        raise SandboxError(str(error), 1) from error


def await_start(sandbox: Sandbox, fifo_fd: int) -> None:
    """Between create and start: wait for a byte in a FIFO. The caller opened it for reading and writing, so
    that no end of file wakes us, and before the clone, since a user namespace may not reach its path."""
    sandbox.sync.send(b"ready")
    sandbox.sync.shutdown(socket.SHUT_RDWR)
    os.read(fifo_fd, 1)
    os.close(fifo_fd)


def find_command(_: Sandbox, arguments: list[str], environment: list[str]) -> None:
    """Say at create time what execve would say at start. Raises SandboxError 126 or 127."""
    command = arguments[0]
    path = next((entry[5:] for entry in environment if entry.startswith("PATH=")), "")
    found = [candidate for candidate in candidates(command, path) if os.path.isfile(candidate)]
    if any(os.access(candidate, os.X_OK) for candidate in found):
        return
    if found:
        raise SandboxError(f'exec: "{command}": permission denied', 126)
    if "/" in command and not command.startswith("/"):
        return  # relative to the working directory, which may be entered only as another user
    raise SandboxError(f'exec: "{command}": executable file not found in $PATH', 127)


def idmapped_bind(
    sandbox: Sandbox, tree: int, target: str, add: int, clear: int, spread: int, deep: bool
) -> None:
    """A tree that the caller cloned and mapped, at ``target`` inside the root."""
    place = make_directories if stat.S_ISDIR(os.stat(tree).st_mode) else make_file
    fd = place(sandbox.root_fd, target)
    mnt.attach(tree, fd)
    os.close(fd)
    if add or clear:
        mnt.set_attributes(tree, add=add, clear=clear, recursive=deep)
    if spread:
        mnt.set_attributes(tree, propagation=spread & ~mnt.MS_REC, recursive=bool(spread & mnt.MS_REC))
    os.close(tree)


def exact_user(sandbox: Sandbox, uid: int, gid: int, groups: list[int]) -> None:
    """Numbers as the OCI specification gives them: no group that it does not name."""
    sandbox.user = resolve_user(None, [], uid, gid, groups)
    sandbox.user["groups"] = groups
    give_streams(sandbox, gid)


def system_call(_: Sandbox, number: int, arguments: list[int | bytes], what: str) -> None:
    """One call by number: what has no function of its own in Python (scheduling, NUMA, I/O priority)."""
    values = [ctypes.c_char_p(a) if isinstance(a, bytes) else ctypes.c_long(a) for a in arguments]
    if libc.syscall(ctypes.c_long(number), *values) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), what)


def affinity(_: Sandbox, cpus: list[int]) -> None:
    os.sched_setaffinity(0, cpus)


def seccomp_filter(sandbox: Sandbox, bpf: bytes, flags: int, listens: bool) -> None:
    """A filter with flags; the listener's descriptor goes to the caller."""
    listener = proc.load_seccomp(bpf, flags)
    if listens:
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", listener))
        sandbox.sync.sendmsg([b"listener"], [rights])
        os.close(listener)


def register() -> None:
    """Teach the sandbox of this process these operations."""
    OPERATIONS.update(
        {
            "ask": ask,
            "hooks": hooks,
            "await-start": await_start,
            "find-command": find_command,
            "idmapped-bind": idmapped_bind,
            "exact-user": exact_user,
            "system-call": system_call,
            "affinity": affinity,
            "seccomp": seccomp_filter,
        }
    )
