"""HTTP/1.1 as the Engine API needs it: requests one after the other on a kept connection, chunked bodies
both ways, and connections that turn into raw streams (RFC 9112; hijacking is Docker's own).

``_socket`` instead of ``socket`` and nothing else imported: this is on the path of ``sampan ps``.
"""

from __future__ import annotations

import _socket
import sys

from sampan.cli import jsontext
from sampan.cli.failure import Failure, Refused, Unreachable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any

    from sampan.cli.endpoint import Endpoint

    Query = Sequence[tuple[str, str]]
    Body = bytes | Iterable[bytes] | None

API_VERSION = "1.51"
_READ_SIZE = 65536
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.~/:,")


def quote(text: str) -> str:
    """Percent-encoding for a path segment or a query value; ``/`` and ``:`` stay readable."""
    data = text.encode("utf-8", "surrogateescape")
    if _PLAIN.issuperset(data):
        return text
    return "".join(chr(byte) if byte in _PLAIN else f"%{byte:02X}" for byte in data)


class Connection:
    """A stream socket with a buffer of what has been received but not yet taken."""

    def __init__(self, sock: _socket.socket) -> None:
        self.sock = sock
        self.buffer = bytearray()

    def receive(self, size: int = _READ_SIZE) -> bytes:
        """Bytes from the peer, first the buffered ones; b"" when it has closed its side."""
        if self.buffer:
            data = bytes(self.buffer)
            self.buffer.clear()
            return data
        return self.sock.recv(size)

    def fill(self) -> bool:
        """Receive more into the buffer. False when the peer has closed."""
        data = self.sock.recv(_READ_SIZE)
        self.buffer += data
        return bool(data)

    def take(self, size: int) -> bytes:
        """Up to ``size`` bytes out of the buffer, receiving when it is empty."""
        if not self.buffer and not self.fill():
            return b""
        data = bytes(self.buffer[:size])
        del self.buffer[:size]
        return data

    def take_through(self, mark: bytes) -> bytes:
        """Everything up to and with ``mark``. Raises ConnectionError when the peer closes before."""
        start = 0
        while (end := self.buffer.find(mark, start)) < 0:
            start = max(0, len(self.buffer) - len(mark))
            if not self.fill():
                raise ConnectionResetError("unexpected EOF: the daemon closed the connection")
        data = bytes(self.buffer[: end + len(mark)])
        del self.buffer[: end + len(mark)]
        return data

    def send_all(self, data: bytes) -> None:
        # SIGPIPE is at its default, so that `sampan ps | head` ends quietly; sockets must not raise it.
        self.sock.sendall(data, _socket.MSG_NOSIGNAL)

    def send_some(self, data: bytes) -> int:
        """As much as fits without waiting; 0 when nothing does."""
        try:
            return self.sock.send(data, _socket.MSG_NOSIGNAL | _socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0

    def half_close(self) -> None:
        """No more bytes from us; the peer's still arrive."""
        try:
            self.sock.shutdown(_socket.SHUT_WR)
        except OSError:  # the peer was faster; its end of the stream says the same
            return

    def has_pending(self) -> bool:
        """Whether :meth:`receive` returns without the socket being readable."""
        return bool(self.buffer)

    def fileno(self) -> int:
        return self.sock.fileno()

    def close(self) -> None:
        self.sock.close()


class Response:
    """Status and headers, and the body as a stream."""

    def __init__(self, client: Client, connection: Connection, method: str) -> None:
        self._client = client
        self._connection: Connection | None = connection
        self.unread = b""
        """A body that was looked into and is still to be read."""
        lines = connection.take_through(b"\r\n\r\n").decode("latin-1").split("\r\n")
        self.status = int(lines[0].split(" ", 2)[1])
        self.headers: dict[str, str] = {}
        for line in lines[1:-2]:
            name, _, value = line.partition(":")
            self.headers[name.lower()] = value.strip()
        self._chunked = self.headers.get("transfer-encoding", "").lower() == "chunked"
        self._left = -1
        if self.status in (204, 304) or method == "HEAD":
            self._left, self._chunked = 0, False
        elif self._chunked:
            self._left = 0
        elif "content-length" in self.headers:
            self._left = int(self.headers["content-length"])
        if self._left == 0 and not self._chunked:
            self._release()

    def fileno(self) -> int:
        return self._connection.fileno() if self._connection else -1

    def _release(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._left == 0 and self.headers.get("connection", "").lower() != "close":
            self._client.keep(connection)
        else:
            connection.close()

    def read_some(self, limit: int = _READ_SIZE) -> bytes:
        """Part of the body as soon as there is some; b"" at its end. Raises ConnectionError when cut."""
        connection = self._connection
        if connection is None:
            data, self.unread = self.unread, b""
            return data
        if self._chunked and self._left == 0:
            size = int(connection.take_through(b"\r\n").split(b";")[0], 16)
            if size == 0:
                connection.take_through(b"\r\n")
                self._release()
                return b""
            self._left = size
        data = connection.take(limit if self._left < 0 else min(limit, self._left))
        if not data:
            if self._left > 0:
                raise ConnectionResetError(
                    "unexpected EOF: the daemon closed the connection in the middle of its answer"
                )
            self._release()
            return b""
        if self._left > 0:
            self._left -= len(data)
            if self._left == 0:
                if self._chunked:
                    connection.take_through(b"\r\n")
                else:
                    self._release()
        return data

    def read(self) -> bytes:
        """The rest of the body."""
        parts = []
        while data := self.read_some():
            parts.append(data)
        return b"".join(parts)

    def lines(self) -> Iterator[bytes]:
        """The body line by line as it arrives (NDJSON)."""
        pending = b""
        while data := self.read_some():
            *complete, pending = (pending + data).split(b"\n")
            for line in complete:
                if line.strip():
                    yield line
        if pending.strip():
            yield pending

    def json(self) -> Any:
        body = self.read()
        return jsontext.loads(body) if body.strip() else None

    def close(self) -> None:
        """Give up the rest of the body."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Client:
    """The Engine API at one address; with ``version`` "" another API, whose paths have no version."""

    def __init__(self, endpoint: Endpoint, version: str = API_VERSION, trace: bool = False) -> None:
        self.endpoint = endpoint
        self.version = version
        self._trace = trace
        self._idle: Connection | None = None
        self._connections: list[Connection] = []

    def close(self) -> None:
        """Every connection, whatever it was in the middle of."""
        self._idle = None
        while self._connections:
            self._connections.pop().close()

    def keep(self, connection: Connection) -> None:
        """A connection whose answer has been read to the end serves the next request."""
        if self._idle is None:
            self._idle = connection
        else:
            connection.close()

    def send(
        self, method: str, path: str, query: Query = (), body: Body = None, headers: Query = ()
    ) -> Response:
        """One request. Error statuses are not raised; a version the daemon does not know yet is lowered."""
        response = self._send(method, path, query, body, headers)
        if response.status == 400 and (body is None or isinstance(body, bytes)):
            answer = response.read()
            mark = b"Maximum supported API version is "
            if mark in answer:
                self.version = answer.split(mark)[1].split(b'"')[0].strip().decode()
                return self._send(method, path, query, body, headers)
            response.unread = answer
        return response

    def request(
        self, method: str, path: str, query: Query = (), body: Body = None, headers: Query = ()
    ) -> Response:
        """As :meth:`send`, and raises Refused for an answer of 400 or above."""
        response = self.send(method, path, query, body, headers)
        if response.status >= 400:
            raise Refused(_message(response.read()), response.status)
        return response

    def call(self, method: str, path: str, query: Query = (), value: object = None) -> Any:
        """A request with an optional JSON value as its body, answered by a JSON value (or nothing)."""
        headers: Query = ()
        body = None
        if value is not None:
            body = jsontext.dumps(value).encode("utf-8", "surrogateescape")
            headers = (("Content-Type", "application/json"),)
        return self.request(method, path, query, body, headers).json()

    def hijack(self, path: str, query: Query = (), value: object = None) -> tuple[Connection, str]:
        """A POST whose connection becomes a raw stream. Answers it and the stream's content type."""
        headers = (("Connection", "Upgrade"), ("Upgrade", "tcp"), ("Content-Type", "application/json"))
        body = jsontext.dumps(value).encode("utf-8", "surrogateescape") if value is not None else b""
        connection = self._connect()
        try:
            connection.send_all(self._head("POST", path, query, headers, len(body)) + body)
            response = Response(self, connection, "POST")
        except ConnectionError as error:
            raise Unreachable(f"error during connect: {error}") from error
        if response.status >= 400:
            raise Refused(_message(response.read()), response.status)
        return connection, response.headers.get("content-type", "")

    def _connect(self) -> Connection:
        connection = self.endpoint.connect()
        self._connections.append(connection)
        return connection

    def _head(self, method: str, path: str, query: Query, headers: Query, length: int | None) -> bytes:
        target = f"/v{self.version}{quote(path)}" if self.version else quote(path)
        if query:
            target += "?" + "&".join(f"{name}={quote(value)}" for name, value in query)
        if self._trace:
            print(f"sampan: {method} {target}", file=sys.stderr, flush=True)
        lines = [f"{method} {target} HTTP/1.1", f"Host: {self.endpoint.host}", "User-Agent: Sampan-Client"]
        lines += [f"{name}: {value}" for name, value in headers]
        if length is None:
            lines.append("Transfer-Encoding: chunked")
        elif length or method != "GET":
            lines.append(f"Content-Length: {length}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def _send(self, method: str, path: str, query: Query, body: Body, headers: Query) -> Response:
        connection, self._idle = self._idle, None
        streamed = body is not None and not isinstance(body, bytes)
        head = self._head(method, path, query, headers, None if streamed else len(body or b""))  # type: ignore[arg-type]
        if connection is not None and not streamed:
            try:
                connection.send_all(head + (body or b""))  # type: ignore[operator]
                return Response(self, connection, method)
            except ConnectionError:
                connection.close()  # an idle connection that the daemon has given up: try a new one
        connection = self._connect()
        try:
            if streamed:
                _send_chunks(connection, head, body)  # type: ignore[arg-type]
            else:
                connection.send_all(head + (body or b""))  # type: ignore[operator]
            return Response(self, connection, method)
        except ConnectionError as error:
            raise Unreachable(f"error during connect: {method} {path}: {error}") from error


def _send_chunks(connection: Connection, head: bytes, body: Iterable[bytes]) -> None:
    connection.send_all(head)
    try:
        for part in body:
            if part:
                connection.send_all(b"%x\r\n%b\r\n" % (len(part), part))
        connection.send_all(b"0\r\n\r\n")
    except (BrokenPipeError, ConnectionResetError):
        return  # the daemon refused in the middle; its answer says why


def _message(answer: bytes) -> str:
    try:
        message = jsontext.loads(answer)["message"]
    except (ValueError, KeyError, TypeError):
        return answer.decode("utf-8", "replace").strip() or "the daemon answered with an error and no text"
    return str(message)


__all__ = ["API_VERSION", "Client", "Connection", "Failure", "Response", "quote"]
