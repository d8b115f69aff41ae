"""What answers look like as JSON."""

from __future__ import annotations

import msgspec

from sampan.registry.contents import OCI_INDEX

# required by the image-spec: omit_defaults would leave plain defaults out
_SCHEMA_VERSION: int = msgspec.field(default_factory=lambda: 2)
_MEDIA_TYPE: str = msgspec.field(default_factory=lambda: OCI_INDEX)


class DescriptorView(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    media_type: str
    digest: str
    size: int
    artifact_type: str = ""
    annotations: dict[str, str] | None = None


class IndexView(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    schema_version: int = _SCHEMA_VERSION
    media_type: str = _MEDIA_TYPE
    manifests: list[DescriptorView]


class TagsView(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    tags: list[str]


class CatalogView(msgspec.Struct, frozen=True, kw_only=True):
    repositories: list[str]
