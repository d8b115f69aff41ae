"""Images of random content, put into a registry through its services, and a clock tests move."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import AsyncIterator

from sampan.model.registry import Actor
from sampan.registry.service import Registry

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
ACTOR = Actor(name="tester")
HOUR_NS = 3600 * 1_000_000_000


class Clock:
    """Nanoseconds since some epoch; stands still unless moved."""

    def __init__(self) -> None:
        self.time_ns = 1_800_000_000_000_000_000

    def __call__(self) -> int:
        return self.time_ns

    def pass_hours(self, hours: float) -> None:
        self.time_ns += int(hours * HOUR_NS)


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def content(seed: int, size: int = 100) -> bytes:
    return random.Random(seed).randbytes(size)


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(data), 64 << 10):
        yield data[at : at + (64 << 10)]


async def push_blob(registry: Registry, repository: str, data: bytes) -> str:
    digest = digest_of(data)
    upload_id = await registry.uploads.start(repository)
    await registry.uploads.append(repository, upload_id, 0, pieces(data))
    await registry.uploads.finish(repository, upload_id, digest, ACTOR)
    return digest


def manifest_of(blobs: list[bytes], subject: bytes = b"") -> bytes:
    """The first one is the config. ``subject``: a manifest."""
    described = [
        {"mediaType": "application/octet-stream", "digest": digest_of(data), "size": len(data)}
        for data in blobs
    ]
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": described[0],
        "layers": described[1:],
    }
    if subject:
        manifest["subject"] = {
            "mediaType": OCI_MANIFEST,
            "digest": digest_of(subject),
            "size": len(subject),
        }
    return json.dumps(manifest).encode()


def index_of(manifests: list[bytes]) -> bytes:
    described = [
        {"mediaType": OCI_MANIFEST, "digest": digest_of(data), "size": len(data)} for data in manifests
    ]
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": described}).encode()


async def push_image(registry: Registry, repository: str, reference: str, blobs: list[bytes]) -> bytes:
    """The manifest; under its digest alone when ``reference`` is ""."""
    for data in blobs:
        await push_blob(registry, repository, data)
    body = manifest_of(blobs)
    registry.manifests.put(repository, reference or digest_of(body), body, OCI_MANIFEST, ACTOR)
    return body
