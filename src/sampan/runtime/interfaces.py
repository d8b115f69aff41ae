"""Operations on the network of the new process: part of the program that sandbox.py carries out.

Standard library only, as all that runs there. What fails raises OSError.
"""

from __future__ import annotations

import _socket
import errno
import os
import struct
import time

from sampan.kernel import process as proc
from sampan.kernel.netlink import (
    NetlinkSocket,
    configure_inside,
    create_interface,
    rename_link,
    set_loopback_up,
)
from sampan.kernel.qdisc import limit_rate

TYPE_CHECKING = False
if TYPE_CHECKING:  # the typing module is 1.6 MB of heap that every fork would carry page tables for
    from typing import Any

_RESOLVER_S = 5.0


def loopback(_: object) -> None:
    set_loopback_up()


def links(_: object, specs: list[list[Any]]) -> None:
    """A network namespace of our own and its links: the host ends are made through a socket that was
    opened in the host's namespace and stays there."""
    with NetlinkSocket() as host:
        indexes = [_socket.if_nametoindex(spec[1]) for spec in specs]
        proc.unshare(proc.CLONE_NEWNET)
        here = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        for index, spec in zip(indexes, specs, strict=True):
            create_interface(*spec[:7], parent_index=index, namespace_fd=here, route=host)
            if spec[10]:  # what it receives is what the host's end sends
                limit_rate(host, spec[2], spec[10])
        os.close(here)
    for spec in specs:
        if spec[0] != "veth":
            rename_link(spec[2], spec[3])
        configure_inside(spec[3], *spec[7:10])
        if spec[11]:
            with NetlinkSocket() as own:
                limit_rate(own, spec[3], spec[11])


def rename(_: object, old: str, new: str) -> None:
    rename_link(old, new)


def network(_: object, name: str, addresses: list[str], gateway4: str, gateway6: str) -> None:
    configure_inside(name, addresses, gateway4, gateway6)


def resolver(_: object, path: str, container_id: str) -> None:
    """Have the name server make its sockets in our network namespace, before any program can ask it."""
    wish = f'{{"do":"serve","container":"{container_id}"}}'.encode()
    pidfd = os.pidfd_open(os.getpid())
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    connection.settimeout(_RESOLVER_S)
    try:
        _connect(connection, path)
        connection.sendmsg([wish], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack("i", pidfd))])
        answer = connection.recv(4096)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(
            error.errno or errno.ETIMEDOUT, f"it does not answer: {reason}", "name server"
        ) from error
    finally:
        connection.close()
        os.close(pidfd)
    if answer != b"{}":
        raise OSError(errno.EIO, answer.decode("utf-8", "replace"), "name server")


def _connect(connection: _socket.socket, path: str) -> None:
    """It may have died a moment ago: the daemon starts it again."""
    until = time.monotonic() + _RESOLVER_S
    while True:
        try:
            return connection.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            if time.monotonic() > until:
                raise
            time.sleep(0.02)
