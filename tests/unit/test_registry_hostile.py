"""Requests put together from what is wrong in them: each is refused, none is a defect of ours."""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path

import pytest
from tests.support.registry_client import OCI_INDEX, OCI_MANIFEST, RegistryClient, digest_of
from tests.support.registry_server import RegistryServer

DIGEST = digest_of(b"{}")
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
KINDS = ["manifests/", "blobs/", "blobs/uploads/", "tags/list", "referrers/", "", "../", "_catalog"]
NAMES = ["a", "b/c", "..", "A", "%2e%2e", "a%00", "%ff", "a" * 300, "a//b", "-", "a/_catalog"]
REFERENCES = [
    *("latest", DIGEST, DIGEST[:20], "sha512:" + "0" * 128, "md5:" + "0" * 32, "", "..", "%2F", "%00", "%ff"),
    *("0" * 64, "00000000-0000-0000-0000-000000000000", "-x", "x" * 129, "@", "%C3%A9"),
]
FIELDS = ["n", "last", "digest", "mount", "from", "tag", "artifactType", "digest-algorithm", "ns"]
VALUES = [
    "",
    "1",
    "-1",
    "99999999999999999999",
    "%00",
    "%ff",
    DIGEST,
    "sha512",
    "sha256:zz",
    "*",
    "../x",
    "b/c",
]
HEADERS = {
    "Range": ["bytes=0-1", "bytes=-", "bytes=99999999999999999999999-", "bytes=1-0", "bytes=0-0,1-1", "x"],
    "Content-Range": ["0-1", "5-1", "bytes 0-1/*", "99999999999999999999-99999999999999999999", "x"],
    "If-None-Match": ["*", '"x", W/"y"', ",", f'"{DIGEST}"'],
    "If-Match": ["*", '"x"', ",,"],
    "Content-Type": [OCI_MANIFEST, OCI_INDEX, "application/json", "", "a b", "\xff/\xff"],
    "Authorization": ["Basic xx", "Bearer ", "\xff"],
    "Expect": ["100-continue", "x"],
    "Content-Encoding": ["gzip"],
}
BODIES = [
    *(None, b"", b"{}", b"[]", b"null", b"1", b"\xff" * 100, b'{"config":null,"layers":null}'),
    b'{"manifests":[{"digest":"%s","size":2}]}' % DIGEST.encode(),
    b'{"subject":{"digest":"%s","size":9223372036854775808}}' % DIGEST.encode(),
    b'{"config":{"digest":"%s","size":2}}' % DIGEST.encode(),
    *(b'{"annotations":{"a":1}}', b'{"size":1e400}', b'{"mediaType":"a b"}', b'{"mediaType":"\\ud800"}'),
]


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_answered_with_a_defect(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    statuses: Counter[int] = Counter()
    with RegistryServer(tmp_path) as server:
        before = set(os.listdir(tmp_path))
        for _ in range(30):
            # a refused request may end its connection
            with RegistryClient(server.port) as client:
                client.push_blob("a", b"{}")
                for _ in range(20):
                    path = f"/v2/{rng.choice(NAMES)}/{rng.choice(KINDS)}{rng.choice(REFERENCES)}"
                    query = "&".join(
                        f"{rng.choice(FIELDS)}={rng.choice(VALUES)}" for _ in range(rng.randint(0, 3))
                    )
                    names = rng.sample(sorted(HEADERS), rng.randint(0, 3))
                    headers = {name: rng.choice(HEADERS[name]) for name in names}
                    method, body = rng.choice(METHODS), rng.choice(BODIES)
                    answer = client.call(method, f"{path}?{query}", body, headers)
                    statuses[answer.status] += 1
                    assert answer.status < 500, (method, path, query, headers, body, answer.body)
                    if answer.status >= 400 and method != "HEAD" and answer.status != 412:
                        assert all(answer.codes), (method, path, query, headers, body)
        assert set(os.listdir(tmp_path)) == before
        with RegistryClient(server.port) as client:
            digest = client.push_image("a", "v1")
            assert client.call("GET", "/v2/a/manifests/v1").headers["Docker-Content-Digest"] == digest
    assert {400, 404, 405} <= set(statuses)
