"""See to it that an image has its layer of mount points before a container stands on it."""

from __future__ import annotations

from collections.abc import Sequence

from sampan.base.errors import SystemFailure
from sampan.content.mountpoints import ensure_mount_points

from .layout import Layout


def provide_mount_points(layout: Layout, layer_ids: Sequence[str]) -> None:
    """One look at the disk when it is there, as it is after an image's first container. ``layer_ids`` are
    chain ids, bottom first. Raises SystemFailure."""
    if not layer_ids:
        return
    image = [layout.layer(chain_id) for chain_id in reversed(layer_ids)]
    try:
        ensure_mount_points(image, layout.mount_points(layer_ids[-1]))
    except OSError as error:
        raise SystemFailure(f"prepare the mount points of an image: {error}") from error
