"""A small HTTP server on a unix socket that records what a client sends and answers from a table."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO, Self

CREATED = b'{"Id":"' + b"c0ffee" * 10 + b'abcd","Warnings":[]}'


@dataclass(frozen=True)
class Request:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def path(self) -> str:
        """Without version and query."""
        path = self.target.partition("?")[0]
        head, _, rest = path.lstrip("/").partition("/")
        return "/" + rest if head.startswith("v1.") else path


@dataclass(frozen=True)
class Answer:
    body: bytes = b""
    status: int = 200
    content_type: str = "application/json"
    chunked: bool = False


Handler = Callable[[Request, socket.socket], Answer | None]


class RecordingServer:
    """``answers`` maps ``METHOD /path`` to an Answer, or a handler that may take the socket over (None)."""

    def __init__(self, answers: dict[str, Answer | Handler] | None = None) -> None:
        self._folder = tempfile.mkdtemp(prefix="sampan-cli-")
        self.path = os.path.join(self._folder, "api.sock")
        self.requests: list[Request] = []
        self.answers: dict[str, Answer | Handler] = {
            "HEAD /_ping": Answer(b""),
            "POST /containers/create": Answer(CREATED, 201),
            **(answers or {}),
        }
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen(50)
        self._threads = [threading.Thread(target=self._accept)]
        self._open: list[socket.socket] = []

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self._listener.close()
        for connection in self._open:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        for thread in self._threads[1:]:
            thread.join()
        for connection in self._open:
            connection.close()
        shutil.rmtree(self._folder)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection.makefile("rb") as stream:
                while (request := _read(stream)) is not None:
                    self.requests.append(request)
                    answer = self.answers.get(
                        f"{request.method} {request.path}", Answer(b'{"message":"no such thing"}', 404)
                    )
                    if callable(answer):
                        answer = answer(request, connection)
                        if answer is None:
                            return
                    connection.sendall(_encoded(answer, request.method))
        except OSError:
            return


def _read(stream: BinaryIO) -> Request | None:
    line = stream.readline()
    if not line:
        return None
    method, target, _ = line.decode().split()
    headers = {}
    while (text := stream.readline().decode().strip()) != "":
        name, _, value = text.partition(":")
        headers[name.lower()] = value.strip()
    body = stream.read(int(headers.get("content-length", "0")))
    if headers.get("transfer-encoding") == "chunked":
        while size := int(stream.readline(), 16):
            body += stream.read(size)
            stream.readline()
        stream.readline()
    return Request(method, target, headers, body)


def _encoded(answer: Answer, method: str) -> bytes:
    head = f"HTTP/1.1 {answer.status} x\r\nApi-Version: 1.51\r\nOstype: linux\r\n"
    head += f"Content-Type: {answer.content_type}\r\n"
    if answer.chunked:
        pieces = b"".join(
            b"%x\r\n%b\r\n" % (len(line), line) for line in answer.body.splitlines(keepends=True)
        )
        return f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + pieces + b"0\r\n\r\n"
    head += f"Content-Length: {len(answer.body)}\r\n\r\n"
    return head.encode() + (b"" if method == "HEAD" else answer.body)
