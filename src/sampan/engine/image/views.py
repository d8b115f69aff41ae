"""What the image service answers, with Docker's names on the wire."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType, field

from sampan.model.image import Descriptor, Image


class ManifestSize(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """Bytes here."""

    content: int
    """Of documents and packed layers."""
    total: int
    """With what is unpacked."""


class UnpackedSize(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    unpacked: int


class ImageProperties(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    platform: dict[str, str]
    size: UnpackedSize
    containers: list[str]
    """Ids."""


class AttestationProperties(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    for_: str = field(name="For")


class ManifestSummary(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """One manifest of what a name stands for (moby: api/types/image.ManifestSummary)."""

    id: str = field(name="ID")
    descriptor: Descriptor
    available: bool
    size: ManifestSize
    kind: str
    """image, attestation or unknown."""
    image_data: ImageProperties | UnsetType = UNSET
    attestation_data: AttestationProperties | UnsetType = UNSET


class ImageSummary(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """One row of ``GET /images/json``."""

    id: str
    parent_id: str = ""
    repo_tags: list[str] = []
    repo_digests: list[str] = []
    created: int = 0
    """Seconds since the epoch."""
    size: int = 0
    shared_size: int = -1
    """-1: not asked for."""
    labels: dict[str, str] | None = None
    containers: int = -1
    descriptor: Descriptor | UnsetType = UNSET
    """Of the index or manifest; only when manifests are asked for."""
    manifests: list[ManifestSummary] | UnsetType = UNSET


class ImageInspect(msgspec.Struct, frozen=True, kw_only=True):
    """One image in full."""

    image: Image
    config: dict[str, Any]
    """The ``config`` object of the config blob as it stands there."""
    graph: dict[str, str]
    """LowerDir, UpperDir, WorkDir, MergedDir of the overlay driver's view."""
    comment: str
    descriptor: Descriptor | None = None
    """Of what the name stands for; with a platform or an id the image's own manifest."""
    manifests: list[ManifestSummary] | None = None


class HistoryItem(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    id: str = field(default="<missing>")
    created: int = 0
    created_by: str = ""
    tags: list[str] | None = None
    size: int = 0
    comment: str = ""


class DeletedImage(msgspec.Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """One line of ``rmi``: exactly one of the two is set."""

    untagged: str = ""
    deleted: str = ""


class ImagePrune(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    images_deleted: list[DeletedImage] | None
    space_reclaimed: int
    """Bytes."""


class ImageUsage(msgspec.Struct, frozen=True, kw_only=True):
    """For ``system df``."""

    images: list[ImageSummary]
    layers_size: int
    """Bytes of all unpacked layers, each counted once."""
    total_count: int
    active_count: int
    reclaimable: int
