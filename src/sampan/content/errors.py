"""What can be wrong with content."""

from __future__ import annotations

from sampan.base.errors import InvalidArgument, NotFound, ResourceExhausted, SystemFailure


class BlobNotFound(NotFound):
    """No blob of this digest is stored."""


class DigestMismatch(InvalidArgument):
    """The bytes are not those that their digest promised."""


class HostileArchive(InvalidArgument):
    """An archive that tries to reach out of the place it is unpacked to, or is a bomb."""


class BadArchive(InvalidArgument):
    """The archive is readable, but what it holds is no image."""


class DiskFull(ResourceExhausted):
    """ENOSPC or EDQUOT while content was written."""


class ContentDamaged(SystemFailure):
    """Something that must be in the store is missing or wrong."""
