"""Registries that mislead, dawdle and refuse."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path

import pytest
from tests.support.registry import Registry, digest_of
from tests.support.transfers import fetch

from sampan.transfer import http as http_module
from sampan.transfer.credentials import NOBODY, Credentials, decode_credentials
from sampan.transfer.downloads import Downloads
from sampan.transfer.errors import (
    ContentMismatch,
    RegistryFailed,
    RegistryRefused,
    RegistryUnreachable,
    TooSlow,
    UnsupportedManifest,
    WrongAnswer,
)
from sampan.transfer.http import Http, error_of
from sampan.transfer.manifests import Fetched, read_index, read_manifest
from sampan.transfer.pace import Pace
from sampan.transfer.redirects import headers_for, is_redirect, next_url
from sampan.transfer.registries import Registries
from sampan.transfer.repository import Repository
from sampan.transfer.retries import LONGEST_PAUSE_S, is_passing, pause_s, retry_after_s
from sampan.transfer.search import search
from sampan.transfer.settings import Endpoint, RegistrySettings

ADA = Credentials(username="ada", password="secret")
HURRIED = Pace(bytes=1 << 20, seconds=0.05)


class Unwatched:
    def waiting(self) -> None: ...
    def progress(self, done: int, total: int) -> None: ...
    def retrying(self, seconds: int) -> None: ...


@pytest.fixture
def server() -> Iterator[Registry]:
    with Registry() as registry:
        yield registry


async def asked(
    host: str, who: Credentials = NOBODY, pace: Pace | None = None
) -> tuple[Repository, Registries]:
    made = Registries(RegistrySettings(), attempts=2, first_wait_s=0.001, pace=pace)
    [found] = await made.repositories(host, "a/b", who)
    return found, made


@pytest.fixture
async def target(server: Registry) -> AsyncIterator[Repository]:
    found, registries = await asked(server.host)
    yield found
    await registries.close()


# redirects


def test_where_redirects_lead() -> None:
    here = "https://r.lan/v2/a"
    assert next_url("GET", here, "/other#part", []) == "https://r.lan/other"
    assert next_url("GET", "http://r.lan/a", "https://cdn.lan/b", []) == "https://cdn.lan/b"
    for location in (
        "http://r.lan/v2/a",
        "ftp://r.lan/a",
        "file:///etc/passwd",
        "",
        here,
        "http://[::1",
        "//r:x",
    ):
        with pytest.raises(WrongAnswer) as raised:
            next_url("GET", here, location, [])
        assert not is_passing(raised.value), "asked again, it leads there again"
    with pytest.raises(RegistryUnreachable, match="circle"):
        next_url("GET", here, "https://r.lan/b", ["https://r.lan/b"])
    with pytest.raises(RegistryUnreachable, match="stopped after 8 redirects"):
        next_url("GET", here, "/x", [str(number) for number in range(8)])


def test_credentials_stay_at_home() -> None:
    headers = {"Authorization": "Bearer x", "Cookie": "y", "Accept": "z"}
    assert headers_for(headers, "https://r.lan/a", "https://r.lan:443/b") == headers
    for target in ("https://r.lan:444/a", "https://other.lan/a", "http://r.lan/a", "https://r.lan.evil/a"):
        assert headers_for(headers, "https://r.lan/a", target) == {"Accept": "z"}


def test_what_is_sent_is_sent_again_only_where_that_is_said() -> None:
    assert [is_redirect("GET", status) for status in (301, 302, 303, 307, 308)] == [True] * 5
    assert [is_redirect("PUT", status) for status in (301, 302, 303, 307, 308)] == [False] * 3 + [True] * 2
    assert not is_redirect("GET", 304)


async def test_redirected_blob_is_fetched_without_credentials() -> None:
    data = os.urandom(1000)
    with Registry() as store, Registry(users={"ada": "secret"}, tokens=True) as registry:
        path = f"/v2/a/b/blobs/{store.add_blob('a/b', data)['digest']}"
        registry.faults.redirects[path] = f"http://{store.host}{path}"
        target, registries = await asked(registry.host, ADA)
        assert await target.small_blob(digest_of(data), 1000) == data
        assert len(store.headers) == 1
        assert "Authorization" not in store.headers[0]
        await registries.close()


async def test_redirects_that_go_round_end(target: Repository, server: Registry) -> None:
    server.faults.redirects = {
        "/v2/a/b/manifests/1": "/v2/a/b/manifests/2",
        "/v2/a/b/manifests/2": "/v2/a/b/manifests/1",
    }
    await target.registry.base()
    with pytest.raises(RegistryUnreachable, match="circle"):
        await target.manifest("1")


# waiting


def test_when_to_come_back() -> None:
    moment = datetime(2030, 1, 1, tzinfo=UTC)
    assert retry_after_s("17") == 17
    assert retry_after_s(format_datetime(moment, usegmt=True), moment.timestamp() - 30) == 30
    assert retry_after_s(format_datetime(moment, usegmt=True), moment.timestamp() + 30) == 0
    for text in ("", "-1", "soon", "9" * 400, "Wed, 99 Foo 2030 00:00:00 GMT"):
        assert retry_after_s(text) == 0


def test_who_is_waited_for() -> None:
    busy = RegistryRefused(429, "TOOMANYREQUESTS", "", 5.0)
    assert is_passing(busy)
    assert pause_s(busy, 0, 0.001) == 5.0
    assert not is_passing(RegistryRefused(429, "TOOMANYREQUESTS", "", LONGEST_PAUSE_S + 1))
    assert not is_passing(RegistryRefused(403, "DENIED", ""))
    assert not is_passing(RegistryUnreachable("get", "x", "refused", connected=False))
    assert pause_s(RegistryFailed(503, "", ""), 1000, 1.0) == LONGEST_PAUSE_S


async def test_registry_that_is_away_for_long_is_told_of_at_once(
    target: Repository, server: Registry
) -> None:
    await target.registry.base()
    server.faults.failures = [(429, {"Retry-After": "3600"})] * 2
    with pytest.raises(RegistryRefused, match=r"toomanyrequests: .* asked again in 3600 seconds"):
        await target.manifest("1")
    assert len(server.faults.failures) == 1


# bodies


async def test_slow_body_is_not_waited_for(server: Registry) -> None:
    digest = str(server.add_blob("a/b", bytes(10_000))["digest"])
    server.faults.drip = (10, 0.02)
    target, registries = await asked(server.host, pace=HURRIED)
    with pytest.raises(TooSlow, match=r"only \d+ bytes"):
        await target.small_blob(digest, 10_000)
    await registries.close()


async def test_download_that_only_trickles_is_given_up(server: Registry, tmp_path: Path) -> None:
    digest = str(server.add_blob("a/b", bytes(1 << 20))["digest"])
    server.faults.drip = (10, 0.02)
    target, registries = await asked(server.host, pace=HURRIED)
    downloads = Downloads(str(tmp_path / "d"), attempts=2, first_wait_s=0.001)
    with pytest.raises(TooSlow):
        await fetch(downloads, digest, 1 << 20, [target], Unwatched())
    assert server.count("GET", "/blobs/") == 2
    await registries.close()


async def test_upload_that_nobody_takes_ends() -> None:
    given_up = asyncio.Event()

    async def hear_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await given_up.wait()
        writer.transport.abort()

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(1 << 16)

    listener = await asyncio.start_server(hear_nothing, "127.0.0.1", 0, limit=1 << 10)
    host = f"127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    target, registries = await asked(host, pace=HURRIED)
    target.registry._base = f"http://{host}"
    with pytest.raises(RegistryUnreachable, match="no answer in time"):
        await target.append("/v2/a/b/blobs/uploads/1", 0, None, endless)
    given_up.set()
    await registries.close()
    listener.close()
    await listener.wait_closed()


async def test_blob_shorter_than_promised(target: Repository, server: Registry, tmp_path: Path) -> None:
    digest = str(server.add_blob("a/b", bytes(1000))["digest"])
    downloads = Downloads(str(tmp_path / "d"), attempts=2, first_wait_s=0.001)
    with pytest.raises(ContentMismatch, match="has 1000 bytes, fewer than the 2000 promised"):
        await fetch(downloads, digest, 2000, [target], Unwatched())


async def test_manifest_of_absurd_size(target: Repository, server: Registry) -> None:
    server.add_manifest("a/b", "1", b'{"schemaVersion":2,"x":"' + b"x" * (4 << 20) + b'"}')
    with pytest.raises(ContentMismatch, match="larger than 4194304 bytes"):
        await target.manifest("1")


@pytest.mark.parametrize("inner", [b"[", b'{"a":'])
async def test_manifest_of_absurd_depth(target: Repository, server: Registry, inner: bytes) -> None:
    server.add_manifest("a/b", "1", b'{"schemaVersion":2,"annotations":' + inner * 100_000)
    with pytest.raises(UnsupportedManifest):
        await target.manifest("1")


def test_manifests_of_absurd_content() -> None:
    layer = '{"digest":"sha256:' + "0" * 64 + '","size":%s}'
    head = '{"schemaVersion":2,"config":%s,"layers":[%s]}'
    oci = "application/vnd.oci.image.manifest.v1+json"
    for text in (
        head % (layer % 1, ",".join([layer % 1] * 4097)),
        head % (layer % 1, layer % -1),
        head % (layer % 1, layer % 10**30),
        head % ('{"digest":"md5:1","size":1}', ""),
        head % ('{"digest":"sha256:../../x","size":1}', ""),
        "[" * 100_000,
        "null",
    ):
        fetched = Fetched(data=text.encode(), digest="", media_type=oci)
        with pytest.raises(UnsupportedManifest):
            read_manifest(fetched, "a")
    for text in ("[" * 100_000, '{"schemaVersion":2,"manifests":' + "[" * 100_000):
        with pytest.raises(UnsupportedManifest):
            read_index(Fetched(data=text.encode(), digest="", media_type=oci))


# refusals


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (403, "denied: requested access to the resource is denied"),
        (429, "toomanyrequests: too many requests"),
        (500, "received unexpected HTTP status: 500 Internal Server Error"),
        (502, "received unexpected HTTP status: 502 Bad Gateway"),
    ],
)
async def test_refusals_in_dockers_words(
    target: Repository, server: Registry, status: int, text: str
) -> None:
    await target.registry.base()
    server.faults.failures = [(status, {})] * 2
    with pytest.raises(RegistryRefused) as refusal:
        await target.manifest("1")
    assert refusal.value.message == text


NESTED = b'{"errors":' + b"[" * 60_000


async def test_answers_nested_without_end(target: Repository, server: Registry) -> None:
    """In errors, lists of tags, search results and tokens alike."""
    await target.registry.base()
    server.answers = {
        "/v2/a/b/manifests/1": (403, NESTED),
        "/v2/a/b/tags/list": (200, b'{"tags":' + b"[" * 60_000),
        "/v1/search": (200, b'{"results":' + b"[" * 60_000),
    }
    with pytest.raises(RegistryRefused, match="denied: requested access"):
        await target.manifest("1")
    with pytest.raises(RegistryUnreachable, match="unreadable list of tags"):
        await target.tags()
    with pytest.raises(RegistryUnreachable, match="error decoding registry search results"):
        await search(target.registry, "x", 25)
    with pytest.raises(ValueError, match="invalid credentials"):
        decode_credentials(b'{"username":' + b"[" * 60_000)
    with Registry(users={"ada": "secret"}, tokens=True) as private:
        private.answers = {"/token": (200, b'{"token":' + b"[" * 60_000)}
        asking, registries = await asked(private.host, ADA)
        with pytest.raises(RegistryUnreachable, match="unable to decode token response"):
            await asking.tags()
        await registries.close()


async def test_identity_token_is_exchanged_for_tokens() -> None:
    with Registry(users={"ada": "secret"}, tokens=True) as server:
        server.offers_refresh_tokens = True
        server.add_image("a/b", "1", [{"file": b"x"}])
        _, registries = await asked(server.host)
        identity = await registries.login(server.host, ADA)
        assert identity == server.refresh_tokens[-1]
        [target] = await registries.repositories(
            server.host, "a/b", Credentials(username="ada", identitytoken=identity)
        )
        assert (await target.manifest("1")).data
        assert server.forms == [
            {
                "service": "test",
                "scope": "repository:a/b:pull",
                "grant_type": "refresh_token",
                "refresh_token": identity,
                "client_id": "docker",
            }
        ]
        before = len(server.requests)
        await target.manifest("1")
        assert len(server.requests) == before + 1
        await registries.close()


# answers that are no use


@contextlib.asynccontextmanager
async def answering(answer: bytes, *, close: bool = True) -> AsyncIterator[tuple[Http, str]]:
    """A client, and the URL of a server that says the same to everybody; else the client has to hang up."""
    serving: list[asyncio.Task[None] | None] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.append(asyncio.current_task())
        with contextlib.suppress(ConnectionError):  # who has read enough of it hangs up
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
            if not close:
                await reader.read()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    http = Http(RegistrySettings())
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield http, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v2/"
        await http.close()
        await asyncio.gather(*filter(None, serving))


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 60_000 + b"\r\n\r\n", "malformed HTTP response"),
        (b"220 mail.lan ESMTP\r\n\r\n", "malformed HTTP response"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://[::1\r\nContent-Length: 0\r\n\r\n", "which is no address"),
    ],
)
async def test_no_second_question_after_nonsense(answer: bytes, text: str) -> None:
    async with answering(answer) as (http, url):
        with pytest.raises(WrongAnswer, match=text) as raised:
            async with http.send("GET", url, Endpoint(host="127.0.0.1"), {}):
                pass
    assert len(raised.value.message) < 600


async def test_an_answer_that_never_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_module, "_HEAD_TIMEOUT_S", 0.05)
    async with answering(b"HTTP/1.1 100 Continue\r\n\r\n" * 3, close=False) as (http, url):
        with pytest.raises(RegistryUnreachable, match="no answer in time"):
            async with http.send("GET", url, Endpoint(host="127.0.0.1"), {}):
                pass


async def test_nothing_but_words_reaches_the_terminal() -> None:
    body = b'{"errors": [{"code": "X\\u001b[31m", "message": "go\\u001b]0;away\\u0007"}]}'
    head = f"HTTP/1.1 400 Bad\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    async with (
        answering(head + body) as (http, url),
        http.send("GET", url, Endpoint(host="127.0.0.1"), {}) as response,
    ):
        error = await error_of(response)
    assert error.message == "unknown: go]0;away"
