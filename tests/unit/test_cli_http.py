"""The client's HTTP: bodies in all forms, kept connections, refusals, addresses."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from cli_server import Answer, RecordingServer, Request

from sampan.cli.endpoint import Endpoint
from sampan.cli.failure import Failure, Refused, Unreachable
from sampan.cli.http import Client, quote
from sampan.cli.jsontext import InvalidJson, dumps, loads


def client_of(server: RecordingServer) -> Client:
    return Client(Endpoint(f"unix://{server.path}"))


def test_one_connection_serves_many_requests() -> None:
    accepted: list[int] = []

    def answer(request: Request, connection: socket.socket) -> Answer:
        accepted.append(connection.fileno())
        return Answer(b'{"n": 1}')

    with RecordingServer({"GET /info": answer}) as server:
        client = client_of(server)
        assert [client.call("GET", "/info") for _ in range(3)] == [{"n": 1}] * 3
        client.close()
    assert len(set(accepted)) == 1
    assert server.requests[0].target == "/v1.51/info"


def test_chunked_answers_arrive_line_by_line_and_leave_the_connection_usable() -> None:
    lines = Answer(b'{"a":1}\n{"b":2}\n\n{"c":3}', chunked=True)
    with RecordingServer({"GET /events": lines, "GET /info": Answer(b"[]")}) as server:
        client = client_of(server)
        assert list(client.request("GET", "/events").lines()) == [b'{"a":1}', b'{"b":2}', b'{"c":3}']
        assert client.call("GET", "/info") == []
        client.close()


def test_an_idle_connection_that_was_closed_is_replaced() -> None:
    closed: list[bool] = []

    def answer(request: Request, connection: socket.socket) -> Answer | None:
        if closed:
            return Answer(b"2")
        closed.append(True)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1")
        connection.shutdown(socket.SHUT_RDWR)
        return None

    with RecordingServer({"GET /info": answer}) as server:
        client = client_of(server)
        assert [client.call("GET", "/info"), client.call("GET", "/info")] == [1, 2]
        client.close()


def test_streamed_bodies_are_chunked() -> None:
    with RecordingServer({"POST /images/load": Answer(b"{}")}) as server:
        client = client_of(server)
        client.request("POST", "/images/load", (), iter([b"abc", b"", b"de"])).read()
        client.close()
    assert server.requests[0].body == b"abcde"
    assert server.requests[0].headers["transfer-encoding"] == "chunked"


def test_a_daemon_with_an_older_api_is_asked_again_in_its_own() -> None:
    def answer(request: Request, connection: socket.socket) -> Answer:
        if request.target.startswith("/v1.51"):
            text = b'{"message":"client version 1.51 is too new. Maximum supported API version is 1.43"}'
            return Answer(text, 400)
        return Answer(b"[]")

    with RecordingServer({"GET /containers/json": answer}) as server:
        client = client_of(server)
        assert client.call("GET", "/containers/json") == []
        client.close()
    assert [request.target for request in server.requests] == [
        "/v1.51/containers/json",
        "/v1.43/containers/json",
    ]


@pytest.mark.parametrize(
    ("body", "expected"),
    [(b'{"message":"No such container: x"}', "No such container: x"), (b"plain text\n", "plain text")],
)
def test_refusals_carry_the_daemons_words(body: bytes, expected: str) -> None:
    with RecordingServer({"GET /info": Answer(body, 404)}) as server:
        client = client_of(server)
        with pytest.raises(Refused) as caught:
            client.call("GET", "/info")
        client.close()
    assert (caught.value.reason, caught.value.code) == (expected, 404)
    assert caught.value.message == f"Error response from daemon: {expected}"


def test_send_answers_a_refusal_with_its_body_where_request_raises() -> None:
    with RecordingServer({"POST /exec/e1/resize": Answer(b'{"message":"not started"}', 400)}) as server:
        client = client_of(server)
        response = client.send("POST", "/exec/e1/resize")
        assert (response.status, response.read(), response.read()) == (400, b'{"message":"not started"}', b"")
        with pytest.raises(Refused, match="not started"):
            client.request("POST", "/exec/e1/resize")
        client.close()


def test_a_body_that_is_cut_is_an_error() -> None:
    def answer(request: Request, connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
        connection.shutdown(socket.SHUT_RDWR)

    with RecordingServer({"GET /info": answer}) as server:
        client = client_of(server)
        with pytest.raises(ConnectionError):
            client.request("GET", "/info").read()
        client.close()


def test_hijacked_connections_keep_what_came_with_the_headers() -> None:
    def answer(request: Request, connection: socket.socket) -> None:
        connection.sendall(
            b"HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\n"
            b"Connection: Upgrade\r\nUpgrade: tcp\r\n\r\nearly"
        )
        connection.sendall(connection.recv(100).upper())

    with RecordingServer({"POST /containers/x/attach": answer}) as server:
        client = client_of(server)
        connection, kind = client.hijack("/containers/x/attach", [("stream", "1")])
        assert kind == "application/vnd.docker.raw-stream"
        assert connection.has_pending()
        assert connection.receive() == b"early"
        connection.send_all(b"typed")
        assert connection.receive() == b"TYPED"
        client.close()
    assert server.requests[0].headers["upgrade"] == "tcp"


def test_nobody_at_the_address(tmp_path: Path) -> None:
    address = f"unix://{tmp_path}/nothing.sock"
    with pytest.raises(Unreachable) as caught:
        Client(Endpoint(address)).call("GET", "/info")
    assert caught.value.message.startswith(
        f"Cannot connect to the Sampan daemon at {address}. Is sampand running?\nStart it with"
    )


def test_tcp_addresses_connect() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        endpoint = Endpoint(f"tcp://127.0.0.1:{listener.getsockname()[1]}")
        connection = endpoint.connect()
        accepted, _ = listener.accept()
        with accepted:
            connection.send_all(b"x")
            assert accepted.recv(1) == b"x"
        connection.close()


@pytest.mark.parametrize("address", ["ssh://host", "ftp://host", "unix://"])
def test_addresses_that_cannot_be_used(address: str) -> None:
    with pytest.raises(Failure):
        Endpoint(address)


def test_quote_keeps_names_readable() -> None:
    assert quote("docker.io/library/a:b") == "docker.io/library/a:b"
    assert quote("a b?c=é") == "a%20b%3Fc%3D%C3%A9"


@pytest.mark.parametrize("text", ["", "{", "[1] 2", "nonsense", '{"a":}'])
def test_wrong_json(text: str) -> None:
    with pytest.raises(InvalidJson):
        loads(text)


def test_json_survives_the_round_trip() -> None:
    value = {"a": [1, -2.5, None, True], "é\n": {"x": "\x00\U0001f600"}}
    assert loads(dumps(value).encode()) == value
    assert dumps({"b": 1, "a": 2}, sort_keys=True) == '{"a":2,"b":1}'
