"""Which API versions are served, and how the version prefix of a path is read.

Only the minor number differs between the versions of the Engine API (1.24 to 1.51), so everywhere in this
package a version is that number alone.
"""

from __future__ import annotations

from sampan.base.errors import InvalidArgument

NEWEST = 51
OLDEST = 24
OLDEST_FOR_ARCHIVES = 22
"""Of load and save: skopeo before 1.14 asks so for its ``docker-daemon:`` and never negotiates."""
API_VERSION = f"1.{NEWEST}"
MIN_API_VERSION = f"1.{OLDEST}"
SERVER_VERSION = "28.5.2"
"""The Docker Engine whose behaviour is served; clients compare it to decide what they may ask for."""


class UnsupportedVersion(InvalidArgument):
    """The client speaks a version outside of the served range."""

    def __init__(self, version: str, *, too_old: bool) -> None:
        self.too_old = too_old
        if too_old:
            super().__init__(
                f"client version {version} is too old. Minimum supported API version is {MIN_API_VERSION}, "
                "please upgrade your client to a newer version"
            )
        else:
            super().__init__(
                f"client version {version} is too new. Maximum supported API version is {API_VERSION}"
            )


_KNOWN = {f"1.{minor}": minor for minor in range(OLDEST, NEWEST + 1)}


def split_version(path: str) -> tuple[str, str]:
    """``/v1.47/info`` gives ``("1.47", "/info")``; a path without a prefix gives ``("", path)``."""
    if path[:2] != "/v":
        return "", path
    end = path.find("/", 2)
    if end < 0:
        return "", path
    version = path[2:end]
    if not version or version.strip("0123456789."):
        return "", path
    return version, path[end:]


def require_version(version: str, oldest: int = OLDEST) -> int:
    """The minor number of a served version; "" is the newest. Raises UnsupportedVersion."""
    if not version:
        return NEWEST
    minor = _KNOWN.get(version)
    if minor is not None:
        return minor
    parts = [int(part or 0) for part in version.split(".")]
    if parts < [1, oldest]:
        raise UnsupportedVersion(version, too_old=True)
    if parts > [1, NEWEST]:
        raise UnsupportedVersion(version, too_old=False)
    return parts[1]
