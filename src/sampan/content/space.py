"""Room on the file system of the data root: looked at before content is fetched and while it is unpacked."""

from __future__ import annotations

import os

from .errors import DiskFull

_LOOK_EVERY = 64 << 20


class Space:
    """The file system that ``root`` is on. All methods may be called from any thread."""

    def __init__(self, root: str, reserve_bytes: int = 0) -> None:
        """``reserve_bytes`` stay free for containers, logs and the database."""
        self._root = root
        self._reserve_bytes = reserve_bytes

    def free_bytes(self) -> int:
        """What content may still take; not below zero."""
        status = os.statvfs(self._root)
        return max(status.f_bavail * status.f_frsize - self._reserve_bytes, 0)

    def require(self, wanted_bytes: int, what: str) -> None:
        """Raises DiskFull when there is not room for so much; cheap enough to ask before every download."""
        free = self.free_bytes()
        if wanted_bytes > free:
            raise DiskFull(
                f"{what}: no space left on device: {wanted_bytes} bytes are needed and {free} are free below "
                f"{self._root}: remove images with 'sampan image prune' or containers that are not needed"
            )

    def watch(self) -> SpaceWatch:
        return SpaceWatch(self)


class SpaceWatch:
    """Looks again after every 64 MiB that one archive has brought: how much it will bring nobody knows."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._left = 0

    def count(self, size: int) -> None:
        """So many bytes are about to be written. Raises DiskFull."""
        self._left -= size
        if self._left < 0:
            self._space.require(size, "unpack")
            self._left = _LOOK_EVERY
