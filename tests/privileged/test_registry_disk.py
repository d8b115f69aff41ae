"""A full disk under the registry: the answer says so, what was there stays, and room lets it go on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.registry_client import RegistryClient, digest_of, image_manifest
from tests.support.registry_server import RegistryProcess

pytestmark = pytest.mark.root


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RegistryProcess]:
    """With 8 MB of its own."""
    with RegistryProcess(tmp_path, disk="8m") as running:
        yield running


@pytest.fixture
def client(server: RegistryProcess) -> Iterator[RegistryClient]:
    with RegistryClient(server.port) as connected:
        yield connected


def test_a_blob_that_does_not_fit_is_refused(server: RegistryProcess, client: RegistryClient) -> None:
    too_large = os.urandom(12 << 20)
    digest = client.push_image("a", "v1")
    with RegistryClient(server.port) as other:
        answer = other.call("POST", "/v2/a/blobs/uploads/", too_large, digest=digest_of(too_large))
    assert answer.status == 507
    assert "no space left" in answer.json["errors"][0]["message"].lower()
    assert os.listdir(server.seen_root / "uploads") == []
    assert client.call("GET", "/v2/a/manifests/v1").headers["Docker-Content-Digest"] == digest
    client.push_image("a", "v2", os.urandom(2 << 20))


def test_a_session_goes_on_when_there_is_room(server: RegistryProcess, client: RegistryClient) -> None:
    data = os.urandom(5 << 20)
    place = client.call("POST", "/v2/a/blobs/uploads/").headers["Location"]
    ballast = server.seen_root / "ballast"
    ballast.write_bytes(bytes(5 << 20))
    with RegistryClient(server.port) as other:
        assert other.call("PATCH", place, data).status == 507
    start = int(client.call("GET", place).headers["Range"].partition("-")[2]) + 1
    assert 1 << 20 <= start < len(data)
    ballast.unlink()
    rest = {"Content-Range": f"{start}-{len(data) - 1}"}
    assert client.call("PUT", place, data[start:], rest, digest=digest_of(data)).status == 201
    assert client.call("GET", f"/v2/a/blobs/{digest_of(data)}").body == data


def test_a_database_that_cannot_grow_refuses_and_recovers(
    server: RegistryProcess, client: RegistryClient
) -> None:
    client.push_blob("a", b"{}")
    large = image_manifest(b"{}", [], annotations={"text": "x" * (2 << 20)})
    ballast = server.seen_root / "ballast"
    fill(ballast)
    answer = client.push_manifest("a", "v1", large)
    assert answer.status == 507
    assert client.call("HEAD", "/v2/a/manifests/v1").status == 404
    ballast.unlink()
    assert client.push_manifest("a", "v1", large).status == 201


def fill(path: Path) -> None:
    """To the last page."""
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(1 << 16)):
                pass
        except OSError:
            return
