"""The Docker API as clients see it on the wire, over a fake engine."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from front_engine import FakeSession, make_engine, make_view

from sampan.base.errors import Conflict, NotFound, NotImplementedYet, NotModified
from sampan.front.docker.app import ROUTES, DockerApi
from sampan.front.docker.errors import STATUS, status_of
from sampan.front.docker.server import make_server
from sampan.front.docker.services import Engine
from sampan.front.docker.unsupported import LATER, NEVER, NO_SWARM, SWARM_PATHS, markdown

Answer = tuple[int, dict[str, str], bytes]


class Api:
    def __init__(self, engine: Engine, path: str) -> None:
        self.engine = engine
        self.path = path
        self._writers: list[asyncio.StreamWriter] = []

    @property
    def containers(self) -> Any:
        return self.engine.containers

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_unix_connection(self.path)
        self._writers.append(writer)
        return reader, writer

    async def close(self) -> None:
        for writer in self._writers:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def ask(
        self, method: str, target: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> Answer:
        reader, writer = await self.connect()
        fields = {"Host": "docker", "Connection": "close", **(headers or {})}
        if body:
            fields.setdefault("Content-Type", "application/json")
            fields["Content-Length"] = str(len(body))
        head = f"{method} {target} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in fields.items())
        writer.write(head.encode() + b"\r\n" + body)
        answer = await read_answer(reader)
        writer.close()
        return answer

    async def json(self, method: str, target: str, value: Any = None) -> tuple[int, Any]:
        body = b"" if value is None else json.dumps(value).encode()
        status, _, answer = await self.ask(method, target, body)
        return status, json.loads(answer) if answer else None


async def read_head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    fields = dict(line.split(": ", 1) for line in head[1:] if line)
    return int(head[0].split()[1]), fields


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    status, fields = await read_head(reader)
    if fields.get("Transfer-Encoding") != "chunked":
        return status, fields, await reader.read()
    body = b""
    while size := int(await reader.readline(), 16):
        body += await reader.readexactly(size)
        await reader.readline()
    return status, fields, body


@pytest.fixture
async def api(tmp_path: Any) -> AsyncIterator[Api]:
    engine = make_engine()
    path = str(tmp_path / "api.sock")
    server = make_server(DockerApi(engine).handle)
    listener = await asyncio.get_running_loop().create_unix_server(server, path)
    client = Api(engine, path)
    yield client
    await client.close()
    listener.close()
    await server.shutdown(1)


# --- every answer ------------------------------------------------------------------------------------------


async def test_ping_has_every_header_that_clients_negotiate_with(api: Api) -> None:
    status, fields, body = await api.ask("GET", "/_ping")
    assert (status, body) == (200, b"OK")
    assert fields["Api-Version"] == "1.51"
    assert fields["Builder-Version"] == "1"
    assert fields["Cache-Control"] == "no-cache, no-store, must-revalidate"
    assert fields["Content-Length"] == "2"
    assert fields["Docker-Experimental"] == "false"
    assert fields["Ostype"] == "linux"
    assert fields["Pragma"] == "no-cache"
    assert fields["Server"].startswith("Docker/")
    assert fields["Swarm"] == "inactive"


async def test_head_ping_has_no_body(api: Api) -> None:
    status, fields, body = await api.ask("HEAD", "/v1.47/_ping")
    assert (status, fields["Content-Length"], body) == (200, "0", b"")


@pytest.mark.parametrize("version", ["1.24", "1.40", "1.51"])
async def test_served_versions(api: Api, version: str) -> None:
    assert (await api.ask("GET", f"/v{version}/_ping"))[0] == 200


async def test_old_client_is_told_in_plain_text(api: Api) -> None:
    status, fields, body = await api.ask("GET", "/v1.10/_ping")
    assert status == 400
    assert fields["Content-Type"].startswith("text/plain")
    assert body == (
        b"client version 1.10 is too old. Minimum supported API version is 1.24, "
        b"please upgrade your client to a newer version\n"
    )


async def test_new_client_is_told(api: Api) -> None:
    assert await api.json("GET", "/v1.99/_ping") == (
        400,
        {"message": "client version 1.99 is too new. Maximum supported API version is 1.51"},
    )


@pytest.mark.parametrize("target", ["/", "/nothing", "/v1.51/nothing/here", "/containers/x/y/z", "/v1.51"])
async def test_unknown_path(api: Api, target: str) -> None:
    assert await api.json("GET", target) == (404, {"message": "page not found"})


@pytest.mark.parametrize("text", ["[" * 50_000, "%ff", "1", '["a"]'])
async def test_filters_that_are_none(api: Api, text: str) -> None:
    assert await api.json("GET", f"/containers/json?filters={text}") == (400, {"message": "invalid filter"})


async def test_absolute_form_of_a_target(api: Api) -> None:
    assert (await api.ask("GET", "http://docker/_ping"))[0] == 200


async def test_wrong_method_is_an_unknown_path(api: Api) -> None:
    assert (await api.json("PUT", "/containers/json"))[0] == 404


async def test_keep_alive(api: Api) -> None:
    reader, writer = await api.connect()
    for _ in range(3):
        writer.write(b"GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n")
        assert (await read_head(reader))[0] == 200
        assert await reader.readexactly(2) == b"OK"
    writer.close()


async def test_half_closed_client_still_gets_its_answer(api: Api) -> None:
    reader, writer = await api.connect()
    writer.write(
        b"POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\n"
        b"Content-Length: 15\r\n\r\n"
        b'{"Image": "bb"}'
    )
    writer.write_eof()
    status, _, body = await read_answer(reader)
    assert status == 201
    assert json.loads(body)["Id"] == "c" * 64
    writer.close()


# --- errors ------------------------------------------------------------------------------------------------


def test_every_kind_of_error_has_a_status() -> None:
    from sampan.base import errors

    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    assert set(kinds) == set(STATUS)


def test_status_of_a_domain_error_is_that_of_its_kind() -> None:
    class NoSuchThing(NotFound):
        pass

    assert status_of(NoSuchThing("x")) == 404


async def test_error_body(api: Api) -> None:
    assert await api.json("GET", "/containers/nope/json") == (
        404,
        {"message": "No such container: nope"},
    )


async def test_not_modified_has_no_body(api: Api) -> None:
    api.containers.error = NotModified("already started")
    status, fields, body = await api.ask("POST", "/containers/x/start")
    assert (status, body) == (304, b"")
    assert "Content-Length" not in fields


async def test_unknown_exception_is_500_with_the_id_of_the_log_entry(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    api.containers.error = ZeroDivisionError("oops")
    status, answer = await api.json("POST", "/containers/x/pause")
    assert status == 500
    incident = answer["message"].split()[2].rstrip(":")
    assert incident in caplog.text


async def test_kill_names_the_container(api: Api) -> None:
    api.containers.error = Conflict("container 12 is not running")
    assert await api.json("POST", "/containers/x/kill") == (
        409,
        {"message": "cannot kill container: x: container 12 is not running"},
    )


# --- what is not there -------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", [*LATER, *NEVER], ids=lambda entry: f"{entry.method} {entry.path}")
async def test_unsupported_is_501_with_a_reason(api: Api, entry: Any) -> None:
    status, answer = await api.json(entry.method, entry.path.replace("{}", "some/name"))
    assert status == 501
    assert entry.reason in answer["message"]


def test_the_documentation_lists_what_is_unsupported() -> None:
    text = (Path(__file__).parent.parent.parent / "docs" / "compatibility.md").read_text()
    assert text.partition("<!-- endpoints -->\n")[2].partition("\n<!-- /endpoints -->")[0] == markdown()


@pytest.mark.parametrize(("method", "path"), SWARM_PATHS)
async def test_swarm_is_503(api: Api, method: str, path: str) -> None:
    assert await api.json(method, path.replace("{}", "x")) == (503, {"message": NO_SWARM})


async def test_no_plugins(api: Api) -> None:
    assert await api.json("GET", "/plugins") == (200, [])
    assert await api.json("GET", "/plugins/x/y/json") == (404, {"message": 'plugin "x/y" not found'})


def test_every_operation_of_the_api_has_a_route() -> None:
    """The operations of API 1.51, by the number of them under each noun."""
    nouns: dict[str, int] = {}
    for route in ROUTES:
        noun = route.path.split("/")[1]
        nouns[noun] = nouns.get(noun, 0) + 1
    assert nouns["services"] == 6
    assert nouns["nodes"] == 4
    assert nouns["swarm"] == 7
    assert nouns["plugins"] == 11
    assert nouns["secrets"] == 5
    assert nouns["configs"] == 5
    assert nouns["tasks"] == 3


# --- bodies ------------------------------------------------------------------------------------------------


async def test_create_passes_what_the_client_sent(api: Api) -> None:
    body = {
        "Image": "busybox",
        "Cmd": ["true"],
        "HostConfig": {"Memory": 1 << 25, "Unknown": 1},
        "NetworkingConfig": {"EndpointsConfig": {"default": {"Aliases": ["a"]}}},
    }
    status, answer = await api.json("POST", "/v1.51/containers/create?name=one&platform=linux", body)
    assert (status, answer) == (201, {"Id": "c" * 64, "Warnings": []})
    _, name, config, host, networks, platform = api.containers.calls[-1]
    assert (name, platform) == ("one", "linux")
    assert (config.image, config.cmd, host.memory, host.network_mode) == (
        "busybox",
        ["true"],
        1 << 25,
        "bridge",
    )
    assert networks["bridge"].aliases == ["a"]


async def test_nulls_bare_strings_and_lower_case_names_are_understood(api: Api) -> None:
    body = {
        "image": "busybox",
        "Cmd": "date",
        "Hostname": None,
        "Env": None,
        "HostConfig": {"Memory": None, "PortBindings": {"80/tcp": None}, "LogConfig": None},
    }
    assert (await api.json("POST", "/containers/create", body))[0] == 201
    _, _, config, host, _, _ = api.containers.calls[-1]
    assert (config.image, config.cmd, config.hostname) == ("busybox", ["date"], "")
    assert (host.memory, host.port_bindings) == (0, {"80/tcp": None})


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"{", "invalid JSON: "),
        (b'{"Image": 5}', "invalid JSON: json: cannot unmarshal: Expected `str`, got `int` - at `$.Image`"),
        (b'{"HostConfig": {"Memory": "much"}}', "invalid JSON: json: cannot unmarshal"),
        (
            b'{"HostConfig": {"Memory": 9223372036854775808}}',
            "invalid JSON: json: cannot unmarshal number 9223",
        ),
        (
            b'{"HostConfig": {"PidsLimit": -9223372036854775809}}',
            "invalid JSON: json: cannot unmarshal number",
        ),
        (b"", "invalid JSON: got EOF while reading request body"),
    ],
)
async def test_bad_bodies_are_400(api: Api, body: bytes, text: str) -> None:
    status, _, answer = await api.ask("POST", "/containers/create", body)
    assert status == 400
    assert json.loads(answer)["message"].startswith(text)


async def test_body_that_waits_for_continue(api: Api) -> None:
    reader, writer = await api.connect()
    head = "POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: 16\r\nExpect: 100-continue\r\n\r\n".encode())
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b'{"Image": "abc"}')
    assert (await read_head(reader))[0] == 201


async def test_wrong_content_type(api: Api) -> None:
    status, _, answer = await api.ask("POST", "/containers/create", b"{}", {"Content-Type": "text/plain"})
    assert status == 400
    assert json.loads(answer)["message"] == (
        "unsupported Content-Type header (text/plain): must be 'application/json'"
    )


async def test_start_with_a_host_configuration_is_refused(api: Api) -> None:
    status, answer = await api.json("POST", "/containers/x/start", {"Binds": ["/a:/b"]})
    assert status == 400
    assert "removed in v1.24" in answer["message"]


# --- lists -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"label": ["a", "b=c"]}', {"label": ["a", "b=c"]}),
        ('{"label": {"a": true}}', {"label": ["a"]}),
    ],
)
async def test_both_forms_of_filters(api: Api, text: str, expected: dict[str, list[str]]) -> None:
    from urllib.parse import quote

    assert (await api.json("GET", f"/containers/json?filters={quote(text)}&all=True&limit=3"))[0] == 200
    assert api.containers.calls[-1] == ("list", True, 3, False, expected)


@pytest.mark.parametrize("text", ["x", "[]", '{"a": "b"}', '{"a": [1]}'])
async def test_invalid_filters(api: Api, text: str) -> None:
    from urllib.parse import quote

    assert (await api.json("GET", f"/containers/json?filters={quote(text)}"))[0] == 400


async def test_list_shows_the_image_id_when_the_name_has_moved(api: Api) -> None:
    api.containers.views = [make_view(1), make_view(2)]
    api.engine.images.known["busybox"] = api.containers.views[0].record.image_id
    _, answer = await api.json("GET", "/containers/json")
    assert [entry["Image"] for entry in answer] == ["busybox", "busybox"]
    api.engine.images.known["busybox"] = "sha256:other"
    _, answer = await api.json("GET", "/containers/json")
    assert answer[0]["Image"] == answer[0]["ImageID"]


async def test_a_list_is_made_once_for_a_generation_unless_an_image_moves(api: Api) -> None:
    api.containers.views = [make_view(1, running=False)]
    api.engine.images.known["busybox"] = api.containers.views[0].record.image_id
    api.containers.generation = 1 << 40  # no other test's
    target = "/containers/json?all=1"
    first = await api.json("GET", target)
    assert await api.json("GET", target) == first
    assert len(api.containers.calls) == 1
    api.engine.images.known["busybox"] = "sha256:other"
    assert (await api.json("GET", target))[1][0]["Image"].startswith("sha256:")
    api.containers.generation += 1
    api.containers.views = []
    assert (await api.json("GET", target))[1] == []
    assert len(api.containers.calls) == 3


async def test_list_follows_changes(api: Api) -> None:
    api.containers.views = [make_view(1)]
    before = (await api.json("GET", "/containers/json"))[1][0]
    api.containers.views = [make_view(1, running=False, revision=99)]
    after = (await api.json("GET", "/containers/json"))[1][0]
    assert (before["State"], after["State"]) == ("running", "exited")


# --- streams -----------------------------------------------------------------------------------------------


async def test_wait_answers_its_head_before_the_end(api: Api) -> None:
    from sampan.engine.container.views import WaitResult

    reader, writer = await api.connect()
    writer.write(b"POST /v1.51/containers/x/wait?condition=next-exit HTTP/1.1\r\nHost: d\r\n\r\n")
    status, fields = await read_head(reader)
    assert (status, fields["Content-Type"]) == (200, "application/json")
    api.containers.exit.set_result(WaitResult(exit_code=3))
    size = int(await reader.readline(), 16)
    assert json.loads(await reader.readexactly(size)) == {"StatusCode": 3}
    writer.close()


async def test_wait_ends_when_the_client_goes(api: Api) -> None:
    reader, writer = await api.connect()
    writer.write(b"POST /containers/x/wait HTTP/1.1\r\nHost: d\r\n\r\n")
    await read_head(reader)
    writer.close()
    async with asyncio.timeout(5):
        with pytest.raises(asyncio.CancelledError):
            await api.containers.exit


async def test_invalid_condition(api: Api) -> None:
    assert await api.json("POST", "/containers/x/wait?condition=soon") == (
        400,
        {"message": 'invalid condition: "soon"'},
    )


HIJACK = "Upgrade: tcp\r\nConnection: Upgrade\r\n"


async def hijacked(api: Api, target: str, extra: str = HIJACK) -> Any:
    reader, writer = await api.connect()
    writer.write(f"POST {target} HTTP/1.1\r\nHost: d\r\n{extra}\r\n".encode())
    status, fields = await read_head(reader)
    return reader, writer, status, fields


async def test_attach_upgrades_and_outlives_the_half_close(api: Api) -> None:
    target = "/v1.51/containers/x/attach?stdin=1&stdout=1&stream=1"
    reader, writer, status, fields = await hijacked(api, target)
    assert status == 101
    assert fields["Content-Type"] == "application/vnd.docker.raw-stream"
    assert (fields["Connection"], fields["Upgrade"]) == ("Upgrade", "tcp")
    assert await reader.readexactly(6) == b"hello\n"
    writer.write(b"abc")
    assert await reader.readexactly(3) == b"ABC"
    writer.write_eof()
    assert await reader.read() == b"bye\n"
    writer.close()
    assert api.containers.session.closed


async def test_input_right_behind_the_request_is_not_lost(api: Api) -> None:
    reader, writer = await api.connect()
    writer.write(f"POST /containers/x/attach?stdin=1 HTTP/1.1\r\nHost: d\r\n{HIJACK}\r\nearly".encode())
    await read_head(reader)
    assert await reader.readexactly(11) == b"hello\nEARLY"
    writer.close()


async def test_refused_attach_leaves_the_connection_to_http(api: Api) -> None:
    api.containers.error = Conflict("no")
    reader, writer = await api.connect()
    writer.write(
        f"POST /containers/x/attach HTTP/1.1\r\nHost: d\r\n{HIJACK}\r\n"
        "GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n".encode()
    )
    status, fields = await read_head(reader)
    assert status == 409
    await reader.readexactly(int(fields["Content-Length"]))
    assert (await read_head(reader))[0] == 200


async def test_attach_without_upgrade_gets_200(api: Api) -> None:
    reader, writer, status, fields = await hijacked(api, "/v1.24/containers/x/attach?stdout=1", "")
    assert (status, fields["Content-Type"]) == (200, "application/vnd.docker.raw-stream")
    assert await reader.readexactly(6) == b"hello\n"
    writer.close()


@pytest.mark.parametrize(
    ("version", "kind"),
    [("1.41", "raw-stream"), ("1.42", "multiplexed-stream"), ("1.51", "multiplexed-stream")],
)
async def test_content_type_of_framed_output(api: Api, version: str, kind: str) -> None:
    api.containers.session = FakeSession(tty=False)
    _, writer, _, fields = await hijacked(api, f"/v{version}/containers/x/attach?stdout=1")
    assert fields["Content-Type"] == f"application/vnd.docker.{kind}"
    writer.close()


async def test_attach_ends_when_an_idle_client_goes(api: Api) -> None:
    reader, writer, _, _ = await hijacked(api, "/containers/x/attach?stdout=1")
    await reader.readexactly(6)
    api.containers.session.write_eof = lambda: None  # type: ignore[method-assign]
    writer.close()
    async with asyncio.timeout(5):
        await api.containers.session.closed_event.wait()


async def test_attach_by_websocket(api: Api) -> None:
    api.containers.session = FakeSession(tty=False)
    api.containers.session.greet(b"\x01\0\0\0\0\0\0\x03out\x02\0\0\0\0\0\0\x03err")
    connector = aiohttp.UnixConnector(api.path)
    async with aiohttp.ClientSession(connector=connector) as client:
        url = "http://docker/v1.51/containers/x/attach/ws?stdin=1&stdout=1&stderr=1&stream=1"
        async with client.ws_connect(url) as socket:
            await socket.receive_bytes()
            assert await socket.receive_bytes() == b"outerr"
            await socket.send_bytes(b"abc")
            assert api.containers.calls[-1][2]["stdin"]
    async with asyncio.timeout(5):
        await api.containers.session.closed_event.wait()


async def test_websocket_needs_its_headers(api: Api) -> None:
    assert (await api.json("GET", "/containers/x/attach/ws"))[0] == 400


async def test_large_transfers_are_complete_in_both_directions(api: Api) -> None:
    reader, writer, _, _ = await hijacked(api, "/containers/x/attach?stdin=1&stdout=1")
    sent = b"x" * (8 << 20)

    async def send() -> None:
        for at in range(0, len(sent), 1 << 16):
            writer.write(sent[at : at + (1 << 16)])
            await writer.drain()
        writer.write_eof()

    sender = asyncio.create_task(send())
    received = await reader.read(-1)
    await sender
    assert received == b"hello\n" + b"X" * len(sent) + b"bye\n"
    writer.close()


async def test_logs_need_a_stream(api: Api) -> None:
    assert await api.json("GET", "/containers/x/logs") == (
        400,
        {"message": "Bad parameters: you must choose at least one stream"},
    )


async def test_logs(api: Api) -> None:
    api.containers.views = [make_view(1)]
    api.containers.log_chunks = [b"a", b"b" * 100_000]
    target = "/v1.51/containers/box1/logs?stdout=1&tail=5&since=17.5&timestamps=1"
    status, fields, body = await api.ask("GET", target)
    assert (status, fields["Content-Type"]) == (200, "application/vnd.docker.multiplexed-stream")
    assert body == b"a" + b"b" * 100_000
    _, _, options = api.containers.calls[-1]
    assert (options["tail"], options["since_ns"], options["timestamps"]) == (5, 17_500_000_000, True)


async def test_followed_logs_end_with_the_client(api: Api) -> None:
    api.containers.views = [make_view(1)]
    api.containers.log_chunks = [b"line\n"]
    reader, writer = await api.connect()
    writer.write(b"GET /containers/box1/logs?stdout=1&follow=1 HTTP/1.1\r\nHost: d\r\n\r\n")
    await read_head(reader)
    assert await reader.readexactly(5 + 5) == b"5\r\nline\n\r\n"
    writer.close()
    async with asyncio.timeout(5):
        await api.containers.logs_ended.wait()


async def test_events_carry_the_fields_of_old_clients(api: Api) -> None:
    reader, writer = await api.connect()
    writer.write(b"GET /v1.51/events HTTP/1.1\r\nHost: d\r\n\r\n")
    await read_head(reader)
    api.engine.events.publish("container", "start", "c1", {"image": "busybox", "name": "box"})  # type: ignore[attr-defined]
    size = int(await reader.readline(), 16)
    event = json.loads(await reader.readexactly(size))
    assert (event["status"], event["id"], event["from"]) == ("start", "c1", "busybox")
    assert event["Actor"] == {"ID": "c1", "Attributes": {"image": "busybox", "name": "box"}}
    assert event["timeNano"] // 1_000_000_000 == event["time"]
    writer.close()


def test_not_implemented_is_501() -> None:
    assert status_of(NotImplementedYet("x")) == 501
