"""Which registries are trusted: authorities and client certificates in the layout of Docker's certs.d."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.support.registry import Registry

from sampan.transfer.credentials import NOBODY, Credentials
from sampan.transfer.errors import RegistryUnreachable
from sampan.transfer.http import Http
from sampan.transfer.registry import Registry as Address
from sampan.transfer.repository import Repository
from sampan.transfer.settings import Endpoint, RegistrySettings


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("certificate")
    files = folder / "own.crt", folder / "own.key"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-keyout", str(files[1]), "-out", str(files[0]), "-days", "2", "-subj", "/CN=127.0.0.1"),
            *("-addext", "subjectAltName=IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    return files


@pytest.fixture
def server(certificate: tuple[Path, Path]) -> Iterator[Registry]:
    with Registry(certificate=certificate) as registry:
        registry.add_image("a", "1", [])
        yield registry


@pytest.fixture
def folder(tmp_path: Path, server: Registry) -> Path:
    place = tmp_path / "certs.d" / server.host
    place.mkdir(parents=True)
    return place


@pytest.fixture
async def http(tmp_path: Path) -> AsyncIterator[Http]:
    made = Http(RegistrySettings(certificate_folders=(str(tmp_path / "certs.d"), "/nonexistent")), attempts=1)
    yield made
    await made.close()


def repository(http: Http, server: Registry, *, insecure: bool = False) -> Repository:
    endpoint = Endpoint(host=server.host, insecure=insecure)
    return Repository(Address(http, endpoint, NOBODY), "a")


async def test_unknown_authority_is_refused(http: Http, server: Registry) -> None:
    with pytest.raises(RegistryUnreachable, match=r"tls: failed to verify certificate: self.signed"):
        await repository(http, server).manifest("1")
    assert server.requests == []


async def test_authority_of_the_registry(
    http: Http, server: Registry, folder: Path, certificate: tuple[Path, Path]
) -> None:
    (folder / "ca.crt").write_bytes(certificate[0].read_bytes())
    assert await repository(http, server).tags() == ["1"]


async def test_client_certificate_is_shown(
    http: Http, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    with Registry(certificate=certificate, client_authority=certificate[0]) as server:
        server.add_image("a", "1", [])
        folder = tmp_path / "certs.d" / server.host
        folder.mkdir(parents=True)
        (folder / "ca.crt").write_bytes(certificate[0].read_bytes())
        with pytest.raises(RegistryUnreachable):
            await repository(http, server).tags()
        for name, source in (("client.cert", 0), ("client.key", 1)):
            (folder / name).write_bytes(certificate[source].read_bytes())
        # as SIGHUP does
        http.reload(http.settings, 1)
        assert await repository(http, server).tags() == ["1"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("client.cert", r"missing key client\.key for client certificate client\.cert"),
        ("client.key", r"missing client certificate client\.cert for key client\.key"),
    ],
)
async def test_half_a_client_certificate(
    http: Http, server: Registry, folder: Path, certificate: tuple[Path, Path], name: str, text: str
) -> None:
    (folder / name).write_bytes(certificate[name == "client.key"].read_bytes())
    with pytest.raises(RegistryUnreachable, match=text):
        await repository(http, server).tags()


async def test_damaged_files_are_named(http: Http, server: Registry, folder: Path) -> None:
    (folder / "ca.crt").write_text("nothing")
    with pytest.raises(RegistryUnreachable, match=r"ca\.crt"):
        await repository(http, server).manifest("1")


async def test_insecure_registry_needs_no_authority(http: Http, server: Registry) -> None:
    target = repository(http, server, insecure=True)
    assert await target.tags() == ["1"]
    assert await target.registry.base() == f"https://{server.host}"


async def test_another_host_gets_no_token(http: Http) -> None:
    with Registry(users={"ada": "secret"}) as origin, Registry() as elsewhere:
        endpoint = Endpoint(host=origin.host, scheme="http")
        address = Address(http, endpoint, Credentials(username="ada", password="secret"))
        async with address.send("GET", "/v2/"):
            assert address.authorizer.header("") != ""
        async with address.send("GET", f"http://{elsewhere.host}/v2/"):
            pass
    assert elsewhere.headers[-1].get("Authorization") is None
    assert origin.headers[-1].get("Authorization") is not None
