"""What people see of the registry's content: repositories that match a word, tags with platforms, an image's
parts. Everything read here was written by whoever pushed it: what has another shape shows as nothing.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

import msgspec

from sampan.model.registry import RepositoryUsage, StoredManifest, TagInfo

from .context import Context
from .digests import is_digest
from .errors import BlobUnknown, ManifestUnknown, NameUnknown

T = TypeVar("T")
Sees = Callable[[str], bool]
CONFIG_LIMIT_BYTES = 1 << 20
_BATCH = 500
_MOST_LOOKED_AT = 100_000
"""Names in one search."""
_REMEMBERED = 4096
_MOST_REFERRERS = 100


class _Platform(msgspec.Struct, frozen=True):
    os: str = ""
    architecture: str = ""
    variant: str = ""

    @property
    def text(self) -> str:
        if not self.os or self.os == "unknown":
            return ""  # an attestation beside the images of an index
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


class _Descriptor(msgspec.Struct, frozen=True, rename="camel"):
    digest: str = ""
    media_type: str = ""
    size: int = 0
    platform: _Platform | None = None


class _Body(msgspec.Struct, frozen=True, rename="camel"):
    config: _Descriptor | None = None
    layers: list[_Descriptor] | None = None
    manifests: list[_Descriptor] | None = None
    annotations: dict[str, str] | None = None


class _RunConfig(msgspec.Struct, frozen=True, rename="pascal"):
    entrypoint: list[str] | None = None
    cmd: list[str] | None = None
    env: list[str] | None = None
    user: str = ""
    working_dir: str = ""
    exposed_ports: dict[str, msgspec.Raw] | None = None
    labels: dict[str, str] | None = None


class _Config(_Platform, frozen=True):
    created: str = ""
    author: str = ""
    config: _RunConfig | None = None


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A layer, a platform of an index, or something that refers to the manifest."""

    digest: str
    name: str
    """Media type, platform or artifact type."""
    size_bytes: int
    is_here: bool = True


class TagView(msgspec.Struct, frozen=True, kw_only=True):
    """A line of a repository's list."""

    info: TagInfo
    platforms: tuple[str, ...]


class ManifestView(msgspec.Struct, frozen=True, kw_only=True):
    """One image, index or artifact."""

    repository: str
    digest: str
    media_type: str
    artifact_type: str
    size_bytes: int
    """Of it and everything below it that is here."""
    pushed_ns: int
    tags: tuple[str, ...]
    platforms: tuple[Part, ...]
    layers: tuple[Part, ...]
    referrers: tuple[Part, ...]
    annotations: dict[str, str]
    settings: dict[str, str]
    """What the image's configuration says, in words for each key."""


