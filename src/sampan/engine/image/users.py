"""Who needs an image: containers, as images see them."""

from __future__ import annotations

from typing import Protocol

import msgspec

from sampan.engine.container.lifecycle import state_view
from sampan.engine.container.registry import Registry


class ImageUser(msgspec.Struct, frozen=True, kw_only=True):
    """A container, as far as images care."""

    id: str
    image_id: str
    running: bool
    layer_ids: list[str]
    mounted_images: list[str] = []


class ImageUsers(Protocol):
    def image_users(self) -> list[ImageUser]:
        """Every container there is."""


class RegistryUsers:
    """The real :class:`ImageUsers`."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def image_users(self) -> list[ImageUser]:
        return [
            ImageUser(
                id=entry.id,
                image_id=entry.record.image_id,
                running=state_view(entry.life, None).running,
                layer_ids=entry.record.layer_ids,
                mounted_images=[mount.source for mount in entry.record.mounts if mount.type == "image"],
            )
            for entry in self._registry
        ]
