"""The distribution API as clients see it: a small form of the specification's own conformance tests, and what
they do not ask."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.eventually import eventually
from tests.support.registry_client import (
    OCI_INDEX,
    OCI_MANIFEST,
    RegistryClient,
    descriptor,
    digest_of,
    image_manifest,
    index_of,
)
from tests.support.registry_server import RegistryProcess, RegistryServer

from sampan.front.registry import call as call_module
from sampan.front.registry import sending as sending_module
from sampan.front.registry import server as server_module
from sampan.front.registry.replies import WARNING_LIMIT_BYTES
from sampan.model.registry import Action, Identity
from sampan.registry.contents import MANIFEST_LIMIT_BYTES
from sampan.registry.ports import OpenAuthenticator
from sampan.registry.service import Registry

REPOSITORY = "team/app"
DATA = bytes(range(256)) * 16


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    with RegistryServer(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture
def client(server: RegistryServer) -> Iterator[RegistryClient]:
    with RegistryClient(server.port) as connected:
        yield connected


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A repository of the test's own."""
    return "t/" + str(request.node.name).split("[", 1)[0].replace("_", "-").lower()


def upload(client: RegistryClient, name: str, **query: str) -> str:
    answer = client.call("POST", f"/v2/{name}/blobs/uploads/", **query)
    assert answer.status == 202, answer.body
    return str(answer.headers["Location"])


def blob(client: RegistryClient, name: str, digest: str, **headers: str) -> Any:
    words = {key.replace("_", "-"): value for key, value in headers.items()}
    return client.call("GET", f"/v2/{name}/blobs/{digest}", headers=words)


# basics


def test_the_base_says_that_this_is_a_registry(client: RegistryClient) -> None:
    answer = client.call("GET", "/v2/")
    assert (answer.status, answer.json) == (200, {})
    assert answer.headers["Docker-Distribution-Api-Version"] == "registry/2.0"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v2/nothing/here", 404, "NAME_UNKNOWN"),
        ("GET", "/elsewhere", 404, "NAME_UNKNOWN"),
        ("GET", "/v2/none/tags/list", 404, "NAME_UNKNOWN"),
        ("GET", "/v2/none/manifests/latest", 404, "MANIFEST_UNKNOWN"),
        ("GET", f"/v2/none/blobs/{digest_of(b'')}", 404, "BLOB_UNKNOWN"),
        ("GET", "/v2/none/blobs/sha256:abc", 400, "DIGEST_INVALID"),
        ("GET", f"/v2/none/blobs/md5:{'0' * 32}", 400, "DIGEST_INVALID"),
        ("GET", "/v2/none/manifests/-tag", 400, "TAG_INVALID"),
        ("GET", "/v2/Upper/manifests/latest", 400, "NAME_INVALID"),
        ("GET", "/v2/a%2F..%2Fb/manifests/latest", 400, "NAME_INVALID"),
        ("GET", f"/v2/{'a' * 256}/manifests/latest", 400, "NAME_INVALID"),
        ("GET", "/v2/none/referrers/latest", 400, "DIGEST_INVALID"),
        ("PATCH", "/v2/none/manifests/latest", 405, "UNSUPPORTED"),
        ("GET", f"/v2/none/blobs/uploads/{'0' * 8}-0000-0000-0000-{'0' * 12}", 404, "BLOB_UPLOAD_UNKNOWN"),
        ("PATCH", "/v2/none/blobs/uploads/..%2F..%2Fregistry.db", 404, "NAME_UNKNOWN"),
        ("GET", "/v2/none/blobs/uploads/registry.db", 404, "BLOB_UPLOAD_UNKNOWN"),
        ("GET", "/v2/_catalog?n=many", 400, "PAGINATION_NUMBER_INVALID"),
        ("POST", "/v2/none/blobs/uploads/?digest-algorithm=md5", 400, "DIGEST_INVALID"),
        ("GET", "/v2/none/tags/list?" + "&".join(["x"] * 500), 400, "UNSUPPORTED"),
        ("PUT", "/v2/none/manifests/a?" + "&".join(f"tag={n}" for n in range(101)), 400, "TAG_INVALID"),
    ],
)
def test_what_is_wrong_has_the_specifications_code(
    client: RegistryClient, method: str, path: str, status: int, code: str
) -> None:
    answer = client.call(method, path)
    assert (answer.status, answer.codes) == (status, [code])


