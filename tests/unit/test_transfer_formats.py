"""What the client of registries reads and decides without a network."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from sampan.transfer.challenge import parse_challenges
from sampan.transfer.credentials import (
    NOBODY,
    Credentials,
    decode_config_header,
    decode_credentials,
    decode_header,
)
from sampan.transfer.errors import UnsupportedManifest
from sampan.transfer.manifests import (
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    SCHEMA_1,
    Fetched,
    media_type_of,
    read_manifest,
)
from sampan.transfer.registries import host_of
from sampan.transfer.settings import RegistrySettings, mirrors_by_registry

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('Basic realm="x"', [("basic", {"realm": "x"})]),
        (
            'Bearer realm="https://a/t",service="a",scope="repository:a/b:pull,push"',
            [("bearer", {"realm": "https://a/t", "service": "a", "scope": "repository:a/b:pull,push"})],
        ),
        ('Negotiate, Basic realm="x"', [("negotiate", {}), ("basic", {"realm": "x"})]),
        (
            'Bearer error=invalid_token , realm = "a\\"b"',
            [("bearer", {"error": "invalid_token", "realm": 'a"b'})],
        ),
        ("", []),
        ('="', []),
    ],
)
def test_challenges(text: str, expected: list[tuple[str, dict[str, str]]]) -> None:
    assert [(one.scheme, one.parameters) for one in parse_challenges([text])] == expected


@pytest.mark.parametrize("padding", [True, False])
def test_credentials_from_the_header(padding: bool) -> None:
    data = b'{"username":"ada","password":"p?>","email":null,"serveraddress":null}'
    text = base64.urlsafe_b64encode(data).decode()
    found = decode_header(text if padding else text.rstrip("="))
    assert (found.username, found.password) == ("ada", "p?>")
    assert "p?>" not in repr(found)


def test_credentials_in_one_field() -> None:
    auth = base64.b64encode(b"ada:a:b").decode()
    assert decode_credentials(json.dumps({"auth": auth})) == Credentials(username="ada", password="a:b")


@pytest.mark.parametrize("text", ["", "e30=", "%%%", "bnVsbA==", base64.b64encode(b"[1").decode()])
def test_unreadable_credentials_are_nobodys(text: str) -> None:
    assert decode_header(text) == NOBODY
    assert NOBODY.is_empty
    assert decode_config_header(text) == {}


def test_credentials_for_several_registries() -> None:
    given = {"r.lan": {"username": "ada", "password": "x"}, "https://index.docker.io/v1/": {"auth": "YTpi"}}
    found = decode_config_header(base64.urlsafe_b64encode(json.dumps(given).encode()).decode())
    assert found["r.lan"] == Credentials(username="ada", password="x")
    assert found["https://index.docker.io/v1/"] == Credentials(username="a", password="b")
    assert decode_config_header(base64.b64encode(b'{"r.lan": 7}').decode()) == {}


@pytest.mark.parametrize(
    ("document", "declared", "expected"),
    [
        ({"schemaVersion": 2, "mediaType": DOCKER_MANIFEST, "layers": []}, OCI_MANIFEST, DOCKER_MANIFEST),
        ({"schemaVersion": 2, "layers": []}, f"{DOCKER_MANIFEST}; charset=utf-8", DOCKER_MANIFEST),
        ({"schemaVersion": 2, "layers": []}, "application/json", OCI_MANIFEST),
        ({"schemaVersion": 2, "manifests": []}, "", OCI_INDEX),
        ({"schemaVersion": 1, "fsLayers": []}, "application/json", SCHEMA_1[0]),
    ],
)
def test_kind_of_a_manifest(document: dict[str, Any], declared: str, expected: str) -> None:
    assert media_type_of(json.dumps(document).encode(), declared) == expected


def manifest(**changes: Any) -> bytes:
    config = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": DIGEST, "size": 2}
    return json.dumps({"schemaVersion": 2, "config": config, "layers": [], **changes}).encode()


@pytest.mark.parametrize(
    ("data", "media_type", "text"),
    [
        (manifest(), SCHEMA_1[0], "schema 1"),
        (manifest(), "application/x", "unsupported media type application/x"),
        (b"[]", OCI_MANIFEST, "unsupported manifest format"),
        (manifest(layers=[{"digest": "sha256:../../x", "size": 1}]), OCI_MANIFEST, "unsupported digest"),
        (manifest(layers=[{"digest": DIGEST, "size": -1}]), OCI_MANIFEST, "unsupported digest"),
        (manifest(layers=[{"digest": DIGEST, "size": 1}] * 5000), OCI_MANIFEST, "5000 layers"),
        (
            manifest(config={"mediaType": "application/vnd.cncf.helm.config.v1+json", "digest": DIGEST}),
            OCI_MANIFEST,
            "Encountered remote",
        ),
    ],
)
def test_manifests_that_are_no_images(data: bytes, media_type: str, text: str) -> None:
    with pytest.raises(UnsupportedManifest, match=text):
        read_manifest(Fetched(data=data, digest=DIGEST, media_type=media_type), "x")


def test_endpoints_in_order() -> None:
    mirrors = mirrors_by_registry(["https://one"], ["ghcr.io=https://two/cache", "ghcr.io=http://three:5000"])
    settings = RegistrySettings(mirrors=mirrors)
    hosts = [(one.host, one.scheme, one.mirror) for one in settings.endpoints("docker.io", [])]
    assert hosts == [("one", "https", True), ("registry-1.docker.io", "", False)]
    found = settings.endpoints("ghcr.io", [])
    assert [(one.host, one.prefix) for one in found] == [
        ("two", "/cache"),
        ("three:5000", ""),
        ("ghcr.io", ""),
    ]
    assert [one.insecure for one in found] == [False, True, False]
    assert len(settings.endpoints("ghcr.io", [], mirrors=False)) == 1


@pytest.mark.parametrize("text", ["ghcr.io", "=https://a", "ghcr.io=", "*=https://a"])
def test_wrong_mirrors(text: str) -> None:
    with pytest.raises(ValueError, match="invalid mirror"):
        mirrors_by_registry([], [text])


@pytest.mark.parametrize(
    ("host", "addresses", "expected"),
    [
        ("localhost:5000", [], True),
        ("127.0.0.2:5000", [], True),
        ("[::1]:5000", [], True),
        ("registry.lan:5000", ["127.0.0.1"], True),
        ("registry.lan:5000", ["192.0.2.9"], False),
        ("plain.lan", [], True),
        ("plain.lan:5000", [], True),
        ("exact.lan:5000", [], True),
        ("exact.lan:5001", [], False),
        ("10.1.2.3", [], True),
        ("by.name", ["10.1.2.3"], True),
    ],
)
def test_insecure_registries(host: str, addresses: list[str], expected: bool) -> None:
    settings = RegistrySettings(insecure=("plain.lan", "exact.lan:5000", "10.0.0.0/8"))
    assert settings.is_insecure(host, addresses) is expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://registry.example/v2/", "http://secure:1"),
        ("http://registry.example/v2/", "http://plain:1"),
        ("https://localhost:5000/v2/", ""),
        ("https://127.0.0.1/v2/", ""),
        ("https://inner.lan/v2/", ""),
        ("https://a.inner.lan/v2/", ""),
        ("https://outer.lan/v2/", "http://secure:1"),
        ("https://10.2.0.1/v2/", ""),
        ("https://port.lan:8443/v2/", ""),
        ("https://port.lan/v2/", "http://secure:1"),
    ],
)
def test_proxies(url: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "plain:1")
    settings = RegistrySettings(
        https_proxy="http://secure:1", no_proxy="inner.lan, 10.0.0.0/8, port.lan:8443"
    )
    assert settings.proxy(url) == expected


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("https://index.docker.io/v1/", "docker.io"),
        ("", "docker.io"),
        ("localhost:5000", "localhost:5000"),
        ("https://ghcr.io/v2/", "ghcr.io"),
    ],
)
def test_address_of_a_login(address: str, expected: str) -> None:
    assert host_of(address) == expected
