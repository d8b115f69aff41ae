"""Where the daemon is: ``unix://`` or ``tcp://``, with TLS when asked."""

from __future__ import annotations

import _socket

from sampan.cli.failure import Failure, Unreachable
from sampan.cli.http import Connection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

DEFAULT_ADDRESS = "unix:///run/sampan/sampan.sock"


class TlsFiles:
    """The files of a TLS client; empty paths are not used."""

    __slots__ = ("ca", "certificate", "key", "verify")

    def __init__(self, ca: str, certificate: str, key: str, verify: bool) -> None:
        self.ca = ca
        self.certificate = certificate
        self.key = key
        self.verify = verify


class Endpoint:
    """One address of a daemon."""

    def __init__(self, address: str, tls: TlsFiles | None = None) -> None:
        self.address = address
        self.tls = tls
        scheme, mark, rest = address.partition("://")
        if not mark:
            scheme, rest = ("unix", address) if address.startswith("/") else ("tcp", address)
        if scheme == "ssh":
            raise Failure(
                "ssh:// is not implemented yet. Forward the socket instead:\n"
                "  ssh -nNT -L /tmp/sampan.sock:/run/sampan/sampan.sock USER@HOST\n"
                "  sampan -H unix:///tmp/sampan.sock ps"
            )
        if scheme not in ("unix", "tcp", "http", "https") or not rest:
            raise Failure(f"unable to parse daemon host {address!r}: use unix:///PATH or tcp://HOST:PORT")
        self.path = rest if scheme == "unix" else ""
        self.host = "sampan"
        if scheme != "unix":
            self.host = rest.split("/")[0]
            if scheme == "https" and tls is None:
                self.tls = TlsFiles("", "", "", verify=True)

    def connect(self) -> Connection:
        """A new connection. Raises Unreachable with the remedy."""
        if not self.path:
            return self._connect_tcp()
        sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        try:
            sock.connect(self.path)
        except PermissionError:
            sock.close()
            raise Unreachable(
                f"permission denied while trying to connect to the Sampan daemon at {self.address}\n"
                "Use sudo, or become a member of the group that owns the socket."
            ) from None
        except OSError:
            sock.close()
            raise Unreachable(self._down()) from None
        return Connection(sock)

    def _down(self) -> str:
        return (
            f"Cannot connect to the Sampan daemon at {self.address}. Is sampand running?\n"
            "Start it with 'sudo sampand' or name another one with -H, SAMPAN_HOST or DOCKER_HOST."
        )

    def _wrapper(self, name: str) -> Callable[[_socket.socket], Connection]:
        """What makes a connection of a socket. Raises Failure for unusable TLS files before any is open."""
        if self.tls is None:
            return Connection
        from sampan.cli.tls import TlsConnection, client_context

        context = client_context(self.tls)
        return lambda sock: TlsConnection(sock, name, context)

    def _connect_tcp(self) -> Connection:
        name, _, port_text = self.host.rpartition(":")
        if not name:
            name, port_text = self.host, ""
        port = int(port_text) if port_text.isdigit() else (2376 if self.tls else 2375)
        name = name.strip("[]") or "127.0.0.1"
        wrap = self._wrapper(name)
        last: OSError | None = None
        try:
            candidates = _socket.getaddrinfo(name, port, 0, _socket.SOCK_STREAM)
        except OSError as error:
            raise Unreachable(f"cannot resolve {name!r}: {error.strerror}\n{self._down()}") from None
        for family, kind, protocol, _, address in candidates:
            sock = _socket.socket(family, kind | _socket.SOCK_CLOEXEC, protocol)
            try:
                sock.connect(address)
            except OSError as error:
                sock.close()
                last = error
                continue
            sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
            return wrap(sock)
        reason = f" ({last.strerror})" if last else ""
        raise Unreachable(self._down().replace(". Is", f"{reason}. Is", 1))