def test_what_is_supported_instead_is_told(client: RegistryClient) -> None:
    answer = client.call("POST", "/v2/none/manifests/latest")
    assert (answer.status, answer.headers["Allow"]) == (405, "DELETE, GET, HEAD, PUT")


def test_a_repository_may_be_called_like_a_part_of_the_api(client: RegistryClient) -> None:
    repository = "blobs/uploads/manifests/tags"
    digest = client.push_image(repository, "list")
    assert client.call("GET", f"/v2/{repository}/manifests/list").headers["ETag"] == f'"{digest}"'
    assert client.call("GET", f"/v2/{repository}/tags/list").json == {"name": repository, "tags": ["list"]}


# blobs


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_one_post_pushes_a_blob(client: RegistryClient, name: str, algorithm: str) -> None:
    digest = digest_of(DATA, algorithm)
    answer = client.call("POST", f"/v2/{name}/blobs/uploads/", DATA, digest=digest)
    assert (answer.status, answer.headers["Location"]) == (201, f"/v2/{name}/blobs/{digest}")
    pulled = blob(client, name, digest)
    assert (pulled.status, pulled.body) == (200, DATA)
    assert pulled.headers["Docker-Content-Digest"] == digest
    head = client.call("HEAD", f"/v2/{name}/blobs/{digest}")
    assert (head.status, head.headers["Content-Length"], head.body) == (200, str(len(DATA)), b"")


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_chunks_come_in_order(client: RegistryClient, name: str, algorithm: str) -> None:
    place = upload(client, name)
    answer = client.call("PATCH", place, DATA[:1000], {"Content-Range": "0-999"})
    assert (answer.status, answer.headers["Range"]) == (202, "0-999")
    early = client.call("PATCH", place, DATA[2000:], {"Content-Range": f"2000-{len(DATA) - 1}"})
    assert (early.status, early.headers["Range"], early.headers["Location"]) == (416, "0-999", place)
    status = client.call("GET", place)
    assert (status.status, status.headers["Range"]) == (204, "0-999")
    digest = digest_of(DATA, algorithm)
    last = {"Content-Range": f"bytes 1000-{len(DATA) - 1}/*"}
    assert client.call("PUT", place, DATA[1000:], last, digest=digest).status == 201
    assert blob(client, name, digest).body == DATA
    assert client.call("GET", place).status == 404


def test_a_stream_without_length_is_one_chunk(server: RegistryServer, name: str) -> None:
    with RegistryClient(server.port) as client:
        place = upload(client, name)
        client._connection.request("PATCH", place, iter([DATA[:10], DATA[10:]]), encode_chunked=True)
        answer = client._connection.getresponse()
        answer.read()
        assert (answer.status, answer.headers["Range"]) == (202, f"0-{len(DATA) - 1}")
        assert client.call("PUT", place, digest=digest_of(DATA)).status == 201


def test_content_range_and_length_must_agree(client: RegistryClient, name: str) -> None:
    answer = client.call("PATCH", upload(client, name), DATA, {"Content-Range": "0-1"})
    assert (answer.status, answer.codes) == (400, ["SIZE_INVALID"])
    answer = client.call("PATCH", upload(client, name), DATA, {"Content-Range": "from 0 to 1"})
    assert (answer.status, answer.codes) == (400, ["BLOB_UPLOAD_INVALID"])


def test_a_wrong_digest_is_refused_and_nothing_stays(
    server: RegistryServer, client: RegistryClient, name: str
) -> None:
    place = upload(client, name)
    wrong = digest_of(b"something else")
    answer = client.call("PUT", place, DATA, digest=wrong)
    assert (answer.status, answer.codes) == (400, ["DIGEST_INVALID"])
    assert answer.json["errors"][0]["detail"] == {"digest": digest_of(DATA)}
    assert client.call("GET", place).status == 404
    assert blob(client, name, wrong).status == 404
    assert client.call("POST", f"/v2/{name}/blobs/uploads/", DATA, digest=wrong).status == 400
    assert client.call("PUT", upload(client, name), DATA).codes == ["DIGEST_INVALID"]


def test_an_upload_is_cancelled(client: RegistryClient, name: str) -> None:
    place = upload(client, name)
    assert client.call("DELETE", place).status == 204
    assert client.call("DELETE", place).codes == ["BLOB_UPLOAD_UNKNOWN"]


def test_an_upload_is_of_one_repository(client: RegistryClient, name: str) -> None:
    place = upload(client, name)
    other = place.replace(name, "t/other")
    assert client.call("PATCH", other, DATA).codes == ["BLOB_UPLOAD_UNKNOWN"]


