"""What the image service answers, with Docker's names on the wire."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import field

from sampan.model.image import Image


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


class ImageInspect(msgspec.Struct, frozen=True, kw_only=True):
    """One image in full."""

    image: Image
    config: dict[str, Any]
    """The ``config`` object of the config blob as it stands there."""
    graph: dict[str, str]
    """LowerDir, UpperDir, WorkDir, MergedDir of the overlay driver's view."""
    comment: str


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
