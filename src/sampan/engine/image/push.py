"""Send images to registries: what is there already is not sent, what a neighbour has is mounted."""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable

import msgspec

from sampan.base.clock import now_ns
from sampan.base.errors import InvalidArgument, NotFound
from sampan.content.images import OCI_MANIFEST, ImageStore
from sampan.engine.events import Events
from sampan.formats.reference import ImageName, parse_name
from sampan.model.image import Descriptor, Image, Manifest
from sampan.model.progress import ProgressMessage
from sampan.transfer.credentials import Credentials
from sampan.transfer.errors import RegistryRefused, RegistryUnreachable
from sampan.transfer.http import is_retried
from sampan.transfer.registries import Registries
from sampan.transfer.repository import Repository

from .catalog import ImageCatalog
from .progress import Meter, Say, messages_of, status

_Sources = Callable[[], dict[str, str]]

_CHUNK = 1 << 20
_FIRST_WAIT_S = 1.0


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
        self._limit = max(limit, 1)
        self._attempts = max(attempts, 1)

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
            await self._layers(say, repository, name, image, manifest)
            config = msgspec.structs.replace(manifest.config, digest=image.id)
            if not await repository.has_blob(config.digest):
                await self._upload(say, repository, config, "", "")
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

    async def _layers(
        self, say: Say, repository: Repository, name: ImageName, image: Image, manifest: Manifest
    ) -> None:
        """Each blob once, top layer first as Docker shows them."""
        layers: dict[str, tuple[Descriptor, str]] = {}
        for layer, diff_id in zip(manifest.layers, image.config.rootfs.diff_ids, strict=True):
            layers.setdefault(layer.digest, (layer, diff_id.removeprefix("sha256:")[:12]))
        ordered = list(reversed(layers.values()))
        for _, shown in ordered:
            say(status("Preparing", shown))
        slots = asyncio.Semaphore(self._limit)
        # asked only when something has to be sent
        sources = functools.cache(lambda: self._neighbours(name))

        async def send(layer: Descriptor, shown: str) -> None:
            async with slots:
                await self._layer(say, repository, sources, layer, shown)

        tasks = [asyncio.ensure_future(send(layer, shown)) for layer, shown in ordered]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)

    async def _layer(
        self, say: Say, repository: Repository, sources: _Sources, layer: Descriptor, shown: str
    ) -> None:
        if await repository.has_blob(layer.digest):
            say(status("Layer already exists", shown))
            return
        await self._upload(say, repository, layer, sources().get(layer.digest, ""), shown)

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

    async def _upload(
        self, say: Say, repository: Repository, blob: Descriptor, source: str, shown: str
    ) -> None:
        """Mounted from ``source`` if that works, else sent; broken attempts are made again from the start."""
        size = self._store.blobs.require(blob.digest).size
        attempt = 0
        while True:
            try:
                location = await repository.start_upload(blob.digest if source else "", source)
                if not location:
                    if shown:
                        say(status(f"Mounted from {source}", shown))
                    return
                await self._send(say, repository, location, blob.digest, size, shown)
                break
            except (RegistryRefused, RegistryUnreachable) as error:
                attempt += 1
                if isinstance(error, RegistryRefused) and source:
                    source = ""  # not ours to read: send it
                    continue
                passing = (
                    error.connected if isinstance(error, RegistryUnreachable) else is_retried(error.status)
                )
                if not passing or attempt >= self._attempts:
                    raise
                await asyncio.sleep(_FIRST_WAIT_S * 2.0 ** (attempt - 1))
        if shown:
            say(status("Pushed", shown))

    async def _send(
        self, say: Say, repository: Repository, location: str, digest: str, size: int, shown: str
    ) -> None:
        meter = Meter(say, "Pushing", shown)
        fd = self._store.blobs.open(digest)

        async def read(offset: int, length: int) -> AsyncIterator[bytes]:
            end = offset + length
            while offset < end:
                chunk = await asyncio.to_thread(os.pread, fd, min(_CHUNK, end - offset), offset)
                if not chunk:
                    break
                offset += len(chunk)
                yield chunk
                if shown:
                    meter(offset, size)

        try:
            await repository.upload(location, digest, size, read)
        finally:
            os.close(fd)
