"""What can be wrong with a volume of the local driver."""

from __future__ import annotations

from sampan.base.errors import InvalidArgument, NotFound, SystemFailure


class InvalidVolume(InvalidArgument):
    """A name or options that the local driver does not take."""


class VolumeNotMounted(SystemFailure):
    """The kernel refused the mount that a volume's options describe."""


class SubpathNotFound(NotFound):
    """A volume has no such directory or file, or a symbolic link is on the way to it."""


class SubpathEscapes(InvalidArgument):
    """A subpath leads out of its volume."""