def test_mounts_need_no_bytes(client: RegistryClient, name: str) -> None:
    digest = client.push_blob(name, DATA)
    for query in ({"mount": digest, "from": name}, {"mount": digest}):
        target = f"{name}-{len(query)}"
        answer = client.call("POST", f"/v2/{target}/blobs/uploads/", **query)
        assert (answer.status, answer.headers["Location"]) == (201, f"/v2/{target}/blobs/{digest}")
        assert blob(client, target, digest).body == DATA
    query = {"mount": digest_of(b"unknown"), "from": name}
    assert client.call("POST", f"/v2/{name}/blobs/uploads/", **query).status == 202


@pytest.mark.parametrize(
    ("wanted", "status", "span"),
    [
        ("bytes=0-99", 206, (0, 100)),
        ("bytes=100-", 206, (100, len(DATA))),
        ("bytes=-100", 206, (len(DATA) - 100, len(DATA))),
        ("bytes=4000-999999", 206, (4000, len(DATA))),
        ("bytes=-999999", 206, (0, len(DATA))),
        ("bytes=0-1,5-6", 200, (0, len(DATA))),
        ("lines=0-1", 200, (0, len(DATA))),
        ("bytes=5-1", 416, None),
        ("bytes=999999-", 416, None),
    ],
)
def test_parts_of_a_blob(
    client: RegistryClient, name: str, wanted: str, status: int, span: tuple[int, int] | None
) -> None:
    digest = client.push_blob(name, DATA)
    answer = blob(client, name, digest, Range=wanted)
    assert answer.status == status
    if span is None:
        assert answer.headers["Content-Range"] == f"bytes */{len(DATA)}"
        return
    assert answer.body == DATA[slice(*span)]
    if status == 206:
        assert answer.headers["Content-Range"] == f"bytes {span[0]}-{span[1] - 1}/{len(DATA)}"


def test_what_is_known_is_not_sent_again(client: RegistryClient, name: str) -> None:
    manifest = client.push_image(name, "latest", DATA)
    layer = digest_of(DATA)
    for path, digest in ((f"blobs/{layer}", layer), ("manifests/latest", manifest)):
        for known in (f'"{digest}"', f'"x", W/"{digest}"', "*"):
            answer = client.call("GET", f"/v2/{name}/{path}", headers={"If-None-Match": known})
            assert (answer.status, answer.body, answer.headers["ETag"]) == (304, b"", f'"{digest}"')
        answer = client.call("GET", f"/v2/{name}/{path}", headers={"If-None-Match": '"x"'})
        assert answer.status == 200
    part = blob(client, name, layer, Range="bytes=0-9", If_Range='"x"')
    assert (part.status, part.body) == (200, DATA)
    part = blob(client, name, layer, Range="bytes=0-9", If_Range=f'"{layer}"')
    assert (part.status, part.body) == (206, DATA[:10])


def test_a_large_blob_goes_out_whole_and_the_connection_stays(client: RegistryClient, name: str) -> None:
    """Larger than any socket's buffer: it goes in several turns."""
    data = os.urandom(1 << 20) * 24
    digest = client.push_blob(name, data)
    for _ in range(2):
        assert blob(client, name, digest).body == data
    assert client.call("GET", "/v2/").status == 200


