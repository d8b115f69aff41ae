"""Send images to registries: names, manifests and what the client is told; ``blob_upload`` sends bytes."""

from __future__ import annotations

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

from .blob_upload import BlobUpload, Destination, OutgoingLayer, OutgoingManifest
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
        self, catalog: ImageCatalog, registries: Registries, events: Events, upload: BlobUpload
    ) -> None:
        self._catalog = catalog
        self._store: ImageStore = catalog.store
        self._registries = registries
        self._events = events
        self._upload = upload

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
            to = Destination(name=name, repository=repository)
            for tagged, image in images:
                await self._push_one(say, to, tagged, image)

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

    async def _push_one(self, say: Say, to: Destination, name: ImageName, image: Image) -> None:
        with self._store.lease() as lease:
            lease.add(image.manifest_digest, image.id)
            data = self._store.blobs.read(image.manifest_digest)
            manifest = self._store.manifest(image)
            lease.add(*image.chain_ids, *(layer.digest for layer in manifest.layers))
            outgoing = OutgoingManifest(
                data=data,
                media_type=manifest.media_type or OCI_MANIFEST,
                config=msgspec.structs.replace(manifest.config, digest=image.id),
                layers=[
                    OutgoingLayer(blob=blob, diff_id=diff_id, chain_id=chain)
                    for blob, diff_id, chain in zip(
                        manifest.layers, image.config.rootfs.diff_ids, image.chain_ids, strict=True
                    )
                ],
            )
            pushed = await self._upload.put(say, to, name.tag, outgoing)
        digest = pushed.digest
        say(status(f"{name.tag}: digest: {digest} size: {pushed.size_bytes}"))
        result = _PushResult(tag=name.tag, digest=digest, size=pushed.size_bytes)
        say(ProgressMessage(aux=msgspec.to_builtins(result)))
        if self._store.find(image.id) is not None:
            self._store.name(f"{name.familiar_repository}@{digest}", image.id, now_ns(), kind="digest")
        labels = image.config.config.labels if image.config.config is not None else None
        self._events.publish(
            "image", "push", name.familiar, {**(labels or {}), "name": name.familiar_repository}
        )
