"""A small blocking HTTP client over a unix socket: the same, and nearly free, for every engine."""

from __future__ import annotations

import json
import socket
from typing import Any, BinaryIO


class Refused(Exception):
    """An answer of 400 or more: its status and body."""


class Connection:
    """One keep-alive connection. Not for several threads at once."""

    def __init__(self, path: str, timeout_s: float = 120) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout_s)
        try:
            self._socket.connect(path)
        except OSError:
            self._socket.close()
            raise
        self._reader = self._socket.makefile("rb", buffering=1 << 18)

    def close(self) -> None:
        self._reader.close()
        self._socket.close()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """The decoded JSON answer, or its bytes when it is none."""
        self.send(method, path, body)
        return self.answer()

    def send(self, method: str, path: str, body: Any = None) -> None:
        data = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: engine\r\nContent-Length: {len(data)}\r\n"
        if data:
            head += "Content-Type: application/json\r\n"
        self._socket.sendall(head.encode() + b"\r\n" + data)

    def answer(self) -> Any:
        raw = self.answer_bytes()
        try:
            return json.loads(raw)
        except ValueError:
            return raw

    def answer_bytes(self) -> bytes:
        status, headers = self.head()
        raw = self.content(status, headers)
        if status >= 400:
            raise Refused(status, raw.decode(errors="replace"))
        return raw

    def upload(self, path: str, source: BinaryIO, size: int) -> bytes:
        """POST a tar of size bytes."""
        head = f"POST {path} HTTP/1.1\r\nHost: engine\r\nContent-Type: application/x-tar\r\n"
        self._socket.sendall(f"{head}Content-Length: {size}\r\n\r\n".encode())
        self._socket.sendfile(source)
        return self.answer_bytes()

    def hijack(self, path: str, body: Any) -> bytes:
        """POST with an upgrade; all that is sent until the engine closes. Uses the connection up."""
        data = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: engine\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        self._socket.sendall(head.encode() + data)
        status, headers = self.head()
        if status >= 400:
            raise Refused(status, self.content(status, headers).decode(errors="replace"))
        return bytes(self._reader.read())

    def head(self) -> tuple[int, dict[str, str]]:
        """Status and headers (lower-case names) of the next answer."""
        line = self._reader.readline()
        if not line:
            raise ConnectionError("the engine closed the connection without an answer")
        status = int(line.split(b" ", 2)[1])
        headers: dict[str, str] = {}
        while (line := self._reader.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.strip().lower()] = value.strip()
        return status, headers

    def line(self) -> bytes:
        """The next chunk of a chunked answer: one event of a stream."""
        size = int(self._reader.readline(), 16)
        data = bytes(self._reader.read(size))
        self._reader.readline()
        return data

    def content(self, status: int, headers: dict[str, str]) -> bytes:
        """The body that belongs to what head() answered."""
        if status in (204, 304) or status < 200:
            return b""
        if "chunked" in headers.get("transfer-encoding", ""):
            parts = []
            while size := int(self._reader.readline(), 16):
                parts.append(self._reader.read(size))
                self._reader.readline()
            self._reader.readline()
            return b"".join(parts)
        if "content-length" in headers:
            return bytes(self._reader.read(int(headers["content-length"])))
        return bytes(self._reader.read())
