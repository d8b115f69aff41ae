"""The sockets the daemon listens on: unix with group access, TCP on request, systemd's when activated."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import grp
import logging
import os
import socket
import ssl
import stat
from collections.abc import Callable, Mapping

from .options import SettingError
from .settings import Settings
from .tls import TlsLayer, server_context

log = logging.getLogger(__name__)

FIRST_PASSED_FD = 3
BACKLOG = 1024
SOCKET_MODE = 0o660
Factory = Callable[[], asyncio.Protocol]


def passed_sockets(environ: Mapping[str, str]) -> list[socket.socket]:
    """Sockets from systemd (sd_listen_fds(3)), meant for this process."""
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = int(environ.get("LISTEN_FDS", "0"))
    return [socket.socket(fileno=FIRST_PASSED_FD + index) for index in range(count)]


def group_id(name: str) -> int | None:
    """The group that may use the socket: a name, a number, or None when there is no such group."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return int(name) if name.isdigit() else None


def bind_unix(path: str, group: str) -> socket.socket:
    """A listening unix socket of mode 0660. A stale one is replaced; one in use raises SettingError."""
    if not os.path.isabs(path):
        raise SettingError(f"the path of a unix socket must be absolute: {path}")
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # The mode must be right from the first moment: bind creates the file as the umask says.
        before = os.umask(0o777 & ~SOCKET_MODE)
        try:
            sock.bind(path)
        finally:
            os.umask(before)
        gid = group_id(group)
        if gid is not None:
            os.chown(path, 0, gid)
        elif group and group != "docker":
            raise SettingError(f"group {group} not found")
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _remove_stale(path: str) -> None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise SettingError(f"{path} exists and is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except OSError as error:
            if error.errno not in (errno.ECONNREFUSED, errno.ENOENT):
                raise
        else:
            raise SettingError(f"another process listens on {path}")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def bind_tcp(address: str) -> socket.socket:
    """``host:port``, ``:port`` or ``[v6]:port``; without a port Docker's 2375."""
    host, _, port = address.rpartition(":")
    if not port.isdigit():
        host, port = address, "2375"
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host or "0.0.0.0", int(port)))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise SettingError(f"cannot listen on tcp://{address}: {error.strerror}") from None
    return sock


class Listeners:
    """All sockets of the daemon."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._servers: list[asyncio.AbstractServer] = []
        self._paths: list[tuple[str, int]] = []
        """Unix sockets made here with their inode, to be removed again and only if still ours."""

    async def open(self, factory: Factory, environ: Mapping[str, str]) -> None:
        """Start to accept. Raises SettingError."""
        passed = passed_sockets(environ)
        hosts = self._settings.socket_hosts
        if passed and not self._settings.hosts:
            hosts = ("fd://",)
        for host in hosts:
            scheme, _, address = host.partition("://")
            if scheme == "fd":
                await self._open_passed(passed, factory)
            elif scheme == "unix":
                await self._open_unix(address, factory)
            else:
                await self._open_tcp(address, factory)

    async def _open_passed(self, passed: list[socket.socket], factory: Factory) -> None:
        if not passed:
            raise SettingError(
                "no sockets found via socket activation: make sure the service was started by systemd"
            )
        loop = asyncio.get_running_loop()
        for sock in passed:
            if sock.family == socket.AF_UNIX:
                server = await loop.create_unix_server(factory, sock=sock, backlog=BACKLOG)
            else:
                server = await loop.create_server(self._secured(factory), sock=sock, backlog=BACKLOG)
            self._servers.append(server)
            log.info("API listen on a socket passed by systemd: %s", sock.getsockname())

    async def _open_unix(self, path: str, factory: Factory) -> None:
        sock = bind_unix(path, self._settings.group)
        self._paths.append((path, os.stat(path).st_ino))
        loop = asyncio.get_running_loop()
        self._servers.append(await loop.create_unix_server(factory, sock=sock, backlog=BACKLOG))
        log.info("API listen on %s", path)

    async def _open_tcp(self, address: str, factory: Factory) -> None:
        make = self._secured(factory)
        sock = bind_tcp(address)
        loop = asyncio.get_running_loop()
        self._servers.append(await loop.create_server(make, sock=sock, backlog=BACKLOG))
        host, port = sock.getsockname()[:2]
        log.info("API listen on %s:%d", f"[{host}]" if ":" in host else host, port)

    def _secured(self, factory: Factory) -> Factory:
        settings = self._settings
        if not (settings.tls or settings.tlsverify):
            log.warning(
                "the API is reachable over TCP without TLS: whoever reaches it is root on this machine; "
                "set --tlsverify"
            )
            return factory
        try:
            context = server_context(
                cert=settings.tlscert or "/etc/sampan/cert.pem",
                key=settings.tlskey or "/etc/sampan/key.pem",
                ca=settings.tlscacert or "/etc/sampan/ca.pem",
                verify_clients=settings.tlsverify,
            )
        except (OSError, ssl.SSLError) as error:
            raise SettingError(f"cannot set up TLS: {error}") from None
        return lambda: TlsLayer(context, factory)

    async def close(self) -> None:
        """Accept no more; connections that are open stay."""
        for server in self._servers:
            server.close()
        for path, inode in self._paths:
            with contextlib.suppress(FileNotFoundError):
                if os.stat(path).st_ino == inode:
                    os.unlink(path)
        self._servers.clear()
        self._paths.clear()
