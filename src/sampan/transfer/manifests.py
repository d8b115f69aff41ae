"""Manifests and indexes as bytes and values, read with bounds. Pure."""

from __future__ import annotations

import re

import msgspec

from sampan.model.image import Index, Manifest

from .errors import BROKEN_JSON, UnsupportedManifest

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
SCHEMA_1 = (
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
)
ACCEPTED = (OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_INDEX)
_CONFIGS = (
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
    "application/octet-stream",  # written by registries' old tools for Docker's
    "text/html",  # likewise (moby: distribution/registry.go)
    "",
)
LIMIT_BYTES = 4 << 20
"""As other registries and clients have it (distribution-spec, "Pushing Manifests")."""
_MAX_LAYERS = 4096
_MAX_BLOB_BYTES = 1 << 50
_DIGEST = re.compile(r"sha256:[a-f0-9]{64}")


class Fetched(msgspec.Struct, frozen=True, kw_only=True):
    """A manifest or an index as the registry has it."""

    data: bytes
    digest: str
    media_type: str


class _Head(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    schema_version: int = 0
    media_type: str = ""
    manifests: msgspec.Raw = msgspec.Raw()
    fs_layers: msgspec.Raw = msgspec.field(name="fsLayers", default=msgspec.Raw())


_head = msgspec.json.Decoder(_Head).decode
_manifest = msgspec.json.Decoder(Manifest).decode
_index = msgspec.json.Decoder(Index).decode


def media_type_of(data: bytes, declared: str = "") -> str:
    """What the document says of itself, else what the registry said, else what it looks like."""
    try:
        head = _head(data)
    except BROKEN_JSON as error:
        raise UnsupportedManifest(f"unsupported manifest format: {error}") from None
    if head.schema_version == 1 or bytes(head.fs_layers):
        return SCHEMA_1[0]
    if head.media_type:
        return head.media_type
    kind = declared.partition(";")[0].strip().lower()
    if kind in (*ACCEPTED, *SCHEMA_1):
        return kind
    return OCI_INDEX if bytes(head.manifests) else OCI_MANIFEST


def is_index(media_type: str) -> bool:
    return media_type in (OCI_INDEX, DOCKER_INDEX)


def read_index(fetched: Fetched) -> Index:
    """Raises UnsupportedManifest."""
    try:
        return _index(fetched.data)
    except BROKEN_JSON as error:
        raise UnsupportedManifest(f"unsupported manifest format: {error}") from None


def read_manifest(fetched: Fetched, name: str) -> Manifest:
    """The manifest of an image. Raises UnsupportedManifest for what is something else."""
    if fetched.media_type in SCHEMA_1:
        raise UnsupportedManifest(
            f"{name} has Docker's image manifest version 2, schema 1, which engines no longer read: "
            "push it again with a current tool"
        )
    if fetched.media_type not in (OCI_MANIFEST, DOCKER_MANIFEST):
        raise UnsupportedManifest(f"unsupported media type {fetched.media_type}")
    try:
        manifest = _manifest(fetched.data)
    except BROKEN_JSON as error:
        raise UnsupportedManifest(f"unsupported manifest format: {error}") from None
    if manifest.config.media_type not in _CONFIGS:
        raise UnsupportedManifest(
            f'Encountered remote "{manifest.config.media_type}"(unknown) when fetching: {name} is an OCI '
            "artifact and no image; fetch it with the tool that made it"
        )
    if len(manifest.layers) > _MAX_LAYERS:
        raise UnsupportedManifest(f"{name} has {len(manifest.layers)} layers, more than {_MAX_LAYERS}")
    for part in (manifest.config, *manifest.layers):
        if not 0 <= part.size <= _MAX_BLOB_BYTES or not _DIGEST.fullmatch(part.digest):
            raise UnsupportedManifest(f"unsupported digest {part.digest!r} of {part.size} bytes in {name}")
    return manifest