class Browser:
    """Reads; changes nothing, and is no pull to anybody's statistics."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._platforms: OrderedDict[str, str] = OrderedDict()
        """By digest of a configuration."""

    async def repositories(
        self, words: str, sees: Sees, *, after: str = "", limit: int = 50
    ) -> tuple[list[RepositoryUsage], bool]:
        """Those whose name has all of ``words``, in order of names; whether there are more."""
        wanted = words.lower().split()
        found: list[str] = []
        looked_at = 0
        table = self._context.index.repositories
        while len(found) <= limit and looked_at < _MOST_LOOKED_AT:
            names = table.names(after, _BATCH)
            found += [name for name in names if all(word in name for word in wanted) and sees(name)]
            if len(names) < _BATCH:
                break
            after = names[-1]
            looked_at += len(names)
            await asyncio.sleep(0)
        usages = []
        for name in found[:limit]:
            usage = table.usage(name)
            usages += [usage] if usage is not None else []
            await asyncio.sleep(0)  # of a large repository it takes milliseconds
        return usages, len(found) > limit

    async def tags(self, repository: str, *, after: str = "", limit: int = 50) -> tuple[list[TagView], bool]:
        """In order of names; whether there are more. Raises NameUnknown."""
        if self._context.index.repositories.find(repository) is None:
            raise NameUnknown(f"there is no repository {repository}")
        found = self._context.index.tags.details(repository, after, limit + 1)
        views = []
        for info in found[:limit]:
            manifest = self._context.index.manifests.find(repository, info.digest)
            platforms = await self._platforms_of(repository, manifest[1]) if manifest else ()
            views.append(TagView(info=info, platforms=platforms))
        return views, len(found) > limit

    async def _platforms_of(self, repository: str, manifest: StoredManifest) -> tuple[str, ...]:
        body = _decoded(manifest.body, _Body)
        if body.manifests is not None:
            texts = (one.platform.text for one in body.manifests if one.platform is not None)
            return tuple(dict.fromkeys(text for text in texts if text))
        if body.config is None:
            return ()
        known = self._platforms.get(body.config.digest)
        if known is None:
            known = (await self._config(repository, body.config)).text
            self._platforms[body.config.digest] = known
            if len(self._platforms) > _REMEMBERED:
                self._platforms.popitem(last=False)
        return (known,) if known else ()

    async def _config(self, repository: str, descriptor: _Descriptor) -> _Config:
        """An image's configuration; one that cannot be read says nothing."""
        context, digest = self._context, descriptor.digest
        if not is_digest(digest) or context.index.blobs.find_link(repository, digest) is None:
            return _Config()
        found = context.index.blobs.find(digest)
        if found is None or found.size_bytes > CONFIG_LIMIT_BYTES:
            return _Config()
        try:
            data = b"".join([piece async for piece in context.storage.read(digest)])
        except BlobUnknown:
            return _Config()
        return _decoded(data, _Config)

    async def manifest(self, repository: str, reference: str) -> ManifestView:
        """Raises ManifestUnknown."""
        table = self._context.index.manifests
        found = (table.find if is_digest(reference) else table.find_tagged)(repository, reference)
        if found is None:
            raise ManifestUnknown(f"there is no {reference} in {repository}")
        row, stored = found
        body = _decoded(stored.body, _Body)
        settings = _settings(await self._config(repository, body.config)) if body.config else {}
        layers = tuple(
            Part(digest=one.digest, name=one.media_type, size_bytes=one.size) for one in body.layers or ()
        )
        platforms = self._children(repository, body)
        size = stored.size_bytes + (body.config.size if body.config else 0)
        size += sum(one.size_bytes for one in (*layers, *platforms) if one.is_here)
        referrers = table.referrers(repository, stored.digest, None, "", _MOST_REFERRERS)
        return ManifestView(
            repository=repository,
            digest=stored.digest,
            media_type=stored.media_type,
            artifact_type=stored.artifact_type,
            size_bytes=size,
            pushed_ns=stored.pushed_ns,
            tags=tuple(self._context.index.tags.of_manifest(row.number)),
            platforms=platforms,
            layers=layers,
            referrers=tuple(
                Part(digest=one.digest, name=one.artifact_type or one.media_type, size_bytes=one.size_bytes)
                for one in referrers
            ),
            annotations=body.annotations or {},
            settings=settings,
        )

    def _children(self, repository: str, index: _Body) -> tuple[Part, ...]:
        """The manifests of an index, with what they weigh."""
        parts = []
        for one in index.manifests or ():
            found = (
                self._context.index.manifests.find(repository, one.digest) if is_digest(one.digest) else None
            )
            size = one.size
            if found is not None:
                below = _decoded(found[1].body, _Body)
                size += (below.config.size if below.config else 0) + sum(
                    layer.size for layer in below.layers or ()
                )
            name = (one.platform.text if one.platform else "") or one.media_type
            parts.append(Part(digest=one.digest, name=name, size_bytes=size, is_here=found is not None))
        return tuple(parts)


def _decoded(data: bytes, kind: type[T]) -> T:
    """What the bytes say, as far as it is of the shape expected; else nothing."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return kind()


def _settings(config: _Config) -> dict[str, str]:
    run = config.config or _RunConfig()
    values = {
        "Platform": config.text,
        "Created": config.created,
        "Author": config.author,
        "Entrypoint": " ".join(run.entrypoint or ()),
        "Command": " ".join(run.cmd or ()),
        "User": run.user,
        "Working directory": run.working_dir,
        "Ports": ", ".join(run.exposed_ports or ()),
        "Environment": "\n".join(run.env or ()),
        "Labels": "\n".join(f"{key}={value}" for key, value in (run.labels or {}).items()),
    }
    return {key: value for key, value in values.items() if value}
