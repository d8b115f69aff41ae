"""What a registry stores and tells: blobs, uploads, manifests, tags, who asks, what happened."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

Action = Literal["pull", "push", "delete", "admin"]
"""What a rule allows or refuses on a repository."""


class BlobInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A blob the storage holds, whole and verified."""

    digest: str
    """``sha256:<64 hex digits>`` or ``sha512:<128 hex digits>``."""
    size_bytes: int
    stored_ns: int
    """When it became visible; nanoseconds since the epoch."""


class UploadInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A blob on its way in."""

    id: str
    size_bytes: int
    """What has arrived and is kept."""
    touched_ns: int
    """When the last bytes came."""


class StoredManifest(msgspec.Struct, frozen=True, kw_only=True):
    """A manifest or index as it was pushed, byte by byte, and what was read from it."""

    digest: str
    media_type: str
    body: bytes
    artifact_type: str = ""
    """``artifactType``, or the config's media type where the referrers API wants that instead."""
    subject: str = ""
    """Digest of the manifest this one refers to, or empty."""
    annotations: dict[str, str] | None = None
    pushed_ns: int = 0

    @property
    def size_bytes(self) -> int:
        return len(self.body)


class TagInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A tag and what it stands for."""

    name: str
    digest: str
    media_type: str = ""
    size_bytes: int = 0
    """Of the manifest and everything below it that the repository holds."""
    updated_ns: int = 0
    """When the tag was last moved to this digest."""
    pulled_ns: int = 0
    """When the manifest was last asked for, to the minute; 0: never."""


class RepositoryUsage(msgspec.Struct, frozen=True, kw_only=True):
    """What a repository holds. A blob that two repositories share counts for both."""

    repository: str
    tags: int
    manifests: int
    blobs: int
    size_bytes: int
    """Blobs and manifests."""
    updated_ns: int = 0
    """When something was last pushed to it."""


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Where a request comes from, and what it presents to say who asks."""

    address: str = ""
    """Of the connection's other end, without port; empty for a unix socket."""
    host: str = ""
    """The Host header: as what the client knows this registry."""
    secure: bool = False
    """Came by TLS."""
    authorization: str = ""
    """The Authorization header."""
    certificate: Mapping[str, Any] | None = None
    """The client's, verified, as ``ssl.SSLSocket.getpeercert`` gives it."""


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks. The empty name is nobody in particular."""

    name: str = ""
    groups: tuple[str, ...] = ()
    grants: tuple[Grant, ...] | None = None
    """What a token carries; None: the rules decide by name and groups."""
    decided_elsewhere: bool = False
    """The token is of another server: its grants are all there is to ask, except for administration."""

    @property
    def is_anonymous(self) -> bool:
        return not self.name


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """A token's permission."""

    repository: str
    actions: tuple[Action, ...]


class Actor(msgspec.Struct, frozen=True, kw_only=True):
    """Who did something, as events and logs tell it."""

    name: str = ""
    address: str = ""
    user_agent: str = ""
    request_id: str = ""
    host: str = ""
    """As what the client knows this registry."""
    secure: bool = False
    """Came by TLS."""
    method: str = ""
    """Of the request."""


class RegistryEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Something that has happened. What it changed outlives the process, and a power cut a moment later."""

    time_ns: int
    action: Literal["push", "pull", "delete", "mount"]
    kind: Literal["manifest", "tag", "blob"]
    repository: str
    digest: str = ""
    tag: str = ""
    media_type: str = ""
    size_bytes: int = 0
    from_repository: str = ""
    """Where a mounted blob came from."""
    actor: Actor = Actor()
