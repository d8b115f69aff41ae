"""kill -9 of the registry at every point of a push or deletion: what is left is whole, and goes on."""

from __future__ import annotations

import http.client
import json
import re
from pathlib import Path

import pytest
from tests.support.registry_client import OCI_MANIFEST, RegistryClient, digest_of, image_manifest
from tests.support.registry_server import RegistryProcess

import sampan.registry
from sampan.store.registry.index import RegistryIndex

REPOSITORY = "team/app"
OLD, NEW = b"old" * 1000, b"new" * 1000
FILES = ("uploads.py", "manifests.py", "storage/files.py")


def crash_points() -> list[str]:
    folder = Path(sampan.registry.__file__).parent
    named = re.compile(r'crash_point\("([^"]+)"\)')
    return sorted({name for file in FILES for name in named.findall((folder / file).read_text())})


def push_and_delete(port: int, old_manifest: str) -> None:
    """Move the tag to another image and delete the one before."""
    with RegistryClient(port) as client:
        client.push_image(REPOSITORY, "latest", NEW)
        client.call("DELETE", f"/v2/{REPOSITORY}/manifests/{old_manifest}")


def check_whole(root: Path) -> None:
    """Nothing is promised that is not there, byte by byte."""
    index = RegistryIndex(str(root / "registry.db"))
    try:
        for info in index.blobs.page("", 1000):
            algorithm, _, digits = info.digest.partition(":")
            data = (root / "blobs" / algorithm / digits).read_bytes()
            assert (digest_of(data, algorithm), len(data)) == (info.digest, info.size_bytes)
        for tag in index.tags.details(REPOSITORY):
            found = index.manifests.find(REPOSITORY, tag.digest)
            assert found is not None
            for digest in index.manifests.references_of(found[0].number):
                assert index.blobs.find_link(REPOSITORY, digest) is not None
    finally:
        index.close()


def test_the_points_are_found() -> None:
    assert len(crash_points()) >= 6


@pytest.mark.parametrize("point", crash_points())
def test_a_killed_registry_leaves_nothing_half_done(tmp_path: Path, point: str) -> None:
    with RegistryProcess(tmp_path) as first, RegistryClient(first.port) as client:
        old = client.push_image(REPOSITORY, "latest", OLD)
    with RegistryProcess(tmp_path, crash_at=point) as victim:
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            push_and_delete(victim.port, old)
        assert victim.process.wait(20) == -9
    check_whole(tmp_path)
    with RegistryProcess(tmp_path) as again, RegistryClient(again.port) as client:
        listed = client.call("GET", f"/v2/{REPOSITORY}/manifests/latest")
        expected = {digest_of(json.dumps(image_manifest(b"{}", [data])).encode()) for data in (OLD, NEW)}
        assert listed.headers["Docker-Content-Digest"] in expected
        push_and_delete(again.port, old)
        answer = client.call("GET", f"/v2/{REPOSITORY}/manifests/latest", headers={"Accept": OCI_MANIFEST})
        layer = answer.json["layers"][0]["digest"]
        assert client.call("GET", f"/v2/{REPOSITORY}/blobs/{layer}").body == NEW
        assert client.call("HEAD", f"/v2/{REPOSITORY}/manifests/{old}").status == 404


def test_an_upload_goes_on_after_a_kill(tmp_path: Path) -> None:
    with RegistryProcess(tmp_path) as first, RegistryClient(first.port) as client:
        place = client.call("POST", f"/v2/{REPOSITORY}/blobs/uploads/").headers["Location"]
        assert client.call("PATCH", place, NEW[:1000], {"Content-Range": "0-999"}).status == 202
    with RegistryProcess(tmp_path) as second, RegistryClient(second.port) as client:
        assert client.call("GET", place).headers["Range"] == "0-999"
        rest = {"Content-Range": f"1000-{len(NEW) - 1}"}
        digest = digest_of(NEW, "sha512")
        assert client.call("PUT", place, NEW[1000:], rest, digest=digest).status == 201
        assert client.call("GET", f"/v2/{REPOSITORY}/blobs/{digest}").body == NEW
