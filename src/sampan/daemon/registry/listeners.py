"""The registry's sockets: TCP with TLS where set up, unix, systemd's, and the administrator's own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import ssl
from collections.abc import Callable, Mapping

from sampan.daemon.options import SettingError
from sampan.daemon.sockets import BACKLOG, bind_tcp, bind_unix, passed_sockets

from .sections import Settings, TlsSection

log = logging.getLogger(__name__)
Factory = Callable[[], asyncio.Protocol]
HANDSHAKE_S = 20.0
_ADMIN_MODE = 0o600


def tls_context(tls: TlsSection) -> ssl.SSLContext:
    """asyncio's own TLS does here: no client of a registry half-closes. Raises SettingError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    load_certificate(context, tls)
    if tls.client_ca:
        try:
            context.load_verify_locations(tls.client_ca)
        except OSError as error:
            raise SettingError(f"tls.client-ca: {tls.client_ca}: {error}") from None
        required = tls.client_certificates == "required"
        context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
    return context


def load_certificate(context: ssl.SSLContext, tls: TlsSection) -> None:
    """Again when it was renewed: connections made from then on get the new one. Raises SettingError."""
    try:
        context.load_cert_chain(tls.certificate, tls.key)
    except OSError as error:
        raise SettingError(f"tls: {tls.certificate}, {tls.key}: {error}") from None


class Listeners:
    """All sockets of the registry."""

    def __init__(self, settings: Settings) -> None:
        """Raises SettingError."""
        self._settings = settings
        self._tls = tls_context(settings.tls) if settings.tls is not None else None
        self._servers: list[asyncio.AbstractServer] = []
        self._paths: list[tuple[str, int]] = []
        """Unix sockets made here with their inode, to be removed again and only if still ours."""
        self.addresses: list[str] = []
        """Of the TCP sockets."""

    def reload(self, settings: Settings) -> None:
        """Read the certificate again. Raises SettingError."""
        if self._tls is not None and settings.tls is not None:
            load_certificate(self._tls, settings.tls)

    async def open(self, factory: Factory, admin: Factory, environ: Mapping[str, str]) -> None:
        """Start to accept. Raises SettingError."""
        passed = passed_sockets(environ)
        for sock in passed:
            await self._serve(sock, factory)
            log.info("listening on a socket passed by systemd: %s", sock.getsockname())
        for address in () if passed else self._settings.listen:
            if address.startswith("unix://"):
                await self._open_unix(address.removeprefix("unix://"), factory)
            else:
                await self._open_tcp(address, factory)
        if self._settings.admin_socket:
            await self._open_unix(self._settings.admin_socket, admin, mode=_ADMIN_MODE)

    async def _serve(self, sock: socket.socket, factory: Factory) -> None:
        tls, loop = self._tls, asyncio.get_running_loop()
        if sock.family == socket.AF_UNIX:
            self._servers.append(await loop.create_unix_server(factory, sock=sock, backlog=BACKLOG))
            return
        server = await loop.create_server(
            factory, sock=sock, backlog=BACKLOG, ssl=tls, ssl_handshake_timeout=HANDSHAKE_S if tls else None
        )
        self._servers.append(server)

    async def _open_tcp(self, address: str, factory: Factory) -> None:
        sock = bind_tcp(address)
        await self._serve(sock, factory)
        host, port = sock.getsockname()[:2]
        shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self.addresses.append(shown)
        log.info("listening on %s%s", shown, " with TLS" if self._tls else "")

    async def _open_unix(self, path: str, factory: Factory, *, mode: int = 0o660) -> None:
        try:
            sock = bind_unix(path, "")
            os.chmod(path, mode)
        except OSError as error:
            raise SettingError(
                f"cannot listen on {path}: {error.strerror}: set admin-socket or listen"
            ) from None
        self._paths.append((path, os.stat(path).st_ino))
        await self._serve(sock, factory)
        log.info("listening on %s", path)

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
