"""A plain HTTP client of a registry: says what it is told to, and shows what comes back."""

from __future__ import annotations

import hashlib
import http.client
import json
from collections.abc import Mapping
from types import TracebackType
from typing import Any
from urllib.parse import urlencode

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"


def digest_of(data: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


class Answer:
    def __init__(self, status: int, headers: http.client.HTTPMessage, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def codes(self) -> list[str]:
        """Of a refusal."""
        return [one["code"] for one in self.json["errors"]]


class RegistryClient:
    """One connection. Not for two threads at once."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def __enter__(self) -> RegistryClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        **query: str | list[str],
    ) -> Answer:
        """``query`` is added to the path's; underscores in its keys are hyphens."""
        if query:
            words = {key.replace("_", "-"): value for key, value in query.items()}
            path += ("&" if "?" in path else "?") + urlencode(words, doseq=True)
        self._connection.request(method, path, body, dict(headers or {}))
        answer = self._connection.getresponse()
        return Answer(answer.status, answer.headers, answer.read())

    def push_blob(self, repository: str, data: bytes, algorithm: str = "sha256") -> str:
        """In a session and one piece; the digest."""
        digest = digest_of(data, algorithm)
        place = self.call("POST", f"/v2/{repository}/blobs/uploads/").headers["Location"]
        answer = self.call("PUT", place, data, digest=digest)
        assert answer.status == 201, answer.body
        return digest

    def push_manifest(
        self, repository: str, reference: str, manifest: Mapping[str, Any], **query: str | list[str]
    ) -> Answer:
        media_type = str(manifest["mediaType"])
        body = json.dumps(manifest).encode()
        headers = {"Content-Type": media_type}
        return self.call("PUT", f"/v2/{repository}/manifests/{reference}", body, headers, **query)

    def push_image(self, repository: str, tag: str, content: bytes = b"content", **fields: Any) -> str:
        """An image of one layer; the manifest's digest."""
        manifest = image_manifest(b"{}", [content], **fields)
        self.push_blob(repository, b"{}")
        self.push_blob(repository, content)
        answer = self.push_manifest(repository, tag, manifest)
        assert answer.status == 201, answer.body
        return str(answer.headers["Docker-Content-Digest"])


def descriptor(data: bytes, media_type: str, algorithm: str = "sha256") -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(data, algorithm), "size": len(data)}


def image_manifest(config: bytes, layers: list[bytes], **fields: Any) -> dict[str, Any]:
    return {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(config, OCI_CONFIG),
        "layers": [descriptor(layer, OCI_LAYER) for layer in layers],
        **fields,
    }


def index_of(manifests: list[bytes], **fields: Any) -> dict[str, Any]:
    return {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [descriptor(manifest, OCI_MANIFEST) for manifest in manifests],
        **fields,
    }
