"""Fetch images from registries.

Layers are downloaded a few at a time and unpacked meanwhile, each in a thread of its own; what is stored
changes only at the end, in one transaction. A pull that fails or is cancelled leaves its downloads for the
next one and nothing else.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence

import msgspec

from sampan.base.clock import now_ns
from sampan.base.crashpoints import crash_point
from sampan.content.assembly import Assembled, assemble
from sampan.content.documents import platform_of
from sampan.content.images import ImageStore, Lease
from sampan.content.layers import chain_ids
from sampan.content.streams import Workers
from sampan.engine.events import Events
from sampan.formats.platform import Platform, is_same
from sampan.formats.reference import ImageName
from sampan.model.image import Image
from sampan.model.progress import ProgressMessage
from sampan.store.images import ManifestRecord
from sampan.transfer.credentials import Credentials
from sampan.transfer.downloads import Downloads
from sampan.transfer.registries import Registries
from sampan.transfer.repository import Repository

from .blob_sources import BlobSources
from .catalog import ImageCatalog, host_platform, wanted_platform
from .layer_fetch import FetchedLayers, LayerFetch, WantedLayer
from .progress import Say, messages_of, status
from .remote import RemoteImage, RemoteImages, first_answer
from .transfer import ImageTransfer
from .words import explained


class PullWanted(msgspec.Struct, frozen=True, kw_only=True):
    name: ImageName
    """Neither tag nor digest: all tags."""
    platform: str = ""
    """As ``--platform`` has it; "" for this machine's."""
    credentials: Credentials


class Puller:
    def __init__(
        self,
        catalog: ImageCatalog,
        transfer: ImageTransfer,
        registries: Registries,
        downloads: Downloads,
        events: Events,
        workers: Workers,
        sources: BlobSources,
    ) -> None:
        self._catalog = catalog
        self._store: ImageStore = catalog.store
        self._transfer = transfer
        self._registries = registries
        self._downloads = downloads
        self._events = events
        self._workers = workers
        self._sources = sources
        self._layers = LayerFetch(self._store, downloads, workers)

    def pull(self, wanted: PullWanted) -> AsyncGenerator[ProgressMessage, None]:
        """Raises PullRefused, NoMatchingPlatform, UnsupportedManifest, what the registry answers, and what
        unpacking raises."""

        async def work(say: Say) -> None:
            repositories = await self._registries.repositories(
                wanted.name.domain, wanted.name.path, wanted.credentials
            )
            names = [wanted.name]
            if wanted.name.is_name_only:
                names = await self._all_names(repositories, wanted.name)
            changed = [await self._pull_one(say, repositories, name, wanted.platform) for name in names]
            text = "Downloaded newer image" if any(changed) else "Image is up to date"
            say(status(f"Status: {text} for {wanted.name.familiar}"))

        return messages_of(work)

    async def _all_names(self, repositories: Sequence[Repository], name: ImageName) -> list[ImageName]:
        with explained(name):
            tags = await first_answer(repositories, lambda repository: repository.tags())
        return [name.with_tag(tag) for tag in tags]

    async def _pull_one(
        self, say: Say, repositories: Sequence[Repository], name: ImageName, platform: str
    ) -> bool:
        """One image under one name. Whether it was not here, or the name stood for something else."""
        remote = RemoteImages(self._store, repositories)
        wanted = wanted_platform(platform)
        with explained(name):
            target = await remote.target(name)
            say(ProgressMessage(status=f"Pulling from {name.path}", id=name.digest or name.tag))
            found = await remote.image(target, name, wanted or host_platform())

        def finish(image: Image, new: bool) -> bool:
            say(status(f"Digest: {target.digest}"))
            if wanted is not None:
                _warn_of_platform(say, image, name, wanted)
            layers = [layer.digest for layer in found.manifest.layers]
            documents = [one.digest for one in (*found.indexes, found.document)]
            self._sources.seen(name, [*documents, *layers])
            return self._record(image, name, found) or new

        image_id = found.manifest.config.digest
        if self._store.find(image_id) is not None:
            with self._store.lease() as lease:
                await self._workers.run(lambda: self._keep_documents(lease, found))
                # somebody may have removed it meanwhile
                image = self._store.find(image_id)
                if image is not None:
                    return finish(image, False)
        return await self._fetch(say, repositories, found, finish)

    def _keep_documents(self, lease: Lease, found: RemoteImage) -> None:
        """In a thread: what led to the image, byte by byte."""
        for document in (*found.indexes, found.document):
            lease.add(document.digest)
            self._store.blobs.put(document.data)

    async def _fetch(
        self,
        say: Say,
        repositories: Sequence[Repository],
        found: RemoteImage,
        finish: Callable[[Image, bool], bool],
    ) -> bool:
        """All layers, then the image; ``finish`` names it before anybody can take it for unused."""
        diff_ids, blobs = found.config.rootfs.diff_ids, found.manifest.layers
        chains = chain_ids(diff_ids)
        layers = [
            WantedLayer(blob=blob, diff_id=diff_id, chain_id=chain)
            for blob, diff_id, chain in zip(blobs, diff_ids, chains, strict=True)
        ]
        digests = [blob.digest for blob in blobs]
        with self._downloads.holding(digests), self._store.lease() as lease:
            lease.add(*chains, *digests)
            try:
                async with self._layers.fetched(layers, repositories, say) as fetched:
                    assembled = await self._workers.run(lambda: self._assemble(lease, found, fetched))
                    return finish(self._transfer.register(assembled, ""), True)
            finally:
                lease.release()
                await self._catalog.collect()

    def _assemble(self, lease: Lease, found: RemoteImage, fetched: FetchedLayers) -> Assembled:
        """In a thread: from here on what was fetched belongs to the store."""
        for digest, path in fetched.paths.items():
            self._store.blobs.adopt(path, digest)
            crash_point("pull.adopt.renamed")
        self._keep_documents(lease, found)
        return assemble(
            self._store,
            lease,
            found.config_data,
            found.manifest.layers,
            names=[],
            manifest_data=found.document.data,
            media_type=found.document.media_type,
            ready=fetched.staged,
        )

    def _record(self, image: Image, name: ImageName, found: RemoteImage) -> bool:
        """Let the name stand for what was found, in one step: nothing is awaited. Whether it is news."""
        target = found.target.digest
        documents = [ManifestRecord(digest=one.digest, media_type=one.media_type) for one in found.indexes]
        own = ManifestRecord(
            digest=found.document.digest, media_type=found.document.media_type, image_id=image.id
        )
        by_digest = f"{name.familiar_repository}@{target}"
        shown = by_digest if name.digest else name.familiar
        changed = self._store.names.find(shown) != target
        kinds = {by_digest: "digest", shown: "digest" if name.digest else "tag"}
        fresh = {one: kind for one, kind in kinds.items() if self._store.names.find(one) != target}
        self._store.point(fresh, target, now_ns(), documents=[*documents, own], arrived=image.id)
        labels = image.config.config.labels if image.config.config is not None else None
        self._events.publish(
            "image", "pull", name.familiar, {**(labels or {}), "name": name.familiar_repository}
        )
        return changed


def _warn_of_platform(say: Say, image: Image, name: ImageName, wanted: Platform) -> None:
    actual = platform_of(image)
    if not is_same(actual, wanted):
        say(
            status(
                f"WARNING: image with reference {name.familiar} was found but its platform ({actual.text}) "
                f"does not match the specified platform ({wanted.text})"
            )
        )
