"""Send images to registries: names, manifests and what the client is told; ``blob_upload`` sends bytes."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator

import msgspec

from sampan.base.clock import now_ns
from sampan.base.errors import InvalidArgument, NotFound
from sampan.content.images import OCI_MANIFEST, ImageStore
from sampan.engine.events import Events
from sampan.formats.reference import ImageName, parse_name
from sampan.model.image import Image
from sampan.model.progress import ProgressMessage
from sampan.transfer.credentials import Credentials
from sampan.transfer.registries import Registries
from sampan.transfer.repository import Repository

from .blob_upload import BlobUpload
from .catalog import ImageCatalog
from .progress import Say, messages_of, status


class NotTagged(NotFound):
    """There is nothing under this name to push."""


class _PushResult(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """moby: api/types.PushResult."""

    tag: str
    digest: str
    size: int


class Pusher:
    def __init__(
        self, catalog: ImageCatalog, registries: Registries, events: Events, *, limit: int, attempts: int
    ) -> None:
        self._catalog = catalog
        self._store: ImageStore = catalog.store
        self._registries = registries
        self._events = events
        self._upload = BlobUpload(self._store.layer_blobs, limit=limit, attempts=attempts)

    def push(
        self, name: ImageName, credentials: Credentials, platform: str = ""
    ) -> AsyncGenerator[ProgressMessage, None]:
        """One tag, or without a tag all of the repository. Raises NotTagged and what the registry answers."""
        if name.digest:
            raise InvalidArgument("cannot push a digest reference")

        async def work(say: Say) -> None:
            say(status(f"The push refers to repository [{name.repository}]"))
            images = await self._images(name, platform)
            [repository] = await self._registries.repositories(
                name.domain, name.path, credentials, mirrors=False
            )
            for tagged, image in images:
                await self._push_one(say, repository, tagged, image)

        return messages_of(work)

    async def _images(self, name: ImageName, platform: str) -> list[tuple[ImageName, Image]]:
        known = [parse_name(tag) for tag in self._store.names()]
        tagged = [one for one in known if one.repository == name.repository and not one.digest]
        if not tagged:
            raise NotTagged(f"An image does not exist locally with the tag: {name.familiar_repository}")
        if name.tag:
            if self._store.find_named(name.familiar) is None:
                raise NotTagged(f"tag does not exist: {name.familiar}")
            tagged = [name]
        return [(one, await self._catalog.resolve(one.familiar, platform)) for one in tagged]

    async def _push_one(self, say: Say, repository: Repository, name: ImageName, image: Image) -> None:
        with self._store.lease() as lease:
            lease.add(image.manifest_digest, image.id)
            data = self._store.blobs.read(image.manifest_digest)
            manifest = self._store.manifest(image)
            lease.add(*(layer.digest for layer in manifest.layers))
            layers = list(zip(manifest.layers, image.config.rootfs.diff_ids, strict=True))
            # neighbours are asked only when something has to be sent
            sources = functools.cache(lambda: self._neighbours(name))
            await self._upload.layers(say, repository, layers, sources)
            config = msgspec.structs.replace(manifest.config, digest=image.id)
            await self._upload.config(say, repository, config)
            digest = await repository.put_manifest(name.tag, data, manifest.media_type or OCI_MANIFEST)
        say(status(f"{name.tag}: digest: {digest} size: {len(data)}"))
        result = _PushResult(tag=name.tag, digest=digest, size=len(data))
        say(ProgressMessage(aux=msgspec.to_builtins(result)))
        if self._store.find(image.id) is not None:
            self._store.name(f"{name.familiar_repository}@{digest}", image.id, now_ns(), kind="digest")
        labels = image.config.config.labels if image.config.config is not None else None
        self._events.publish(
            "image", "push", name.familiar, {**(labels or {}), "name": name.familiar_repository}
        )

    def _neighbours(self, name: ImageName) -> dict[str, str]:
        """Layer digest -> another repository of the same registry that is known to have had it."""
        found: dict[str, str] = {}
        for image in self._store.all():
            others = [parse_name(text) for text in image.repo_digests]
            paths = [one.path for one in others if one.domain == name.domain and one.path != name.path]
            if paths:
                for layer in self._store.manifest(image).layers:
                    found.setdefault(layer.digest, paths[0])
        return found
