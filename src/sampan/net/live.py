"""Interfaces of containers that already run: made and removed from outside their namespace.

setns(2) moves one thread. Each piece of work gets a thread of its own that ends with it, so that no other
work ever finds itself in a container's namespace. Blocks: call it from a worker thread.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Callable
from typing import TypeVar

from sampan.kernel import links
from sampan.kernel.netlink import (
    NLM_F_CREATE,
    NLM_F_REPLACE,
    NetlinkSocket,
    configure_inside,
    create_veth,
    route_request,
)
from sampan.kernel.process import setns
from sampan.model.launch import VethLink

from .errors import DeviceFailed

CLONE_NEWNET = 0x40000000
T = TypeVar("T")


def plug(pid: int, link: VethLink) -> str:
    """Give the running process's namespace one more interface, up and with its addresses; answers its
    name, the first free ``eth<n>``. Raises DeviceFailed; nothing is left then."""
    try:
        name = _in_namespace(pid, _free_name)
        create_veth(
            link.host_name,
            name,
            master_index=socket.if_nametoindex(link.bridge),
            mtu=link.mtu,
            peer_mac=link.mac,
            peer_pid=pid,
        )
        try:
            _in_namespace(pid, lambda: configure_inside(name, link.addresses, link.gateway4, link.gateway6))
        except OSError:
            with NetlinkSocket() as route:
                links.delete_link(route, link.host_name)
            raise
    except OSError as error:
        raise DeviceFailed(f"failed to connect the container: {error.strerror}") from error
    return name


def unplug(pid: int, mac: str, gateways: list[str]) -> None:
    """Take the interface with this MAC address away, and lead the default routes over ``gateways`` of the
    networks that stay. Idempotent; a process that has ended is fine. Raises DeviceFailed."""

    def work() -> None:
        with NetlinkSocket() as route:
            for link in links.list_links(route):
                if link.mac == mac and link.name != "lo":
                    links.delete_link(route, link.name)
            requests = [
                route_request(f"default route via {gateway}", "", gateway, 0, NLM_F_CREATE | NLM_F_REPLACE)
                for gateway in gateways
            ]
            if requests:
                route.execute(requests)

    try:
        _in_namespace(pid, work)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ESRCH):
            raise DeviceFailed(f"failed to disconnect the container: {error.strerror}") from error


def _free_name() -> str:
    with NetlinkSocket() as route:
        taken = {link.name for link in links.list_links(route)}
    return next(name for name in (f"eth{number}" for number in range(len(taken) + 1)) if name not in taken)


def _in_namespace(pid: int, work: Callable[[], T]) -> T:
    """The result of ``work`` in the network namespace of ``pid``. Raises OSError (ENOENT: it has ended)."""
    results: list[T] = []
    failures: list[OSError] = []

    def run() -> None:
        try:
            fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            try:
                setns(fd, CLONE_NEWNET)
            finally:
                os.close(fd)
            results.append(work())
        except OSError as error:
            failures.append(error)

    thread = threading.Thread(target=run, name="sampan-netns")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]
