"""Images in and out: load, save, import and the making of base images.

Bytes are handled in threads by :mod:`sampan.content`; what they amount to is registered here, on the event
loop, in one transaction per image.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence

import msgspec

from sampan.base.clock import format_ns, now_ns
from sampan.base.errors import InvalidArgument, NotFound, SystemFailure
from sampan.content.archive_load import load_archive
from sampan.content.archive_save import SavedImage, save_images
from sampan.content.assembly import Assembled
from sampan.content.bootstrap import BootstrapOptions, architecture, bootstrap
from sampan.content.compression import CHUNK, Read
from sampan.content.images import Lease
from sampan.content.layer_import import import_layer
from sampan.content.streams import Workers
from sampan.content.unpack import ArchiveLimits
from sampan.formats.dockerfile_changes import apply_changes
from sampan.formats.reference import ImageName, parse_name, parse_tagged
from sampan.model.container import ContainerConfig
from sampan.model.image import Image
from sampan.model.progress import ProgressDetail, ProgressMessage

from .catalog import ImageCatalog, NoSuchImage, parse_platform
from .config import wire_config
from .progress import bar_text

Put = Callable[[ProgressMessage | Assembled], None]

_PROGRESS_STEP = 1 << 20
_URL_TIMEOUT_S = 60


class ImageTransfer:
    def __init__(self, catalog: ImageCatalog, workers: Workers, limits: ArchiveLimits | None = None) -> None:
        self._catalog = catalog
        self._store = catalog.store
        self._workers = workers
        self._limits = limits or ArchiveLimits()

    async def load(
        self, body: AsyncIterator[bytes], quiet: bool = False, platform: str = ""
    ) -> AsyncGenerator[ProgressMessage, None]:
        """Take in every image of an archive. Raises BadArchive, HostileArchive, DigestMismatch, DiskFull;
        then nothing of the archive is left."""
        wanted = parse_platform(platform) if platform else ("linux", architecture(), "")

        def matches(os_: str, arch: str, variant: str) -> bool:
            same = not wanted[2] or not variant or variant == wanted[2]
            return (os_, arch) == wanted[:2] and same

        with self._store.lease() as lease:

            def work(read: Read, put: Put) -> None:
                loaded = load_archive(
                    self._store,
                    lease,
                    read,
                    matches=matches,
                    chosen=bool(platform),
                    limits=self._limits,
                    progress=_no_bar if quiet else _bar(put),
                )
                for assembled in loaded:
                    put(assembled)

            try:
                async for item in self._workers.converse(body, work):
                    if isinstance(item, ProgressMessage):
                        yield item
                        continue
                    for message in self._register_loaded(item):
                        yield message
            finally:
                lease.release()
                await self._catalog.collect()

    def _register_loaded(self, assembled: Assembled) -> list[ProgressMessage]:
        messages = []
        names = [parse_name(name) for name in assembled.names]
        for name in names:
            previous = self._store.find_named(name.familiar)
            if previous is not None and previous.id != assembled.image.id:
                text = f"The image {name.familiar} already exists, renaming the old one with ID "
                messages.append(ProgressMessage(stream=f"{text}{previous.id} to empty string\n"))
        image = self.register(assembled)
        messages += [ProgressMessage(stream=f"Loaded image: {name.familiar}\n") for name in names]
        if not names:
            messages.append(ProgressMessage(stream=f"Loaded image ID: {image.id}\n"))
        return messages

    def register(self, assembled: Assembled, action: str = "load") -> Image:
        """Make an image known whose content is in place, with its names, and say so unless ``action`` is
        empty."""
        names = [parse_tagged(name).familiar for name in assembled.names]
        image = self._store.register(assembled.image, assembled.layers, names, now_ns())
        if action:
            self._catalog.publish(action, image.id, image.id)
        return image

    async def save(self, refs: Sequence[str], platform: str = "") -> AsyncGenerator[bytes, None]:
        """One archive of the images. Raises NoSuchImage and NotFound at the first step."""
        saved = self._select(refs, platform)
        with self._store.lease() as lease:

            def work(write: Callable[[bytes], None]) -> None:
                save_images(self._store, lease, saved, write)

            async for chunk in self._workers.produce(work):
                yield chunk
        for one in saved:
            self._catalog.publish("save", one.image.id, one.image.id)

    def _select(self, refs: Sequence[str], platform: str) -> list[SavedImage]:
        """A repository without a tag stands for all its tags, as in ``docker save``."""
        names: dict[str, list[str]] = {}
        for ref in refs:
            for image, name in self._named(ref):
                chosen = names.setdefault(image.id, [])
                if name and name not in chosen:
                    chosen.append(name)
        images = [(self._catalog.find(image_id), chosen) for image_id, chosen in names.items()]
        if platform:
            wanted = parse_platform(platform)
            for image, _ in images:
                if (image.config.os, image.config.architecture) != wanted[:2]:
                    raise NotFound(f"no suitable export target found for platform {platform}")
        return [SavedImage(image=image, names=chosen) for image, chosen in images]

    def _named(self, ref: str) -> list[tuple[Image, str]]:
        image = None
        try:
            image = self._catalog.find(ref)
        except NoSuchImage:
            name = parse_name(ref)
            if not name.is_name_only:
                raise
        else:
            bare = ref.removeprefix("sha256:")
            if image.id.removeprefix("sha256:").startswith(bare):
                return [(image, "")]
            name = parse_name(ref)
            if not name.is_name_only:
                return [(image, "" if name.digest else name.familiar)]
        found = [
            (other, tag)
            for other in self._store.all()
            for tag in other.repo_tags
            if parse_name(tag).repository == name.repository
        ]
        if not found:
            raise NoSuchImage(name.with_default_tag().familiar)
        return found

    async def import_(
        self,
        body: AsyncIterator[bytes] | None,
        repo: str = "",
        tag: str = "",
        message: str = "",
        changes: Sequence[str] = (),
        platform: str = "",
        source: str = "-",
    ) -> AsyncGenerator[ProgressMessage, None]:
        """Make an image of one layer from a root file system's archive: the body, or what a URL gives.

        Raises InvalidReference, BadChange, and what unpacking raises.
        """
        name = _target(repo, tag)
        config = apply_changes(ContainerConfig(), changes)
        os_, arch, variant = parse_platform(platform) if platform else ("linux", architecture(), "")
        document = _import_config(config, os_, arch, variant, message or f"Imported from {source}")
        url = _url(source) if source != "-" else ""
        if url:
            yield ProgressMessage(status=f"Downloading from {url}")
        with self._store.lease() as lease:
            try:
                if url or body is None:
                    done = await self._workers.run(lambda: self._import_url(lease, url, document))
                else:
                    done = await self._workers.consume(
                        body, lambda read: import_layer(self._store, lease, read, document)
                    )
                image = self.register(done, "import")
                if name is not None:
                    self._catalog.name(image.id, name)
            finally:
                lease.release()
                await self._catalog.collect()
        yield ProgressMessage(status=image.id)

    def _import_url(self, lease: Lease, url: str, document: dict[str, object]) -> Assembled:
        try:
            with urllib.request.urlopen(url, timeout=_URL_TIMEOUT_S) as response:  # noqa: S310 - _url checked
                return import_layer(self._store, lease, lambda: response.read(CHUNK), document)
        except urllib.error.HTTPError as error:
            raise SystemFailure(f"failed to GET {url} with status {error.code} {error.reason}") from error
        except urllib.error.URLError as error:
            raise SystemFailure(f"failed to GET {url}: {error.reason}") from error
        except OSError as error:
            raise SystemFailure(f"failed to GET {url}: {error}") from error

    async def bootstrap(self, name: str, options: BootstrapOptions) -> AsyncGenerator[ProgressMessage, None]:
        """Make a base image from the distribution's packages. Raises InvalidArgument, BootstrapFailed."""
        with self._store.lease() as lease:

            def work(put: Put) -> None:
                def say(text: str) -> None:
                    put(ProgressMessage(status=text))

                put(bootstrap(self._store, lease, name, options, say))

            try:
                async for item in self._workers.items(work):
                    if isinstance(item, ProgressMessage):
                        yield item
                        continue
                    names = [parse_tagged(one).familiar for one in item.names]
                    for message in self._register_loaded(msgspec.structs.replace(item, names=names)):
                        yield message
            finally:
                lease.release()
                await self._catalog.collect()


