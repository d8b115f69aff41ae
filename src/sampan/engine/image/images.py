"""Images: what the front ends call. Each verb is one line here and lives in the module that it names."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence

import msgspec

from sampan.base.errors import InvalidArgument, NotFound
from sampan.content.bootstrap import BootstrapOptions
from sampan.content.images import ImageStore
from sampan.content.streams import Workers
from sampan.engine.events import Events
from sampan.model.image import Image
from sampan.model.progress import ProgressMessage
from sampan.transfer.downloads import Downloads

from .catalog import ImageCatalog
from .removal import ImageRemoval
from .transfer import ImageTransfer
from .users import ImageUsers
from .views import DeletedImage, HistoryItem, ImageInspect, ImagePrune, ImageSummary, ImageUsage


class Images:
    def __init__(
        self,
        store: ImageStore,
        users: ImageUsers,
        events: Events,
        workers: Workers,
        downloads: Downloads | None = None,
    ) -> None:
        """``downloads`` are those that broken pulls have left; pruning removes them as well."""
        self._downloads = downloads
        self.catalog = ImageCatalog(store, users, events, workers)
        self.removal = ImageRemoval(self.catalog, users, events)
        self.transfer = ImageTransfer(self.catalog, workers)

    async def resolve(self, ref: str, platform: str = "") -> Image:
        """By name, digest, id or unique id prefix. Raises NoSuchImage, InvalidReference."""
        return await self.catalog.resolve(ref, platform)

    async def inspect(self, ref: str, manifests: bool = False, platform: str = "") -> ImageInspect:
        """Raises NoSuchImage."""
        return await self.catalog.inspect(ref, manifests, platform)

    async def history(self, ref: str, platform: str = "") -> Sequence[HistoryItem]:
        """Newest first. Raises NoSuchImage."""
        return await self.catalog.history(ref, platform)

    async def list(
        self,
        filters: Mapping[str, Sequence[str]] | None = None,
        all: bool = False,  # noqa: A002 - Docker's word
        shared_size: bool = False,
        digests: bool = False,
        manifests: bool = False,
    ) -> Sequence[ImageSummary]:
        """Newest first. Raises InvalidFilter. ``digests`` changes nothing: they are always there."""
        return await self.catalog.list(filters, all, shared_size, manifests)

    async def stands_for(self, ref: str, image_id: str) -> bool:
        """Whether a reference leads to the image, be it on another platform than this machine's."""
        try:
            return image_id in self.catalog.images_of(ref)
        except (NotFound, InvalidArgument):
            return False

    async def usage(self) -> ImageUsage:
        """For ``system df``."""
        return await self.catalog.usage()

    async def tag(self, ref: str, repo: str, tag: str = "") -> None:
        """Raises InvalidReference, NoSuchImage."""
        await self.catalog.tag(ref, repo, tag)

    async def remove(
        self, ref: str, force: bool = False, noprune: bool = False, platforms: Sequence[str] = ()
    ) -> Sequence[DeletedImage]:
        """Raises NoSuchImage, ImageInUse, PlatformNotHere."""
        return await self.removal.remove(ref, force, noprune, platforms)

    async def prune(self, filters: Mapping[str, Sequence[str]] | None = None) -> ImagePrune:
        """Raises PruneRunning, InvalidFilter."""
        pruned = await self.removal.prune(filters)
        if self._downloads is None or set(filters or ()) - {"dangling"}:
            return pruned
        freed = await self._downloads.clear()
        return msgspec.structs.replace(pruned, space_reclaimed=pruned.space_reclaimed + freed)

    async def recover(self) -> None:
        """At start: remove what unfinished work of an earlier process has left."""
        await self.removal.recover()

    def load(
        self, body: AsyncIterator[bytes], quiet: bool = False, platform: str = ""
    ) -> AsyncGenerator[ProgressMessage, None]:
        """Every image of an archive. Raises BadArchive, HostileArchive and what unpacking raises."""
        return self.transfer.load(body, quiet, platform)

    def save(self, refs: Sequence[str], platform: str = "") -> AsyncGenerator[bytes, None]:
        """One archive of the images. Raises NoSuchImage at its first step."""
        return self.transfer.save(refs, platform)

    def import_(
        self,
        body: AsyncIterator[bytes] | None,
        repo: str = "",
        tag: str = "",
        message: str = "",
        changes: Sequence[str] = (),
        platform: str = "",
        source: str = "-",
    ) -> AsyncGenerator[ProgressMessage, None]:
        """An image of one layer from an archive; its id is the status of the last message."""
        return self.transfer.import_(body, repo, tag, message, changes, platform, source)

    def bootstrap(
        self, name: str, options: BootstrapOptions | None = None
    ) -> AsyncGenerator[ProgressMessage, None]:
        """Make a base image from packages: busybox, debian, python, nginx or from-dir."""
        return self.transfer.bootstrap(name, options or BootstrapOptions())
