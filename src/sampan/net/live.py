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
    create_interface,
    device_route_request,
    rename_link,
    route_request,
)
from sampan.kernel.process import setns
from sampan.kernel.qdisc import limit_rate, unlimit_rate
from sampan.model.container import Endpoint
from sampan.model.launch import Interface

from .errors import DeviceFailed

CLONE_NEWNET = 0x40000000
_SYSCTL_PATH = str.maketrans("./", "/.")
T = TypeVar("T")


def plug(pid: int, link: Interface, leads: tuple[bool, bool] = (False, False)) -> str:
    """Give the running process's namespace one more interface, up and with its addresses; answers its
    name, the first free ``eth<n>`` unless the link has one of its own. ``leads``: it becomes the default
    route of IPv4, of IPv6. Raises DeviceFailed; nothing is left then."""

    def configure(name: str) -> None:
        if link.kind != "veth":
            rename_link(link.host_name, name)
        configure_inside(name, link.addresses)
        for key, value in link.sysctls:
            own = key.replace(f".{link.container_name.replace('.', '/')}.", f".{name.replace('.', '/')}.")
            links.write_sysctl(own.translate(_SYSCTL_PATH), value)
        if link.send_limit:
            with NetlinkSocket() as route:
                limit_rate(route, name, link.send_limit)
        _lead(name, [link.gateway4 if leads[0] else "", link.gateway6 if leads[1] else ""])

    try:
        name = in_namespace(pid, lambda: _free_name(link.container_name))
        create_interface(
            link.kind,
            link.parent,
            link.host_name,
            name,
            link.mac,
            link.mtu,
            link.mode,
            parent_index=socket.if_nametoindex(link.parent),
            pid=pid,
        )
        if link.receive_limit:
            with NetlinkSocket() as host:
                limit_rate(host, link.host_name, link.receive_limit)
        try:
            in_namespace(pid, lambda: configure(name))
        except OSError:
            in_namespace(pid, lambda: _delete(name if link.kind == "veth" else link.host_name))
            raise
    except OSError as error:
        raise DeviceFailed(f"failed to connect the container: {error.strerror}") from error
    return name


def unplug(pid: int, left: Endpoint, gateways: list[str]) -> None:
    """Take the interface of an endpoint away, and lead the default routes over ``gateways`` of the networks
    that stay. Idempotent; a process that has ended is fine. Raises DeviceFailed."""

    def work() -> None:
        with NetlinkSocket() as route:
            for link in links.list_links(route):
                if link.name != "lo" and _is_of(route, link, left):
                    links.delete_link(route, link.name)
        _lead("", gateways)

    try:
        in_namespace(pid, work)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ESRCH):
            raise DeviceFailed(f"failed to disconnect the container: {error.strerror}") from error


def _is_of(route: NetlinkSocket, link: links.Link, endpoint: Endpoint) -> bool:
    """By its MAC address; interfaces of ipvlan have their parent's, and are told by their addresses."""
    if endpoint.mac_address:
        return link.mac == endpoint.mac_address
    own = {text.partition("/")[0] for text in links.list_addresses(route, link.ifindex)}
    return bool(own & {endpoint.ip_address, endpoint.global_ipv6_address})


def set_limits(pid: int, host_name: str, mac: str, receive: int, send: int) -> None:
    """Bits per second of a running container's link, 0 for no limit; ``mac`` finds its interface. Raises
    DeviceFailed."""

    def inside() -> None:
        with NetlinkSocket() as own:
            found = next((link.name for link in links.list_links(own) if link.mac == mac), "")
            if not found:
                raise OSError(errno.ENODEV, f"no interface has the address {mac}")
            _set_limit(own, found, send)

    try:
        with NetlinkSocket() as host:
            _set_limit(host, host_name, receive)
        in_namespace(pid, inside)
    except OSError as error:
        raise DeviceFailed(f"failed to limit the container's bandwidth: {error.strerror}") from error


def _set_limit(route: NetlinkSocket, name: str, bits_per_s: int) -> None:
    if bits_per_s:
        limit_rate(route, name, bits_per_s)
    else:
        unlimit_rate(route, name)


def _lead(name: str, gateways: list[str]) -> None:
    """Default routes over these addresses; ``dev`` stands for the interface ``name`` itself."""
    replace = NLM_F_CREATE | NLM_F_REPLACE
    requests = []
    for family, gateway in zip((socket.AF_INET, socket.AF_INET6), gateways, strict=False):
        if gateway == "dev":
            index = socket.if_nametoindex(name)
            requests.append(device_route_request(f"default route through {name}", family, index, replace))
        elif gateway:
            requests.append(route_request(f"default route via {gateway}", "", gateway, 0, replace))
    if requests:
        with NetlinkSocket() as route:
            route.execute(requests)


def _delete(name: str) -> None:
    with NetlinkSocket() as route:
        links.delete_link(route, name)


def _free_name(wanted: str) -> str:
    with NetlinkSocket() as route:
        taken = {link.name for link in links.list_links(route)}
    if not wanted.startswith("eth") and wanted not in taken:
        return wanted
    return next(name for name in (f"eth{number}" for number in range(len(taken) + 1)) if name not in taken)


def in_namespace(pid: int, work: Callable[[], T]) -> T:
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
