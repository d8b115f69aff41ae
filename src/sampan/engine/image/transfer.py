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
from sampan.base.errors import InvalidArgument, SystemFailure
from sampan.content.archive_images import Loaded, load_archive
from sampan.content.archive_save import SavedTarget, plan_archive, write_archive
from sampan.content.assembly import Assembled
from sampan.content.bootstrap import BootstrapOptions, bootstrap
from sampan.content.compression import CHUNK, Read
from sampan.content.images import Lease
from sampan.content.layer_import import import_layer
from sampan.content.streams import Workers
from sampan.content.unpack import ArchiveLimits
from sampan.formats.dockerfile_changes import apply_changes
from sampan.formats.platform import Platform
from sampan.formats.reference import ImageName, parse_name, parse_tagged
from sampan.model.container import ContainerConfig
from sampan.model.image import Image
from sampan.model.progress import ProgressDetail, ProgressMessage

from .catalog import ImageCatalog, Located, NoSuchImage, host_platform, wanted_platform
from .config import wire_config
from .progress import bar_text

Put = Callable[[ProgressMessage | Loaded], None]

_PROGRESS_STEP = 1 << 20
_URL_TIMEOUT_S = 60


class ImageTransfer:
    def __init__(self, catalog: ImageCatalog, workers: Workers, limits: ArchiveLimits | None = None) -> None:
        self._catalog = catalog
        self._store = catalog.store
        self._workers = workers
        self._limits = limits or self._store.layers.limits

    async def load(
        self, body: AsyncIterator[bytes], quiet: bool = False, platform: str = ""
    ) -> AsyncGenerator[ProgressMessage, None]:
        """Take in every image of an archive. Raises BadArchive, HostileArchive, DigestMismatch, DiskFull;
        then nothing of the archive is left."""
        wanted = wanted_platform(platform)

        with self._store.lease() as lease:

            def work(read: Read, put: Put) -> None:
                loaded = load_archive(
                    self._store,
                    lease,
                    read,
                    wanted=wanted,
                    host=host_platform(),
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

    def _register_loaded(self, loaded: Loaded) -> list[ProgressMessage]:
        messages = []
        names = [parse_tagged(name).familiar for name in loaded.names]
        images = [self.register(one) for one in loaded.images]
        for name in names:
            previous = self._catalog.find_named(name)
            if previous is not None and previous.id not in {image.id for image in images}:
                text = f"The image {name} already exists, renaming the old one with ID "
                messages.append(ProgressMessage(stream=f"{text}{previous.id} to empty string\n"))
        self._store.point(
            dict.fromkeys(names, "tag"),
            loaded.target or images[0].manifest_digest,
            now_ns(),
            documents=loaded.documents,
        )
        messages += [ProgressMessage(stream=f"Loaded image: {name}\n") for name in names]
        if not names:
            messages += [ProgressMessage(stream=f"Loaded image ID: {image.id}\n") for image in images]
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
        saved = self._select(refs, wanted_platform(platform))
        with self._store.lease() as lease:
            # before anybody else has a turn, who may remove the images
            contents = plan_archive(self._store, lease, saved)

            def work(write: Callable[[bytes], None]) -> None:
                write_archive(self._store, contents, write)

            async for chunk in self._workers.produce(work):
                yield chunk
        for image_id in dict.fromkeys(image.id for one in saved for image in one.images):
            self._catalog.publish("save", image_id, image_id)

    def _select(self, refs: Sequence[str], platform: Platform | None) -> list[SavedTarget]:
        """A repository without a tag stands for all its tags, as in ``docker save``."""
        chosen: dict[tuple[str, str], tuple[Located, list[str]]] = {}
        for ref in refs:
            for located, name in self._named(ref):
                _, names = chosen.setdefault((located.target, located.image_id), (located, []))
                if name and name not in names:
                    names.append(name)
        return [self._saved(located, names, platform) for located, names in chosen.values()]

    def _saved(self, located: Located, names: list[str], platform: Platform | None) -> SavedTarget:
        ref = names[0] if names else located.name or located.image_id or located.target
        meant = self._catalog.chosen(located, ref, platform)
        if meant is None:
            raise NoSuchImage(ref)
        if platform is not None or located.image_id:
            images = [meant]
        else:
            ids = self._store.documents.images_of(located.target)
            found = [image for image in map(self._store.find, sorted(ids)) if image is not None]
            images = [meant, *(image for image in found if image.id != meant.id)]
        return SavedTarget(target=located.target, images=images, names=names, whole=platform is None)

    def _named(self, ref: str) -> list[tuple[Located, str]]:
        try:
            located = self._catalog.locate(ref)
        except NoSuchImage:
            name = parse_name(ref)
            if not name.is_name_only:
                raise
        else:
            if not located.name:
                return [(located, "")]
            name = parse_name(ref)
            if not name.is_name_only:
                return [(located, "" if name.digest else located.name)]
        found = [
            (Located(target=target, name=text), text)
            for text, target in sorted(self._store.names.all().items())
            if "@" not in text and parse_name(text).repository == name.repository
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
        runs_on = wanted_platform(platform) or host_platform()
        document = _import_config(config, runs_on, message or f"Imported from {source}")
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
                    self._catalog.name(image, name)
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

                made = bootstrap(self._store, lease, name, options, say)
                put(Loaded(images=[msgspec.structs.replace(made, names=[])], names=made.names))

            try:
                async for item in self._workers.items(work):
                    if isinstance(item, ProgressMessage):
                        yield item
                        continue
                    for message in self._register_loaded(item):
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


def _import_config(config: ContainerConfig, platform: Platform, message: str) -> dict[str, object]:
    created = format_ns(now_ns())
    document: dict[str, object] = {"architecture": platform.architecture}
    if platform.variant:
        document["variant"] = platform.variant
    document |= {
        "comment": message,
        "created": created,
        "config": wire_config(config),
        "os": platform.os,
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
