"""TLS below the HTTP server, with half-closed connections.

asyncio's and uvloop's TLS transports close both directions when the client ends its own: every
``docker exec`` over TCP would lose its output. This layer answers the client's close_notify with
``eof_received`` and goes on writing, as TLS 1.3 allows (RFC 8446, section 6.1).
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from typing import Any, cast

READ_SIZE = 256 * 1024


def server_context(*, cert: str, key: str, ca: str, verify_clients: bool) -> ssl.SSLContext:
    """Raises OSError and ssl.SSLError for files that are missing or no certificates."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(cert, key)
    if verify_clients:
        context.load_verify_locations(ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


class TlsTransport(asyncio.Transport):
    """What the HTTP protocol writes to."""

    def __init__(self, layer: TlsLayer) -> None:
        super().__init__()
        self._layer = layer

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._layer.raw.get_extra_info(name, default)

    def is_closing(self) -> bool:
        return self._layer.closing or self._layer.raw.is_closing()

    def write(self, data: Any) -> None:
        self._layer.write(bytes(data))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self._layer.shut_down()

    def close(self) -> None:
        self._layer.close()

    def abort(self) -> None:
        self._layer.raw.abort()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._layer.inner = cast("asyncio.Protocol", protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._layer.inner

    def pause_reading(self) -> None:
        self._layer.raw.pause_reading()

    def resume_reading(self) -> None:
        self._layer.raw.resume_reading()

    def is_reading(self) -> bool:
        return self._layer.raw.is_reading()

    def get_write_buffer_size(self) -> int:
        return self._layer.raw.get_write_buffer_size()


class TlsLayer(asyncio.Protocol):
    """The raw connection's protocol; ``inner`` sees the plain text."""

    raw: asyncio.Transport

    def __init__(self, context: ssl.SSLContext, make_inner: Callable[[], asyncio.Protocol]) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._make_inner = make_inner
        self.inner: asyncio.Protocol = asyncio.Protocol()
        self._shaken = False
        self._input_ended = False
        self._output_ended = False
        self.closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.raw = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._incoming.write(data)
        try:
            if not self._shaken:
                self._tls.do_handshake()
                self._shaken = True
                self.inner = self._make_inner()
                self.inner.connection_made(TlsTransport(self))
            self._read()
        except ssl.SSLWantReadError:
            self._flush()
        except ssl.SSLError:
            # The alert that OpenSSL has written tells the client why.
            self._flush()
            self.raw.close()

    def _read(self) -> None:
        while not self._input_ended:
            try:
                data = self._tls.read(READ_SIZE)
            except ssl.SSLZeroReturnError:
                # The same as b"", once we have sent close_notify ourselves.
                data = b""
            if not data:
                self._end_input()
                break
            self.inner.data_received(data)
        self._flush()

    def _end_input(self) -> None:
        """The client's close_notify: its half is over, ours is not."""
        if self._input_ended:
            return
        self._input_ended = True
        if not self.inner.eof_received():
            self.close()

    def eof_received(self) -> bool:
        """The TCP half-close that follows close_notify, or a client that has gone without one."""
        if not self._shaken:
            return False
        self._end_input()
        return not self.closing

    def _flush(self) -> None:
        if self._outgoing.pending and not self.raw.is_closing():
            self.raw.write(self._outgoing.read())

    def write(self, data: bytes) -> None:
        if self._output_ended or self.closing or not data:
            return
        self._tls.write(data)
        self._flush()

    def shut_down(self) -> None:
        """Send close_notify: the end of our half."""
        if self._output_ended:
            return
        self._output_ended = True
        # "want read" comes back: the client's own close_notify has not come yet, which is the point.
        with contextlib.suppress(ssl.SSLError):
            self._tls.unwrap()
        self._flush()

    def close(self) -> None:
        if not self.closing:
            if self._shaken:
                self.shut_down()
            self.closing = True
            self.raw.close()

    def pause_writing(self) -> None:
        self.inner.pause_writing()

    def resume_writing(self) -> None:
        self.inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closing = True
        if self._shaken:
            self.inner.connection_lost(exc)
