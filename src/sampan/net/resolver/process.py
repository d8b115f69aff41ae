"""Starting the name server's process, finding it, ending it. Blocks for as long as the process needs."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import sys

from sampan import __version__
from sampan.base.errors import SystemFailure

from . import server
from .messages import LARGEST, decode, encode

_BOOT = (
    "import sys; sys.path.insert(0, {root!r}); from sampan.net.resolver.boot import boot; "
    "boot({path!r}, {version!r}, {fd})"
)
_PATIENCE_S = 10.0


class ResolverFailed(SystemFailure):
    """The name server cannot be started."""


def find(path: str, version: str = "") -> socket.socket | None:
    """A connection to the process that listens at ``path``; None when there is none. One of another
    ``version`` is ended first."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    connection.settimeout(_PATIENCE_S)
    try:
        connection.connect(path)
    except (FileNotFoundError, ConnectionRefusedError):
        connection.close()
        return None
    if version and _version_of(connection) != version:
        stop(connection)
        return None
    return connection


def _version_of(connection: socket.socket) -> str:
    try:
        connection.send(encode({"do": "status"}))
        return str(decode(connection.recv(LARGEST)).get("version"))
    except (OSError, ValueError):
        return ""


def start(path: str, version: str) -> socket.socket:
    """A connection to a new process. It is no child of this one, so nobody has to wait for it. Raises
    ResolverFailed."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)  # of one that was killed: nobody listens there
    ours, theirs = os.pipe()
    os.set_inheritable(theirs, True)
    root = os.path.abspath(os.path.join(os.path.dirname(server.__file__), "..", "..", ".."))
    boot = _BOOT.format(root=root, path=path, version=version, fd=theirs)
    arguments = [sys.executable, "-I", "-S", "-c", boot]
    try:
        pid = os.posix_spawn(sys.executable, arguments, {"PATH": os.environ.get("PATH", os.defpath)})
    finally:
        os.close(theirs)
    with os.fdopen(ours, "rb", buffering=0) as answer:
        is_ready = answer.read(1) == b"r"
    os.waitpid(pid, 0)
    connection = find(path) if is_ready else None
    if connection is None:
        raise ResolverFailed("the name server did not start: see the daemon's standard error")
    return connection


def stop(connection: socket.socket) -> None:
    """Tell it to end, and wait until its socket is free for the next one. The connection is closed."""
    connection.settimeout(_PATIENCE_S)
    with contextlib.suppress(OSError):
        connection.send(encode({"do": "stop"}))
        while connection.recv(LARGEST):
            pass  # answers to what was said before
    connection.close()


def program_version() -> str:
    """Another one after every change of the program, so that an upgrade replaces the process."""
    folder = os.path.dirname(server.__file__)
    digest = hashlib.sha256(__version__.encode())
    for name in sorted(os.listdir(folder)):
        if name.endswith(".py"):
            with open(os.path.join(folder, name), "rb") as file:
                digest.update(file.read())
    return digest.hexdigest()[:16]
