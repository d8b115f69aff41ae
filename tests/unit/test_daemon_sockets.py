"""Sockets, TLS with half-closed connections, readiness and the process id file."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import ssl
import stat
import subprocess
from collections.abc import AsyncIterator
from typing import Any

import pytest
from front_engine import make_engine

from sampan.daemon.notify import notify, remove_pidfile, write_pidfile
from sampan.daemon.options import SettingError
from sampan.daemon.settings import load
from sampan.daemon.sockets import Listeners, bind_tcp, bind_unix, passed_sockets
from sampan.front.docker.app import DockerApi
from sampan.front.docker.server import make_server


def test_unix_socket_is_for_its_group_only(tmp_path: Any) -> None:
    path = str(tmp_path / "deep" / "s.sock")
    with bind_unix(path, "docker"):
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o660


def test_stale_socket_is_replaced(tmp_path: Any) -> None:
    path = str(tmp_path / "s.sock")
    bind_unix(path, "docker").close()
    bind_unix(path, "docker").close()


def test_socket_in_use_is_refused(tmp_path: Any) -> None:
    path = str(tmp_path / "s.sock")
    with bind_unix(path, "docker"), pytest.raises(SettingError, match="another process listens"):
        bind_unix(path, "docker")


def test_file_in_the_way_is_not_deleted(tmp_path: Any) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(SettingError, match="is no socket"):
        bind_unix(str(path), "docker")
    assert path.read_text() == "data"


def test_unknown_group_is_refused(tmp_path: Any) -> None:
    with pytest.raises(SettingError, match="group nosuchgroup not found"):
        bind_unix(str(tmp_path / "s"), "nosuchgroup")


def test_port_in_use_is_refused() -> None:
    with bind_tcp("127.0.0.1:0") as first:
        port = first.getsockname()[1]
        with pytest.raises(SettingError, match="cannot listen on tcp://"):
            bind_tcp(f"127.0.0.1:{port}")


def test_sockets_of_another_process_are_not_taken() -> None:
    assert passed_sockets({"LISTEN_PID": "1", "LISTEN_FDS": "1"}) == []


def test_fd_without_activation_is_refused() -> None:
    async def open_() -> None:
        await Listeners(load(["-H", "fd://"], {})).open(asyncio.Protocol, {})

    with pytest.raises(SettingError, match="no sockets found via socket activation"):
        asyncio.run(open_())


def test_notify(tmp_path: Any) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        assert notify("READY=1", {"NOTIFY_SOCKET": path})
        assert manager.recv(100) == b"READY=1"
    assert not notify("READY=1", {})


def test_pidfile(tmp_path: Any) -> None:
    path = str(tmp_path / "p.pid")
    write_pidfile(path)
    with open(path) as file:
        assert file.read() == str(os.getpid())
    remove_pidfile(path)
    assert not os.path.exists(path)


def test_stale_pidfile_is_taken_over_and_anothers_kept(tmp_path: Any) -> None:
    path = tmp_path / "p.pid"
    path.write_text("1")  # alive, but no daemon of ours
    write_pidfile(str(path))
    path.write_text("1")
    remove_pidfile(str(path))
    assert path.read_text() == "1"


# --- TLS ---------------------------------------------------------------------------------------------------


def make_certificate(directory: Any) -> tuple[str, str]:
    cert, key = str(directory / "cert.pem"), str(directory / "key.pem")
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ]
    command += ["-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key


class Tls:
    def __init__(self, engine: Any, port: int, cert: str, key: str) -> None:
        self.engine = engine
        self.port = port
        self.cert = cert
        self.key = key

    def connect(self, *, with_certificate: bool = True) -> ssl.SSLSocket:
        context = ssl.create_default_context(cafile=self.cert)
        if with_certificate:
            context.load_cert_chain(self.cert, self.key)
        raw = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        return context.wrap_socket(raw, server_hostname="localhost", suppress_ragged_eofs=False)


@pytest.fixture
async def tls(tmp_path: Any) -> AsyncIterator[Tls]:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl")
    cert, key = make_certificate(tmp_path)
    with bind_tcp("127.0.0.1:0") as probe:
        port = probe.getsockname()[1]
    words = ["-H", f"tcp://127.0.0.1:{port}", "--tlsverify", "--tlscacert", cert, "--tlscert", cert]
    listeners = Listeners(load([*words, "--tlskey", key], {}))
    engine = make_engine()
    server = make_server(DockerApi(engine).handle)
    await listeners.open(server, {})
    yield Tls(engine, port, cert, key)
    await listeners.close()
    await server.shutdown(1)


def read_all(connection: ssl.SSLSocket) -> bytes:
    data = b""
    while chunk := connection.recv(1 << 16):
        data += chunk
    return data


async def test_tls_request(tls: Tls) -> None:
    def ask() -> bytes:
        with tls.connect() as connection:
            connection.sendall(b"GET /_ping HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n")
            return read_all(connection)

    assert (await asyncio.to_thread(ask)).endswith(b"\r\n\r\nOK")


async def test_client_without_certificate_is_refused(tls: Tls) -> None:
    def ask() -> bytes:
        with tls.connect(with_certificate=False) as connection:
            connection.sendall(b"GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n")
            return connection.recv(100)

    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.to_thread(ask)


async def test_output_goes_on_after_the_clients_close_notify(tls: Tls) -> None:
    """What asyncio's own TLS transports lose: the output of every exec whose client ends its input."""
    total = 4 << 20

    def attach() -> bytes:
        raw = socket.create_connection(("127.0.0.1", tls.port), timeout=10)
        context = ssl.create_default_context(cafile=tls.cert)
        context.load_cert_chain(tls.cert, tls.key)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = context.wrap_bio(incoming, outgoing, server_hostname="localhost")

        def exchange(step: Any) -> Any:
            while True:
                try:
                    return step()
                except ssl.SSLWantReadError:
                    raw.sendall(outgoing.read())
                    data = raw.recv(1 << 16)
                    incoming.write(data) if data else incoming.write_eof()

        exchange(client.do_handshake)
        head = b"POST /containers/x/attach?stdin=1&stdout=1 HTTP/1.1\r\nHost: d\r\n"
        client.write(head + b"Upgrade: tcp\r\nConnection: Upgrade\r\n\r\n")
        received = b""
        while b"hello\n" not in received:
            received += exchange(lambda: client.read(1 << 16))
        for _ in range(total >> 16):
            client.write(b"x" * (1 << 16))
            raw.sendall(outgoing.read())
        with pytest.raises(ssl.SSLWantReadError):
            client.unwrap()
        raw.sendall(outgoing.read())
        received = b""
        with raw, contextlib.suppress(ssl.SSLZeroReturnError):
            while chunk := exchange(lambda: client.read(1 << 16)):
                received += chunk
        return received

    assert await asyncio.to_thread(attach) == b"X" * total + b"bye\n"
