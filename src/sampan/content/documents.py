"""Indexes and manifests that are here, and which images they lead to.

In memory beside the rows, like everything of :class:`sampan.content.images.ImageStore`, which owns this. An
index says by itself what belongs to it; an entry is here when there is a row for its manifest. So nothing has
to be told to an index when the image of another of its platforms comes or goes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

import msgspec

from sampan.formats.platform import Platform, platform, read_platform
from sampan.model.image import Descriptor, Image, Index
from sampan.store.images import ImageTable, ManifestRecord

from .blobs import BlobStore
from .errors import BlobNotFound, ContentDamaged
from .targets import MAX_DEPTH, BadIndex, Entry, attested, decode_index, is_index, leaves

log = logging.getLogger(__name__)


class _Head(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    media_type: str = ""


_head = msgspec.json.Decoder(_Head).decode


class Documents:
    def __init__(self, table: ImageTable, blobs: BlobStore, images: Mapping[str, Image]) -> None:
        """``images`` are those that are here, by id; kept by the owner."""
        self._table = table
        self._blobs = blobs
        self._images = images
        self._manifests = {record.digest: record for record in table.load_manifests()}
        self._indexes: dict[str, Index] = {}
        self._parents: dict[str, set[str]] = {}
        self._of_image: dict[str, set[str]] = {}
        for record in self._manifests.values():
            self._link(record)

    def _link(self, record: ManifestRecord) -> None:
        if record.image_id:
            self._of_image.setdefault(record.image_id, set()).add(record.digest)
            return
        if not is_index(record.media_type):
            return
        try:
            index = decode_index(self._blobs.read(record.digest))
        except (BlobNotFound, ContentDamaged, BadIndex) as error:
            # its images are still there under their ids; pulling the name again repairs it
            log.error("image index %s cannot be used: %s", record.digest, error)
            return
        self._indexes[record.digest] = index
        for entry in index.manifests:
            self._parents.setdefault(entry.digest, set()).add(record.digest)

    def find(self, digest: str) -> ManifestRecord | None:
        return self._manifests.get(digest)

    def has(self, record: ManifestRecord) -> bool:
        """Whether the document is here like this, and if it is an index, could be read."""
        is_read = record.digest in self._indexes or not is_index(record.media_type)
        return is_read and self._manifests.get(record.digest) == record

    def digests(self) -> list[str]:
        """Of all that are here."""
        return list(self._manifests)

    def of_image(self, image_id: str) -> set[str]:
        """The manifests that lead to an image; the same layers can be packed in several ways."""
        return set(self._of_image.get(image_id, ()))

    def write(self, record: ManifestRecord) -> None:
        """The row, within the owner's transaction; :meth:`add` follows when that is over."""
        self._table.put_manifest(record)

    def add(self, record: ManifestRecord) -> set[str]:
        """A document whose blob is in place; the images that it leads to."""
        if self.has(record):
            return set()
        self._manifests[record.digest] = record
        self._link(record)
        return self.images_of(record.digest)

    def drop(self, digests: Iterable[str]) -> None:
        """They are not here any more, and their rows are gone. An index they are in stays."""
        for digest in digests:
            record = self._manifests.pop(digest)
            self._of_image.get(record.image_id, set()).discard(digest)
            for entry in self._indexes.pop(digest, Index()).manifests:
                self._parents.get(entry.digest, set()).discard(digest)

    def above(self, digests: Iterable[str]) -> set[str]:
        """The documents and all indexes they are in."""
        found: set[str] = set()
        work = list(digests)
        while work:
            digest = work.pop()
            if digest not in found:
                found.add(digest)
                work += self._parents.get(digest, ())
        return found

    def everything_below(self, digests: Iterable[str]) -> set[str]:
        """The documents and everything in them that is here."""
        found: set[str] = set()
        work = list(digests)
        while work:
            digest = work.pop()
            if digest not in found and digest in self._manifests:
                found.add(digest)
                work += (entry.digest for entry in self._indexes.get(digest, Index()).manifests)
        return found

    def below(self, target: str) -> list[str]:
        """All documents of a target that are here, each before those that it leads to."""
        finished: dict[str, None] = {}
        seen: set[str] = set()

        def visit(digest: str, depth: int) -> None:
            if digest in seen or digest not in self._manifests or depth > MAX_DEPTH:
                return
            seen.add(digest)
            for entry in self._indexes.get(digest, Index()).manifests:
                visit(entry.digest, depth + 1)
            finished[digest] = None

        visit(target, 0)
        return list(reversed(finished))

    def images_of(self, target: str) -> set[str]:
        """Ids of the images of a target that are here."""
        ids = {self._manifests[digest].image_id for digest in self.everything_below((target,))}
        return {image_id for image_id in ids if image_id in self._images}

    def entries(self, target: str) -> list[Entry]:
        """The leaves of a target: for a manifest that one alone. [] when the target is not here."""
        record = self._manifests.get(target)
        if record is None:
            return []
        top = self._indexes.get(target)
        if top is None:
            if is_index(record.media_type):
                return []
            # what size it has is on the disk, and no name should need the disk to be found
            return [self._entry(Descriptor(media_type=record.media_type, digest=target))]
        try:
            found = leaves(top.manifests, lambda one: self._indexes.get(one.digest))
        except BadIndex as error:
            # of parts that came one by one, each of them sound
            log.error("image index %s cannot be used: %s", target, error)
            return []
        return [self._entry(one) for one in found]

    def _entry(self, descriptor: Descriptor) -> Entry:
        record = self._manifests.get(descriptor.digest)
        image = self._images.get(record.image_id) if record is not None else None
        declared = read_platform(descriptor.platform)
        return Entry(
            descriptor=descriptor,
            platform=declared or (platform_of(image) if image is not None else None),
            image_id=image.id if image is not None else "",
            arrived_ns=image.arrived_ns if image is not None else 0,
            is_here=record is not None and (image is not None or not record.image_id),
            attests=attested(descriptor),
        )

    def describe(self, digest: str) -> Descriptor:
        """What a registry or an index would say of a document. Raises BlobNotFound."""
        record = self._manifests.get(digest)
        data = self._blobs.read(digest)
        media_type = record.media_type if record is not None else ""
        return Descriptor(media_type=media_type or media_type_in(data), digest=digest, size=len(data))


def media_type_in(data: bytes) -> str:
    """What a document calls itself; "" when it does not say."""
    try:
        return _head(data).media_type
    except (msgspec.DecodeError, RecursionError):
        return ""


def platform_of(image: Image) -> Platform:
    config = image.config
    return platform(config.os or "linux", config.architecture, config.variant, config.os_version)