def test_blobs_go_past_this_process(
    client: RegistryClient, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted in bytes: all of the blob, and of a part only the part."""
    sent: list[int] = []

    def counted(*arguments: int) -> int:
        sent.append(real(*arguments))
        return sent[-1]

    real = os.sendfile
    digest = client.push_blob(name, DATA)
    monkeypatch.setattr(os, "sendfile", counted)
    assert blob(client, name, digest).body == DATA
    # the bytes may be here before the call that sent them has returned there
    eventually(lambda: sum(sent) == len(DATA), "all of the blob is counted")
    assert blob(client, name, digest, Range="bytes=10-19").body == DATA[10:20]
    eventually(lambda: sum(sent) == len(DATA) + 10, "the part is counted")


def peak_kb(process: RegistryProcess) -> int:
    status = Path(f"/proc/{process.process.pid}/status").read_text()
    return int(status.split("VmHWM:", 1)[1].split()[0])


def test_memory_does_not_grow_with_blobs(tmp_path: Path) -> None:
    small, large = os.urandom(8 << 20), os.urandom(1 << 20) * 96
    with RegistryProcess(tmp_path) as process, RegistryClient(process.port) as client:
        assert blob(client, REPOSITORY, client.push_blob(REPOSITORY, small)).body == small
        before_kb = peak_kb(process)
        assert blob(client, REPOSITORY, client.push_blob(REPOSITORY, large)).body == large
        assert peak_kb(process) - before_kb < 16 << 10


def test_answers_wait_for_the_disk(
    client: RegistryClient, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a disk that fails is no success."""
    client.push_blob(name, b"{}")
    syncs: list[str] = []
    broken = False

    def counted(fd: int) -> None:
        path = os.readlink(f"/proc/self/fd/{fd}")
        syncs.append(Path(path).name)
        if broken and path.endswith("-wal"):
            raise OSError(errno.EIO, "the disk is gone")
        real(fd)

    real = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", counted)
    manifest = image_manifest(b"{}", [])
    assert client.push_manifest(name, "v1", manifest).status == 201
    assert syncs == ["registry.db-wal"]
    broken = True
    assert client.push_manifest(name, "v2", manifest).status == 500
    assert client.call("GET", f"/v2/{name}/manifests/v1").status == 200
    broken = False
    assert client.push_manifest(name, "v2", manifest).status == 201
    syncs.clear()
    digest = client.push_blob(name, b"new")
    assert len(syncs) == 2
    assert syncs[1] == "registry.db-wal", "the row of a blob comes after its bytes"
    assert blob(client, name, digest).body == b"new"


def test_a_blob_in_use_is_not_deleted(client: RegistryClient, name: str) -> None:
    manifest = client.push_image(name, "latest", DATA)
    layer = digest_of(DATA)
    refused = client.call("DELETE", f"/v2/{name}/blobs/{layer}")
    assert (refused.status, refused.codes) == (409, ["DENIED"])
    assert client.call("DELETE", f"/v2/{name}/manifests/{manifest}").status == 202
    assert client.call("DELETE", f"/v2/{name}/blobs/{layer}").status == 202
    assert client.call("HEAD", f"/v2/{name}/blobs/{layer}").status == 404
    assert client.call("DELETE", f"/v2/{name}/blobs/{layer}").codes == ["BLOB_UNKNOWN"]


# manifests


def test_manifests_come_back_byte_by_byte(client: RegistryClient, name: str) -> None:
    manifest = image_manifest(b"{}", [], annotations={"key": "värde"}, unknown={"deep": [1, None, 2.50]})
    body = json.dumps(manifest, indent=3, ensure_ascii=False).encode() + b" \n"
    client.push_blob(name, b"{}")
    pushed = client.call("PUT", f"/v2/{name}/manifests/v1", body, {"Content-Type": OCI_MANIFEST})
    digest = digest_of(body)
    assert (pushed.status, pushed.headers["Docker-Content-Digest"]) == (201, digest)
    assert pushed.headers["Location"] == f"/v2/{name}/manifests/{digest}"
    for reference in ("v1", digest):
        answer = client.call("GET", f"/v2/{name}/manifests/{reference}")
        assert (answer.status, answer.body, answer.headers["Content-Type"]) == (200, body, OCI_MANIFEST)
        head = client.call("HEAD", f"/v2/{name}/manifests/{reference}")
        assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", str(len(body)))
        assert head.headers["Docker-Content-Digest"] == digest


def test_unknown_media_types_are_kept(client: RegistryClient, name: str) -> None:
    body = b'{"schemaVersion": 2, "mediaType": "application/vnd.example.thing+json", "of": "mine"}'
    headers = {"Content-Type": "application/vnd.example.thing+json; charset=utf-8"}
    assert client.call("PUT", f"/v2/{name}/manifests/v1", body, headers).status == 201
    answer = client.call("GET", f"/v2/{name}/manifests/v1")
    assert (answer.body, answer.headers["Content-Type"]) == (body, "application/vnd.example.thing+json")


@pytest.mark.parametrize(
    ("body", "content_type", "status", "code"),
    [
        (b"not json", OCI_MANIFEST, 400, "MANIFEST_INVALID"),
        (b"[1, 2]", OCI_MANIFEST, 400, "MANIFEST_INVALID"),
        (b'{"layers": 7}', OCI_MANIFEST, 400, "MANIFEST_INVALID"),
        (b"[" * 100_000 + b"]" * 100_000, OCI_MANIFEST, 400, "MANIFEST_INVALID"),
        (b'{"a":' * 50_000 + b"1" + b"}" * 50_000, OCI_MANIFEST, 400, "MANIFEST_INVALID"),
        (json.dumps({"mediaType": OCI_INDEX}).encode(), OCI_MANIFEST, 400, "MANIFEST_INVALID"),
        (b'{"schemaVersion": 1, "signatures": []}', "application/json", 400, "MANIFEST_INVALID"),
        (
            json.dumps({"config": {"digest": "sha256:../../x", "size": 1}}).encode(),
            OCI_MANIFEST,
            400,
            "MANIFEST_INVALID",
        ),
        (
            json.dumps({"config": {"digest": digest_of(b""), "size": -1}}).encode(),
            OCI_MANIFEST,
            400,
            "MANIFEST_INVALID",
        ),
        (b'{"a": "' + b"x" * MANIFEST_LIMIT_BYTES + b'"}', OCI_MANIFEST, 413, "MANIFEST_INVALID"),
    ],
)
def test_manifests_that_are_none_are_refused(
    server: RegistryServer, name: str, body: bytes, content_type: str, status: int, code: str
) -> None:
    with RegistryClient(server.port) as client:
        answer = client.call("PUT", f"/v2/{name}/manifests/v1", body, {"Content-Type": content_type})
        assert (answer.status, answer.codes) == (status, [code])


def test_a_manifest_needs_what_it_refers_to(client: RegistryClient, name: str) -> None:
    manifest = image_manifest(b"{}", [DATA, b"other"])
    client.push_blob(name, b"{}")
    answer = client.push_manifest(name, "v1", manifest)
    assert (answer.status, answer.codes) == (404, ["MANIFEST_BLOB_UNKNOWN"] * 2)
    assert [one["detail"]["digest"] for one in answer.json["errors"]] == [
        digest_of(DATA),
        digest_of(b"other"),
    ]
    client.push_blob(name, DATA)
    client.push_blob(name, b"other")
    manifest["layers"][0]["size"] += 1
    answer = client.push_manifest(name, "v1", manifest)
    assert (answer.status, answer.codes) == (400, ["SIZE_INVALID"])
    assert client.call("GET", f"/v2/{name}/manifests/v1").status == 404


def test_layers_that_lie_elsewhere_are_warned_of(client: RegistryClient, name: str) -> None:
    manifest = image_manifest(b"{}", [DATA])
    manifest["layers"][0]["mediaType"] = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
    manifest["layers"][0]["urls"] = ["https://example.invalid/layer"]
    client.push_blob(name, b"{}")
    answer = client.push_manifest(name, "v1", manifest)
    assert answer.status == 201
    assert answer.headers["Warning"].startswith('299 - "1 parts of this manifest are not')


def test_an_index_keeps_its_manifests(client: RegistryClient, name: str) -> None:
    child = client.push_image(name, "child")
    body = client.call("GET", f"/v2/{name}/manifests/{child}").body
    index = client.push_manifest(name, "all", index_of([body]))
    assert index.status == 201
    refused = client.call("DELETE", f"/v2/{name}/manifests/{child}")
    assert (refused.status, refused.codes) == (409, ["DENIED"])
    assert (
        client.call("DELETE", f"/v2/{name}/manifests/{index.headers['Docker-Content-Digest']}").status == 202
    )
    assert client.call("DELETE", f"/v2/{name}/manifests/{child}").status == 202
    for reference in ("all", "child", child):
        assert client.call("GET", f"/v2/{name}/manifests/{reference}").status == 404


def test_an_index_may_list_layers(client: RegistryClient, name: str) -> None:
    """As build caches do."""
    client.push_blob(name, DATA)
    index = index_of([]) | {"manifests": [descriptor(DATA, "application/vnd.oci.image.layer.v1.tar")]}
    assert client.push_manifest(name, "cache", index).status == 201


def test_a_digest_is_checked_and_names_tags(client: RegistryClient, name: str) -> None:
    client.push_blob(name, b"{}")
    manifest = image_manifest(b"{}", [])
    body = json.dumps(manifest).encode()
    wrong = client.push_manifest(name, digest_of(b"x"), manifest)
    assert (wrong.status, wrong.codes) == (400, ["DIGEST_INVALID"])
    for algorithm in ("sha256", "sha512"):
        digest = digest_of(body, algorithm)
        tags = [f"{algorithm}-{number}" for number in range(12)]
        answer = client.push_manifest(name, digest, manifest, tag=tags)
        assert (answer.status, answer.headers["OCI-Tag"]) == (201, ", ".join(tags))
        assert (
            client.call("GET", f"/v2/{name}/manifests/{tags[-1]}").headers["Docker-Content-Digest"] == digest
        )
    answer = client.push_manifest(name, digest_of(body), manifest, tag=["fine", "not fine"])
    assert (answer.status, answer.codes) == (400, ["TAG_INVALID"])
    assert client.call("HEAD", f"/v2/{name}/manifests/fine").status == 404


def test_a_push_can_ask_what_is_there(client: RegistryClient, name: str) -> None:
    first = client.push_image(name, "v1")
    body = json.dumps(image_manifest(b"{}", [])).encode()

    def push(**headers: str) -> int:
        words = {key.replace("_", "-"): value for key, value in headers.items()}
        path = f"/v2/{name}/manifests/v1"
        return client.call("PUT", path, body, {"Content-Type": OCI_MANIFEST, **words}).status

    assert push(If_None_Match="*") == 412
    assert push(If_Match=f'"{digest_of(b"other")}"') == 412
    assert client.call("HEAD", f"/v2/{name}/manifests/v1").headers["Docker-Content-Digest"] == first
    assert push(If_Match=f'"{first}"') == 201
    assert push(If_Match=f'"{first}"') == 412


# lists


def walk(client: RegistryClient, path: str, key: str) -> list[list[str]]:
    pages = []
    while path:
        answer = client.call("GET", path)
        assert answer.status == 200
        pages.append(answer.json[key])
        link = answer.headers.get("Link")
        path = link.partition("<")[2].partition(">")[0] if link else ""
        assert link is None or link.endswith('>; rel="next"')
    return pages


def test_tags_come_in_pages(client: RegistryClient, name: str) -> None:
    tags = sorted([*(f"v{number}" for number in range(10)), "Upper", "_low"])
    manifest = image_manifest(b"{}", [])
    client.push_blob(name, b"{}")
    digest = digest_of(json.dumps(manifest).encode())
    assert client.push_manifest(name, digest, manifest, tag=tags).status == 201
    path = f"/v2/{name}/tags/list"
    assert walk(client, path, "tags") == [tags]
    assert walk(client, f"{path}?n=5", "tags") == [tags[:5], tags[5:10], tags[10:]]
    assert walk(client, f"{path}?n={len(tags)}", "tags") == [tags]
    assert walk(client, f"{path}?n=0", "tags") == [[]]
    assert client.call("GET", path, last="v3").json["tags"] == tags[tags.index("v3") + 1 :]
    assert client.call("GET", path, last="zz").json["tags"] == []
    assert client.call("DELETE", f"/v2/{name}/manifests/Upper").status == 202
    assert client.call("DELETE", f"/v2/{name}/manifests/Upper").codes == ["MANIFEST_UNKNOWN"]
    assert client.call("GET", path).json["tags"] == tags[1:]


def test_the_catalogue_comes_in_pages(tmp_path: Path) -> None:
    with RegistryServer(tmp_path) as server, RegistryClient(server.port) as client:
        names = [f"r{number}/x" for number in range(5)]
        for one in names:
            client.push_image(one, "latest")
        upload(client, "only/an/upload")
        assert walk(client, "/v2/_catalog", "repositories") == [names]
        assert walk(client, "/v2/_catalog?n=2", "repositories") == [names[:2], names[2:4], names[4:]]
        assert walk(client, "/v2/_catalog?n=0", "repositories") == [[]]


class _Members(OpenAuthenticator):
    """Nobody in particular may do nothing."""

    def allows(self, identity: Identity, action: Action, repository: str) -> bool:
        return not identity.is_anonymous


@pytest.mark.parametrize("path", ["/v2/", "/v2/_catalog"])
def test_who_is_nobody_is_asked_to_log_in(tmp_path: Path, path: str) -> None:
    """Podman's search looks into the catalogue without its password until it is asked for it."""
    with RegistryServer(tmp_path, authenticator=_Members()) as server, RegistryClient(server.port) as client:
        answer = client.call("GET", path)
        assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, 'Basic realm="registry"')


