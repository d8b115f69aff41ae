"""Fetch images from registries.

Layers are downloaded a few at a time and unpacked meanwhile, each in a thread of its own; what is stored
changes only at the end, in one transaction. A pull that fails or is cancelled leaves its downloads for the
next one and nothing else.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from typing import TypeVar

import msgspec

from sampan.base.clock import now_ns
from sampan.base.errors import InvalidArgument, NotFound, SampanError
from sampan.content.assembly import Assembled, assemble, parse_config
from sampan.content.blobs import digest_of
from sampan.content.bootstrap import architecture
from sampan.content.images import ImageStore, Lease
from sampan.content.layers import chain_ids
from sampan.content.streams import Workers
from sampan.engine.events import Events
from sampan.formats.reference import ImageName
from sampan.model.image import Descriptor, Image, ImageConfig, Manifest
from sampan.model.progress import ProgressMessage
from sampan.transfer.credentials import Credentials
from sampan.transfer.downloads import Downloads
from sampan.transfer.errors import (
    DENIED,
    MANIFEST_UNKNOWN,
    NAME_UNKNOWN,
    ContentMismatch,
    NoMatchingPlatform,
    RegistryRefused,
    RegistryUnreachable,
)
from sampan.transfer.manifests import Platform, choose, is_index, read_index, read_manifest
from sampan.transfer.registries import Registries
from sampan.transfer.repository import Repository

from .blob_sources import BlobSources
from .catalog import ImageCatalog, parse_platform
from .layer_fetch import FetchedLayers, LayerFetch, WantedLayer
from .progress import Say, messages_of, status
from .transfer import ImageTransfer

T = TypeVar("T")

_CONFIG_LIMIT_BYTES = 8 << 20
_PASSED_OVER = (RegistryRefused, RegistryUnreachable, ContentMismatch)


class PullRefused(NotFound):
    """What was asked for is not there, or not for everybody. Docker's texts, which clients match on."""


class PullWanted(msgspec.Struct, frozen=True, kw_only=True):
    name: ImageName
    """Neither tag nor digest: all tags."""
    platform: str = ""
    """As ``--platform`` has it; "" for this machine's."""
    credentials: Credentials


