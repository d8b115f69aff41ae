"""TLS for a client connection, over memory BIOs.

``ssl.SSLSocket`` cannot close one direction: its ``shutdown`` throws the TLS state away, and with it the
rest of the peer's output. Here close_notify goes out alone, as Go's ``CloseWrite`` does it.
"""

from __future__ import annotations

import _socket
import ssl

from sampan.cli.endpoint import TlsFiles
from sampan.cli.failure import Failure, Unreachable
from sampan.cli.http import Connection

_READ_SIZE = 65536


def client_context(files: TlsFiles) -> ssl.SSLContext:
    """Raises Failure for files that cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    used = files.ca
    try:
        if not files.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif files.ca:
            context.load_verify_locations(files.ca)
        else:
            context.load_default_certs()
        if files.certificate:
            used = f"{files.certificate}, {files.key}" if files.key else files.certificate
            context.load_cert_chain(files.certificate, files.key or None)
    except OSError as error:
        reason = "not a certificate or key" if isinstance(error, ssl.SSLError) else error.strerror
        raise Failure(f"cannot use the TLS files {used}: {reason}") from None
    return context


class TlsConnection(Connection):
    """As Connection, encrypted."""

    def __init__(self, sock: _socket.socket, server_name: str, context: ssl.SSLContext) -> None:
        super().__init__(sock)
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_name)
        try:
            while True:
                try:
                    self._tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    self._flush()
                    self._feed()
            self._flush()
        except (ssl.SSLError, ConnectionError) as error:
            self._say_why()
            sock.close()
            raise Unreachable(f"TLS with {server_name} failed: {error}") from None

    def _say_why(self) -> None:
        """The alert for the daemon's log, if it still listens."""
        try:
            self._flush()
        except ConnectionError:
            return

    def _flush(self) -> None:
        if data := self._outgoing.read():
            self.sock.sendall(data, _socket.MSG_NOSIGNAL)

    def _feed(self) -> None:
        data = self.sock.recv(_READ_SIZE)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def _receive(self) -> bytes:
        while True:
            try:
                return self._tls.read(_READ_SIZE)
            except ssl.SSLWantReadError:
                self._flush()
                self._feed()
            except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
                return b""
            except ssl.SSLError as error:
                reason = (error.reason or str(error)).lower().replace("_", " ")
                raise ConnectionResetError(f"TLS: {reason}") from None

    def receive(self, size: int = _READ_SIZE) -> bytes:
        if self.buffer:
            return super().receive(size)
        return self._receive()

    def fill(self) -> bool:
        data = self._receive()
        self.buffer += data
        return bool(data)

    def send_all(self, data: bytes) -> None:
        self._tls.write(data)
        self._flush()

    def send_some(self, data: bytes) -> int:
        self.send_all(data)
        return len(data)

    def half_close(self) -> None:
        # OpenSSL looks for the peer's close_notify too and would trip over data that is already here.
        while True:
            try:
                data = self._tls.read(_READ_SIZE)
            except (ssl.SSLWantReadError, ssl.SSLEOFError, ssl.SSLZeroReturnError):
                break
            if not data:
                break
            self.buffer += data
        try:
            self._tls.unwrap()
        except ssl.SSLError:  # SSLWantReadError: sent, and the peer has not answered, as wanted
            self._flush()

    def has_pending(self) -> bool:
        return bool(self.buffer) or self._tls.pending() > 0 or self._incoming.pending > 0