def test_referrers(client: RegistryClient, name: str) -> None:
    subject = client.push_image(name, "v1")
    path = f"/v2/{name}/referrers/{subject}"
    empty = client.call("GET", path)
    assert (empty.status, empty.headers["Content-Type"]) == (200, OCI_INDEX)
    assert empty.json == {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
    about = {"subject": {"mediaType": OCI_MANIFEST, "digest": subject, "size": 1}}
    typed = image_manifest(b"{}", [], artifactType="application/sbom", annotations={"a": "b"}, **about)
    untyped = image_manifest(b"{}", [], **about)
    index = index_of([], **about)
    digests = []
    for manifest in (typed, untyped, index):
        digest = digest_of(json.dumps(manifest).encode())
        answer = client.push_manifest(name, digest, manifest)
        assert (answer.status, answer.headers["OCI-Subject"]) == (201, subject)
        digests.append(digest)
    listed = {one["digest"]: one for one in client.call("GET", path).json["manifests"]}
    assert set(listed) == set(digests)
    assert listed[digests[0]]["artifactType"] == "application/sbom"
    assert listed[digests[0]]["annotations"] == {"a": "b"}
    assert listed[digests[1]]["artifactType"] == untyped["config"]["mediaType"]
    assert "artifactType" not in listed[digests[2]]
    filtered = client.call("GET", path, artifactType="application/sbom")
    assert filtered.headers["OCI-Filters-Applied"] == "artifactType"
    assert [one["digest"] for one in filtered.json["manifests"]] == digests[:1]
    assert client.call("DELETE", f"/v2/{name}/manifests/{digests[0]}").status == 202
    assert len(client.call("GET", path).json["manifests"]) == 2


def test_many_referrers_come_in_pages(
    server: RegistryServer, client: RegistryClient, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sampan.registry.referrers.PAGE", 2)
    subject = {"subject": {"mediaType": OCI_MANIFEST, "digest": digest_of(b"absent"), "size": 6}}
    pushed = set()
    for number in range(5):
        manifest = index_of([], annotations={"number": str(number)}, **subject)
        pushed.add(client.push_manifest(name, f"v{number}", manifest).headers["Docker-Content-Digest"])
    pages = walk(client, f"/v2/{name}/referrers/{digest_of(b'absent')}", "manifests")
    assert [len(page) for page in pages] == [2, 2, 1]
    assert {one["digest"] for page in pages for one in page} == pushed  # type: ignore[index]


# notices


def test_warnings_are_bounded_and_quoted(tmp_path: Path) -> None:
    class Talkative:
        def warnings(self, repository: str) -> list[str]:
            return [f'{repository} is "old"\r\nX: y', *["x" * 500] * 20]

    def connect(registry: Registry) -> None:
        registry.connect(notices=Talkative())

    with RegistryServer(tmp_path, connect=connect) as server, RegistryClient(server.port) as client:
        client.push_image(REPOSITORY, "v1")
        answer = client.call("GET", f"/v2/{REPOSITORY}/manifests/v1")
    values = answer.headers.get_all("Warning")
    assert values is not None
    assert values[0] == f'299 - "{REPOSITORY} is \\"old\\"??X: y"'
    assert len(values) > 2
    assert sum(len(f"Warning: {value}\r\n") for value in values) <= WARNING_LIMIT_BYTES


# clients that misbehave


def raw(server: RegistryServer, text: str) -> socket.socket:
    connection = socket.socket()
    connection.settimeout(30)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
    connection.connect(("127.0.0.1", server.port))
    connection.sendall(text.encode())
    return connection


def test_the_body_is_asked_for_only_when_it_is_wanted(server: RegistryServer, name: str) -> None:
    with RegistryClient(server.port) as client:
        place = upload(client, name)
    head = f"Host: x\r\nContent-Length: {len(DATA)}\r\nExpect: 100-continue\r\n\r\n"
    with raw(server, f"PATCH {place}x HTTP/1.1\r\n{head}") as refused:
        assert refused.recv(100).startswith(b"HTTP/1.1 404 ")
    with raw(server, f"PATCH {place} HTTP/1.1\r\n{head}") as wanted:
        assert wanted.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        wanted.sendall(DATA)
        assert wanted.recv(100).startswith(b"HTTP/1.1 202 ")


def test_what_came_before_the_connection_broke_is_kept(server: RegistryServer, name: str) -> None:
    data = DATA * 1024
    with RegistryClient(server.port) as client:
        place = upload(client, name)

        def kept() -> int:
            return int(client.call("GET", place).headers["Range"].partition("-")[2])

        head = f"PATCH {place} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n"
        with raw(server, head) as broken:
            broken.sendall(data[: 3 << 20])
            eventually(kept, "something is kept")
        eventually(
            lambda: not server.call(lambda registry: bool(registry.uploads._writing)), "the request has ended"
        )
        start = kept() + 1
        assert 0 < start <= 3 << 20
        rest = {"Content-Range": f"{start}-{len(data) - 1}"}
        assert client.call("PUT", place, data[start:], rest, digest=digest_of(data)).status == 201


def test_the_latest_request_goes_on_with_an_upload(server: RegistryServer, name: str) -> None:
    """The one before may hang on a connection that is dead without our knowing."""
    with RegistryClient(server.port) as client:
        place = upload(client, name)
        with raw(
            server, f"PATCH {place} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(DATA)}\r\n\r\n"
        ) as hanging:
            hanging.sendall(DATA[:1000])
            eventually(
                lambda: server.call(lambda registry: bool(registry.uploads._writing)),
                "the first one is sending",
            )
            answer = client.call("PATCH", place, DATA)
            kept = int(answer.headers["Range"].partition("-")[2]) + 1
            # its bytes came behind what there was of the first one's
            assert (answer.status, kept) in {(202, len(DATA)), (202, len(DATA) + 1000)}
            assert hanging.recv(100).startswith(b"HTTP/1.1 400 ")


def test_slow_heads_and_bodies_are_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with RegistryServer(tmp_path) as server, RegistryClient(server.port) as client:
        place = upload(client, REPOSITORY)
        monkeypatch.setattr(call_module, "BODY_IDLE_S", 0.2)
        with raw(server, f"PATCH {place} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc") as standing:
            assert standing.recv(100).startswith(b"HTTP/1.1 408 ")
        monkeypatch.setattr(server_module, "HEAD_S", 0.2)
        with raw(server, "") as silent, raw(server, "GET /v2/ HT") as slow:
            assert silent.recv(1) == b""
            assert slow.recv(1) == b""


def open_blobs(digest: str) -> int:
    """How often this process has a blob's file open."""
    digits = digest.partition(":")[2]
    count = 0
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one that listed them, or closed meanwhile
            count += digits in os.readlink(f"/proc/self/fd/{fd}")
    return count


def test_clients_that_take_nothing_are_cut_off(
    server: RegistryServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing of them stays, nor of those who leave in the middle."""
    with RegistryClient(server.port) as client:
        digest = client.push_blob(name, os.urandom(1 << 20) * 32)
    request = f"GET /v2/{name}/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n"
    with raw(server, request) as leaving:
        assert leaving.recv(1) == b"H"
        eventually(lambda: open_blobs(digest) == 1, "the blob is being sent")
    eventually(lambda: open_blobs(digest) == 0, "the one who left is forgotten")
    monkeypatch.setattr(sending_module, "STALL_S", 0.2)
    with raw(server, request) as idle:
        assert idle.recv(1) == b"H"
        eventually(lambda: open_blobs(digest) == 0, "the one who takes nothing is cut off")
        taken = 1
        with contextlib.suppress(ConnectionResetError):
            while data := idle.recv(1 << 20):
                taken += len(data)
        assert taken < 32 << 20


def connections(server: RegistryServer) -> int:
    return sum(connection.transport is not None for connection in server.server.connections)


def test_large_manifests_wait_for_nobody_either(
    server: RegistryServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RegistryClient(server.port) as client:
        client.push_blob(name, b"{}")
        large = image_manifest(b"{}", [], annotations={"text": "x" * (4_000_000)})
        assert client.push_manifest(name, "v1", large).status == 201
        assert client.call("GET", f"/v2/{name}/manifests/v1").body == json.dumps(large).encode()
        assert client.call("HEAD", f"/v2/{name}/manifests/v1").status == 200
    monkeypatch.setattr(sending_module, "STALL_S", 0.2)
    request = f"GET /v2/{name}/manifests/v1 HTTP/1.1\r\nHost: x\r\n\r\n"
    many = 8  # more than the buffers of both ends hold
    with raw(server, request * many) as idle:
        assert idle.recv(1) == b"H"
        eventually(lambda: server.call(lambda _: connections(server)) == 0, "it is cut off")
        taken = 1
        with contextlib.suppress(ConnectionResetError):
            while data := idle.recv(1 << 20):
                taken += len(data)
        assert taken < many * 4_000_000


def test_two_pushes_of_one_tag_leave_one_of_them_whole(server: RegistryServer, name: str) -> None:
    digests: list[str] = []

    def push(content: bytes) -> None:
        with RegistryClient(server.port) as client:
            digests.extend(client.push_image(name, "latest", content) for _ in range(5))

    threads = [threading.Thread(target=push, args=(bytes([number]) * 1000,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(digests) == 20
    with RegistryClient(server.port) as client:
        answer = client.call("GET", f"/v2/{name}/manifests/latest")
        assert answer.headers["Docker-Content-Digest"] in digests
        layer = answer.json["layers"][0]["digest"]
        assert digest_of(blob(client, name, layer).body) == layer
