"""Images: OCI manifests and configs (image-spec v1.1, Docker schema 2) and what the store knows of them."""

from __future__ import annotations

from typing import Any

import msgspec

from .container import ContainerConfig

# Required by image-spec's manifest and index; a plain default would be left out by omit_defaults
SCHEMA_VERSION: int = msgspec.field(default_factory=lambda: 2)


class Descriptor(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    media_type: str = ""
    digest: str = ""
    size: int = 0
    urls: list[str] | None = None
    annotations: dict[str, str] | None = None
    platform: dict[str, Any] | None = None
    artifact_type: str = ""
    data: str = ""


class Manifest(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    schema_version: int = SCHEMA_VERSION
    media_type: str = ""
    config: Descriptor = Descriptor()
    layers: list[Descriptor] = []
    annotations: dict[str, str] | None = None


class Index(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    schema_version: int = SCHEMA_VERSION
    media_type: str = ""
    manifests: list[Descriptor] = []
    annotations: dict[str, str] | None = None


class RootFS(msgspec.Struct, frozen=True, kw_only=True):
    type: str = "layers"
    diff_ids: list[str] = []


class HistoryEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    created: str = ""
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


class ImageConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The parsed config blob. The blob's bytes, not this struct, are what the id is the digest of."""

    architecture: str = ""
    os: str = ""
    variant: str = ""
    created: str = ""
    author: str = ""
    config: ContainerConfig | None = None
    rootfs: RootFS = RootFS()
    history: list[HistoryEntry] = []
    comment: str = ""
    parent: str = ""
    docker_version: str = ""
    os_version: str = msgspec.field(default="", name="os.version")


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """An image the store holds. ``id`` is ``sha256:<config digest>``, equal to Docker's for one archive."""

    id: str
    config: ImageConfig
    manifest_digest: str
    """The first of those that lead to it."""
    repo_tags: list[str]
    """Names of what it belongs to, also when they mean the image of another platform here. Familiar form:
    ``busybox:latest``."""
    repo_digests: list[str]
    chain_ids: list[str]
    """Bottom first; the directory names of the unpacked layers."""
    layer_sizes: list[int]
    """Bytes of each unpacked layer."""
    size_bytes: int
    created_ns: int
    last_tagged_ns: int = 0
    arrived_ns: int = 0
    parent: str = ""
