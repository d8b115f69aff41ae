"""Network namespaces for tests: the host's (this process moves into an own one), containers, the outside."""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from sampan.kernel import links
from sampan.kernel.netlink import NetlinkSocket, configure_inside, create_veth, set_loopback_up
from sampan.model.launch import Interface

CLONE_NEWNET = 0x40000000
T = TypeVar("T")

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


@contextmanager
def own_namespace() -> Iterator[None]:
    """This process in a fresh network namespace with its loopback up; back to the old one afterwards."""
    old = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.unshare(CLONE_NEWNET), "unshare")
        set_loopback_up()
        yield
    finally:
        _check(_libc.setns(old, CLONE_NEWNET), "setns")
        os.close(old)


def _in_child(work: Callable[[], object], report: int) -> None:
    """Never returns."""
    code = 1
    try:
        try:
            answer: tuple[bool, object] = (True, work())
        except BaseException as error:  # whatever it is, the parent raises it
            answer = (False, error)
        os.write(report, pickle.dumps(answer))
        code = 0
    finally:
        os._exit(code)


def _read_all(fd: int) -> bytes:
    with os.fdopen(fd, "rb") as file:
        return file.read()


def _close_all_but(*kept: int) -> None:
    """A child must not hold what the daemon under test has open, such as the sockets of its ports."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in kept:
            with suppress(OSError):
                os.close(int(name))


class Box:
    """A process that holds a network namespace, and work done inside it."""

    def __init__(self) -> None:
        self._children: list[int] = []
        ready_r, ready_w = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            signal.alarm(120)
            _close_all_but(ready_w)
            _check(_libc.unshare(CLONE_NEWNET), "unshare")
            os.write(ready_w, b"x")
            signal.pause()
            os._exit(0)
        os.close(ready_w)
        assert os.read(ready_r, 1) == b"x"
        os.close(ready_r)

    def run(self, work: Callable[[], T]) -> T:
        """The result of ``work`` in a child process in the box; its exception is raised here."""
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            _close_all_but(write)
            self._enter()
            _in_child(work, write)
        os.close(write)
        data = _read_all(read)
        os.waitpid(pid, 0)
        succeeded, answer = pickle.loads(data)
        if not succeeded:
            raise answer
        return answer

    def serve(self, address: str, port: int, kind: int = socket.SOCK_STREAM) -> None:
        """Answer every connection (or datagram) with the peer's address; returns when listening."""
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            signal.alarm(60)
            _close_all_but(write)
            self._enter()
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            with socket.socket(family, kind) as server:
                server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                server.bind((address, port))
                if kind == socket.SOCK_STREAM:
                    server.listen(16)
                os.write(write, b"x")
                _answer_forever(server, kind)
        self._children.append(pid)
        os.close(write)
        assert os.read(read, 1) == b"x", "the server in the box did not start"
        os.close(read)

    def _enter(self) -> None:
        fd = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        _check(_libc.setns(fd, CLONE_NEWNET), "setns")
        os.close(fd)

    def close(self) -> None:
        for pid in (*self._children, self.pid):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        self._children = []


def _answer_forever(server: socket.socket, kind: int) -> None:
    while True:
        if kind == socket.SOCK_STREAM:
            connection, peer = server.accept()
            connection.sendall(peer[0].encode())
            connection.close()
        else:
            _, peer = server.recvfrom(100)
            server.sendto(peer[0].encode(), peer)


def plug(box: Box, link: Interface) -> None:
    """What the runtime does with a link."""
    create_veth(
        link.host_name,
        link.container_name,
        master_index=socket.if_nametoindex(link.parent),
        mtu=link.mtu,
        peer_mac=link.mac,
        peer_pid=box.pid,
    )
    box.run(lambda: configure_inside(link.container_name, link.addresses, link.gateway4, link.gateway6))


def wire_outside(box: Box, name: str, host: list[str], outside: list[str]) -> None:
    """A cable from the host's namespace to another machine; addresses with prefix. The other machine has
    the host as its default gateway, so that it can try to reach containers directly."""
    create_veth(name, "eth0", peer_pid=box.pid)
    with NetlinkSocket() as route:
        for address in host:
            links.ensure_address(route, name, socket.if_nametoindex(name), address)
    gateways = {":" in address: address.partition("/")[0] for address in host}
    box.run(lambda: configure_inside("eth0", outside, gateways.get(False, ""), gateways.get(True, "")))


def ask(address: str, port: int, kind: int = socket.SOCK_STREAM, timeout_s: float = 3.0) -> str:
    """Connect and read the answer: how the server saw us. Raises OSError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    deadline = time.monotonic() + timeout_s
    with socket.socket(family, kind) as client:
        if kind == socket.SOCK_STREAM:
            client.settimeout(timeout_s)
            client.connect((address, port))
            return client.recv(100).decode()
        # A datagram may be lost while a bridge port comes up: ask again until the deadline.
        client.settimeout(0.3)
        while True:
            client.sendto(b"?", (address, port))
            try:
                return client.recv(100).decode()
            except TimeoutError:
                if time.monotonic() > deadline:
                    raise


def refused(work: Callable[[], Any]) -> bool:
    """Whether it failed for want of a way, be it by refusal or by silence."""
    try:
        work()
    except OSError:
        return True
    return False


def link_names() -> set[str]:
    with NetlinkSocket() as route:
        return {link.name for link in links.list_links(route)}