def _target(repo: str, tag: str) -> ImageName | None:
    """Where a new image goes; None when nobody named it. Raises InvalidReference."""
    if not repo:
        return None
    name = parse_name(repo)
    if name.digest:
        raise InvalidArgument("cannot import digest reference")
    return name.with_tag(tag) if tag else name.with_default_tag()


def _url(source: str) -> str:
    url = source if "://" in source else f"http://{source}"
    if not url.startswith(("http://", "https://")):
        raise InvalidArgument(f"cannot import from {source}: only http and https URLs are fetched")
    return url


def _import_config(
    config: ContainerConfig, os_: str, arch: str, variant: str, message: str
) -> dict[str, object]:
    created = format_ns(now_ns())
    document: dict[str, object] = {"architecture": arch}
    if variant:
        document["variant"] = variant
    document |= {
        "comment": message,
        "created": created,
        "config": wire_config(config),
        "os": os_,
        "history": [{"created": created, "comment": message}],
    }
    return document


def _no_bar(_diff_id: str, _done: int, _total: int) -> None:
    """Progress that nobody wants to see."""


def _bar(put: Put) -> Callable[[str, int, int], None]:
    shown: dict[str, int] = {}

    def progress(diff_id: str, done: int, total: int) -> None:
        if done != total and done - shown.get(diff_id, 0) < _PROGRESS_STEP:
            return
        if shown.get(diff_id) == done:
            return
        shown[diff_id] = done
        put(
            ProgressMessage(
                status="Loading layer",
                progress_detail=ProgressDetail(current=done, total=total),
                progress=bar_text(done, total),
                id=diff_id.removeprefix("sha256:")[:12],
            )
        )

    return progress
