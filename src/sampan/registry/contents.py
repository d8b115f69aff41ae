"""What a manifest's bytes say: its type, what it needs, what it is about. Pure.

Image-spec 1.1 (manifest.md, image-index.md) and Docker's schema 2. Fields and media types that are not known
are no business of a registry: the bytes are kept as they came.
"""

from __future__ import annotations

import msgspec

from .digests import is_digest
from .errors import ManifestInvalid, ManifestTooLarge

MANIFEST_LIMIT_BYTES = 4 << 20
REFERENCES_LIMIT = 10_000
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
INDEXES = frozenset({OCI_INDEX, DOCKER_INDEX})
_UNSPECIFIC = frozenset({"", "application/json", "application/octet-stream"})
_SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1+"
_ELSEWHERE = ("nondistributable", "foreign")
"""In media types of layers that may lie at their ``urls`` alone (image-spec, layer.md)."""


class _Descriptor(msgspec.Struct, frozen=True, rename="camel"):
    digest: str
    size: int
    media_type: str = ""
    artifact_type: str = ""
    urls: list[str] | None = None


class _Body(msgspec.Struct, frozen=True, rename="camel"):
    schema_version: int = 0
    media_type: str = ""
    artifact_type: str = ""
    config: _Descriptor | None = None
    layers: list[_Descriptor] | None = None
    manifests: list[_Descriptor] | None = None
    blobs: list[_Descriptor] | None = None
    """Of the artifact manifest that image-spec 1.1 had before its release."""
    subject: _Descriptor | None = None
    annotations: dict[str, str] | None = None


_decode = msgspec.json.Decoder(_Body).decode


class Need(msgspec.Struct, frozen=True, kw_only=True):
    """Something a manifest refers to."""

    digest: str
    size_bytes: int
    required: bool = True
    """Has to be in the repository; a layer that lies elsewhere has not."""


class Contents(msgspec.Struct, frozen=True, kw_only=True):
    """A manifest, read."""

    media_type: str
    artifact_type: str
    """As the referrers API has it: of an image without one the config's media type."""
    subject: str
    annotations: dict[str, str] | None
    blobs: list[Need]
    children: list[Need]
    """Manifests, and blobs too: build caches are indexes of layers."""


def read_manifest(body: bytes, content_type: str) -> Contents:
    """``content_type`` is the header's value. Raises ManifestInvalid, ManifestTooLarge."""
    if len(body) > MANIFEST_LIMIT_BYTES:
        raise ManifestTooLarge(f"manifest is larger than {MANIFEST_LIMIT_BYTES} bytes")
    declared = content_type.partition(";")[0].strip().lower()
    try:
        read = _decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ManifestInvalid(f"manifest invalid: {error}") from None
    media_type = _media_type(read, declared)
    if read.schema_version == 1 or media_type.startswith(_SCHEMA_1):
        raise ManifestInvalid("manifest invalid: schema 1 is not supported: push with a newer client")
    blobs = [read.config] if read.config is not None else []
    blobs += [*(read.layers or []), *(read.blobs or [])]
    artifact_type = read.artifact_type
    if not artifact_type and media_type not in INDEXES and read.config is not None:
        artifact_type = read.config.media_type
    return Contents(
        media_type=media_type,
        artifact_type=artifact_type,
        subject=_checked(read.subject).digest if read.subject is not None else "",
        annotations=read.annotations,
        blobs=_needs(blobs),
        children=_needs(read.manifests or []),
    )


def _media_type(read: _Body, declared: str) -> str:
    if declared in _UNSPECIFIC:
        declared = ""
    if declared and read.media_type and declared != read.media_type.lower():
        raise ManifestInvalid(
            f"manifest invalid: its mediaType is {read.media_type}, the Content-Type {declared}"
        )
    media_type = read.media_type or declared
    if not media_type:
        media_type = OCI_INDEX if read.manifests is not None else OCI_MANIFEST
    if not media_type.isascii() or not media_type.isprintable() or len(media_type) > 255:
        raise ManifestInvalid("manifest invalid: its media type is none")
    return media_type


def _checked(descriptor: _Descriptor) -> _Descriptor:
    if not is_digest(descriptor.digest):
        raise ManifestInvalid(f"manifest invalid: digest {descriptor.digest[:160]!r} in a descriptor")
    if descriptor.size < 0:
        raise ManifestInvalid(f"manifest invalid: negative size of {descriptor.digest}")
    return descriptor


def _needs(descriptors: list[_Descriptor]) -> list[Need]:
    if len(descriptors) > REFERENCES_LIMIT:
        raise ManifestInvalid(f"manifest invalid: it refers to more than {REFERENCES_LIMIT} blobs")
    needs: dict[str, Need] = {}
    for descriptor in descriptors:
        _checked(descriptor)
        elsewhere = any(word in descriptor.media_type for word in _ELSEWHERE)
        known = needs.get(descriptor.digest)
        if known is not None and known.size_bytes != descriptor.size:
            raise ManifestInvalid(f"manifest invalid: two sizes of {descriptor.digest}")
        if known is None or not known.required:
            needs[descriptor.digest] = Need(
                digest=descriptor.digest, size_bytes=descriptor.size, required=not elsewhere
            )
    return list(needs.values())
