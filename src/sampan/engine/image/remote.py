"""What a name leads to in a registry: through indexes to the manifest and config of one platform's image.

Documents come from strangers: each is verified against the digest and the size that led to it, and there are
bounds on how many are followed and how deep.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import msgspec

from sampan.base.errors import InvalidArgument
from sampan.content.assembly import parse_config
from sampan.content.images import ImageStore
from sampan.content.targets import MAX_DEPTH, BadIndex, decode_index, is_index, select
from sampan.formats.platform import Platform
from sampan.formats.reference import ImageName
from sampan.model.image import Descriptor, ImageConfig, Manifest
from sampan.transfer.errors import (
    ContentMismatch,
    NoMatchingPlatform,
    RegistryRefused,
    RegistryUnreachable,
)
from sampan.transfer.manifests import Fetched, read_manifest
from sampan.transfer.repository import Repository

T = TypeVar("T")

CONFIG_LIMIT_BYTES = 8 << 20
_MAX_INDEXES = 16
"""Nested ones that are looked into for one platform."""
_PASSED_OVER = (RegistryRefused, RegistryUnreachable, ContentMismatch)


class RemoteImage(msgspec.Struct, frozen=True, kw_only=True):
    """An image in a registry; no layer has been fetched."""

    target: Fetched
    """What the name stands for: an index, or the manifest."""
    indexes: list[Fetched]
    """From the target down to the manifest."""
    document: Fetched
    """The manifest's bytes."""
    manifest: Manifest
    config_data: bytes
    config: ImageConfig


class RemoteImages:
    """Looks in one repository, at all its addresses."""

    def __init__(self, store: ImageStore, repositories: Sequence[Repository]) -> None:
        self._store = store
        self._repositories = repositories

    async def target(self, name: ImageName) -> Fetched:
        """What a name stands for. Raises what the registry answers."""
        return await first_answer(self._repositories, lambda one: one.manifest(name.digest or name.tag))

    async def image(self, target: Fetched, name: ImageName, platform: Platform) -> RemoteImage:
        """Of an index the image of the platform. Raises NoMatchingPlatform, UnsupportedManifest, BadIndex,
        ContentMismatch."""
        path = [target]
        if is_index(target.media_type):
            path = await self._descend(target, platform)
        document = path[-1]
        manifest = read_manifest(document, name.familiar)
        data = await self._config(manifest.config)
        config = parse_config(data)
        if config.os not in ("", "linux"):
            raise InvalidArgument(
                f'image operating system "{config.os}" cannot be used on this platform: {name.familiar}'
            )
        if len(config.rootfs.diff_ids) != len(manifest.layers):
            raise ContentMismatch("layers from manifest don't match image configuration")
        return RemoteImage(
            target=target,
            indexes=path[:-1],
            document=document,
            manifest=manifest,
            config_data=data,
            config=config,
        )

    async def _descend(self, top: Fetched, platform: Platform) -> list[Fetched]:
        """The way from an index to the platform's manifest; an index that names it itself comes before those
        within it."""
        waiting = [[top]]
        looked_into = 0
        while waiting:
            way = waiting.pop(0)
            looked_into += 1
            if len(way) > MAX_DEPTH or looked_into > _MAX_INDEXES:
                raise BadIndex(
                    f"image indexes are nested more than {MAX_DEPTH} deep, or more than {_MAX_INDEXES}"
                )
            index = decode_index(way[-1].data)
            entry = select(index.manifests, platform)
            if entry is not None:
                return [*way, await self.fetch(entry)]
            inner = [one for one in index.manifests if is_index(one.media_type)]
            if len(inner) > _MAX_INDEXES:
                raise BadIndex(f"the image index has more than {_MAX_INDEXES} indexes within it")
            waiting += [[*way, await self.fetch(one)] for one in inner]
        raise NoMatchingPlatform(f"no matching manifest for {platform.text} in the manifest list entries")

    async def fetch(self, entry: Descriptor) -> Fetched:
        """The document of an index's entry. Raises ContentMismatch for another size."""
        fetched = await first_answer(self._repositories, lambda one: one.manifest(entry.digest))
        if len(fetched.data) != entry.size:
            raise ContentMismatch(
                f"manifest {entry.digest} has {len(fetched.data)} bytes, its index says {entry.size}"
            )
        # what led here decides when the document itself does not say
        return msgspec.structs.replace(fetched, media_type=fetched.media_type or entry.media_type)

    async def _config(self, descriptor: Descriptor) -> bytes:
        if self._store.find(descriptor.digest) is not None:
            return self._store.blobs.read(descriptor.digest)
        if descriptor.size > CONFIG_LIMIT_BYTES:
            raise ContentMismatch(
                f"image config {descriptor.digest} of {descriptor.size} bytes is larger than "
                f"{CONFIG_LIMIT_BYTES}: refused"
            )
        limit = descriptor.size or CONFIG_LIMIT_BYTES
        data = await first_answer(self._repositories, lambda one: one.small_blob(descriptor.digest, limit))
        if descriptor.size and len(data) != descriptor.size:
            raise ContentMismatch(
                f"image config {descriptor.digest} has {len(data)} bytes, its manifest says {descriptor.size}"
            )
        return data


async def first_answer(repositories: Sequence[Repository], ask: Callable[[Repository], Awaitable[T]]) -> T:
    """The answer of the first address that has one; the last one's error otherwise."""
    for repository in repositories[:-1]:
        with contextlib.suppress(*_PASSED_OVER):
            return await ask(repository)
    return await ask(repositories[-1])
