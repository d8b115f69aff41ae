"""The client's TLS: verified both ways, and half-closed without losing what is still to come."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sampan.cli.endpoint import Endpoint, TlsFiles
from sampan.cli.failure import Failure, Unreachable

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make certificates")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A certificate that is its own authority, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = str(folder / "cert.pem"), str(folder / "key.pem")
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    words += ["-keyout", key, "-out", certificate, "-days", "2", "-subj", "/CN=localhost"]
    words += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run(words, check=True, capture_output=True)
    return certificate, key


class Wire:
    """A server's end over memory BIOs: unlike an SSLSocket it can go on after the peer's close_notify."""

    def __init__(self, connection: socket.socket, files: tuple[str, str]) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*files)
        context.load_verify_locations(files[0])
        context.verify_mode = ssl.CERT_REQUIRED
        self._connection = connection
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    def handshake(self) -> None:
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self.flush()
                self._feed()
            else:
                break
        self.flush()

    def _feed(self) -> None:
        if data := self._connection.recv(65536):
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def flush(self) -> None:
        self._connection.sendall(self._outgoing.read())

    def read(self) -> bytes:
        """b"" after close_notify."""
        while True:
            try:
                return self.tls.read(65536)
            except ssl.SSLWantReadError:
                self._feed()
            except ssl.SSLZeroReturnError:
                return b""

    def write(self, data: bytes) -> None:
        self.tls.write(data)
        self.flush()


@pytest.fixture
def server(files: tuple[str, str]) -> Iterator[Callable[[Callable[[Wire], None]], int]]:
    """Serves one connection in a thread; answers the port."""
    threads: list[threading.Thread] = []

    def start(serve: Callable[[Wire], None]) -> int:
        listener = socket.create_server(("127.0.0.1", 0))

        def run() -> None:
            with listener:
                connection, _ = listener.accept()
            with connection:
                wire = Wire(connection, files)
                try:
                    wire.handshake()
                except ssl.SSLError:
                    wire.flush()
                    return
                serve(wire)

        port: int = listener.getsockname()[1]
        threads.append(threading.Thread(target=run))
        threads[0].start()
        return port

    yield start
    for thread in threads:
        thread.join()


def test_everything_arrives_after_our_half_close(
    files: tuple[str, str], server: Callable[[Callable[[Wire], None]], int]
) -> None:
    data = bytes(range(256)) * 4096

    def serve(wire: Wire) -> None:
        wire.write(b"early")
        received = b""
        while part := wire.read():
            received += part
        wire.write(data if received == b"typed" else b"")

    port = server(serve)
    tls = TlsFiles(files[0], *files, verify=True)
    connection = Endpoint(f"tcp://127.0.0.1:{port}", tls).connect()
    assert connection.take(5) == b"early"
    connection.send_all(b"typed")
    connection.half_close()
    received = b""
    while part := connection.receive():
        received += part
    connection.close()
    assert received == data


def test_a_server_we_do_not_trust_is_refused(
    files: tuple[str, str], server: Callable[[Callable[[Wire], None]], int]
) -> None:
    port = server(lambda wire: None)
    with pytest.raises(Unreachable, match="certificate verify failed"):
        Endpoint(f"tcp://127.0.0.1:{port}", TlsFiles("", "", "", verify=True)).connect()


def test_files_that_are_no_certificates_are_named(tmp_path: Path, files: tuple[str, str]) -> None:
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("nonsense")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(Failure, match=r"wrong\.pem: not a certificate"):
            Endpoint(address, TlsFiles(str(wrong), "", "", verify=True)).connect()
        with pytest.raises(Failure, match=r"missing\.pem: No such file"):
            Endpoint(address, TlsFiles(files[0], "missing.pem", "", verify=True)).connect()