class _Found(msgspec.Struct, frozen=True, kw_only=True):
    """An image in a registry; no layer has been fetched."""

    digest: str
    """Of what the name stands for: an index or a manifest."""
    manifest_data: bytes
    manifest: Manifest
    config_data: bytes
    config: ImageConfig


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
        with _explained(name):
            tags = await first_answer(repositories, lambda repository: repository.tags())
        return [name.with_tag(tag) for tag in tags]

    async def _pull_one(
        self, say: Say, repositories: Sequence[Repository], name: ImageName, platform: str
    ) -> bool:
        """One image under one name. Whether the name stood for something else before."""
        with _explained(name):
            found = await self._find(say, repositories, name, platform)

        def finish(image: Image) -> bool:
            say(status(f"Digest: {found.digest}"))
            if platform:
                self._warn_of_platform(say, image, name, platform)
            layers = [layer.digest for layer in found.manifest.layers]
            self._sources.seen(name, [found.digest, digest_of(found.manifest_data), *layers])
            return self._record(image, name, found.digest)

        image = self._store.find(found.manifest.config.digest)
        if image is not None:
            return finish(image)
        return await self._fetch(say, repositories, found, finish)

    async def _find(
        self, say: Say, repositories: Sequence[Repository], name: ImageName, platform: str
    ) -> _Found:
        reference = name.digest or name.tag
        top = await first_answer(repositories, lambda repository: repository.manifest(reference))
        say(ProgressMessage(status=f"Pulling from {name.path}", id=reference))
        fetched = top
        if is_index(top.media_type):
            os_, arch, variant = parse_platform(platform) if platform else ("linux", architecture(), "")
            wanted = Platform(os=os_, architecture=arch, variant=variant)
            entry = choose(read_index(top), wanted)
            fetched = await first_answer(repositories, lambda repository: repository.manifest(entry.digest))
        manifest = read_manifest(fetched, name.familiar)
        data = await self._config(repositories, manifest.config)
        config = parse_config(data)
        if config.os not in ("", "linux"):
            raise InvalidArgument(
                f'image operating system "{config.os}" cannot be used on this platform: {name.familiar}'
            )
        if len(config.rootfs.diff_ids) != len(manifest.layers):
            raise ContentMismatch("layers from manifest don't match image configuration")
        return _Found(
            digest=top.digest,
            manifest_data=fetched.data,
            manifest=manifest,
            config_data=data,
            config=config,
        )

    async def _config(self, repositories: Sequence[Repository], descriptor: Descriptor) -> bytes:
        if self._store.find(descriptor.digest) is not None:
            return self._store.blobs.read(descriptor.digest)
        limit = min(descriptor.size or _CONFIG_LIMIT_BYTES, _CONFIG_LIMIT_BYTES)
        return await first_answer(
            repositories, lambda repository: repository.small_blob(descriptor.digest, limit)
        )

    async def _fetch(
        self, say: Say, repositories: Sequence[Repository], found: _Found, finish: Callable[[Image], bool]
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
                    return finish(self._transfer.register(assembled, ""))
            finally:
                lease.release()
                await self._catalog.collect()

    def _assemble(self, lease: Lease, found: _Found, fetched: FetchedLayers) -> Assembled:
        """In a thread: from here on what was fetched belongs to the store."""
        for digest, path in fetched.paths.items():
            self._store.blobs.adopt(path, digest)
        return assemble(
            self._store,
            lease,
            found.config_data,
            found.manifest.layers,
            names=[],
            manifest_data=found.manifest_data,
            ready=fetched.staged,
        )

    def _record(self, image: Image, name: ImageName, digest: str) -> bool:
        now = now_ns()
        by_digest = f"{name.familiar_repository}@{digest}"
        shown = by_digest if name.digest else name.familiar
        previous = self._store.find_named(shown)
        if self._store.find_named(by_digest) != image:
            self._store.name(by_digest, image.id, now, kind="digest")
        if not name.digest and (previous is None or previous.id != image.id):
            self._store.name(shown, image.id, now)
        labels = image.config.config.labels if image.config.config is not None else None
        self._events.publish(
            "image", "pull", name.familiar, {**(labels or {}), "name": name.familiar_repository}
        )
        return previous is None or previous.id != image.id

    @staticmethod
    def _warn_of_platform(say: Say, image: Image, name: ImageName, platform: str) -> None:
        os_, arch, variant = parse_platform(platform)
        config = image.config
        same = not variant or not config.variant or variant == config.variant
        if (os_, arch) == (config.os or "linux", config.architecture) and same:
            return
        actual = Platform(os=config.os, architecture=config.architecture, variant=config.variant).text
        wanted = Platform(os=os_, architecture=arch, variant=variant).text
        say(
            status(
                f"WARNING: image with reference {name.familiar} was found but its platform ({actual}) "
                f"does not match the specified platform ({wanted})"
            )
        )


async def first_answer(repositories: Sequence[Repository], ask: Callable[[Repository], Awaitable[T]]) -> T:
    """The answer of the first address that has one; the last one's error otherwise."""
    for repository in repositories[:-1]:
        with contextlib.suppress(*_PASSED_OVER):
            return await ask(repository)
    return await ask(repositories[-1])


@contextlib.contextmanager
def _explained(name: ImageName) -> Iterator[None]:
    try:
        yield
    except RegistryRefused as error:
        raise explain_refusal(error, name) from error
    except NoMatchingPlatform as error:
        raise PullRefused(error.message) from error


def explain_refusal(error: RegistryRefused, name: ImageName) -> SampanError:
    """A registry's answer in the words of ``docker pull``."""
    if error.code == DENIED:
        return PullRefused(
            f"pull access denied for {name.familiar_repository}, repository does not exist or may require "
            f"'docker login': {error.message}"
        )
    if error.code == MANIFEST_UNKNOWN:
        return PullRefused(f"manifest for {name.familiar} not found: {error.message}")
    if error.code == NAME_UNKNOWN:
        return PullRefused(f"repository {name.familiar_repository} not found: {error.message}")
    return error
