"""The images of this machine: rows, blobs and layers as one thing, and what of them is garbage.

Rows are kept in memory: looking up an image touches neither the disk nor the database. Used from the event
loop's thread, like the database itself; unpacking, hashing and deleting run in threads and touch only blobs
and layers, which a :class:`Lease` keeps while they are not yet, or no longer, part of an image.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any

import msgspec

from sampan.base.clock import parse_ns
from sampan.base.crashpoints import crash_point
from sampan.model.image import Descriptor, Image, ImageConfig, Manifest
from sampan.store.db import Database
from sampan.store.images import (
    ImageRecord,
    ImageTable,
    LayerRecord,
    LayerTable,
    ManifestRecord,
    PackedLayer,
)

from .blobs import BlobStore, is_digest
from .documents import Documents
from .errors import BlobNotFound, ContentDamaged
from .layer_blobs import LayerBlobs, is_spare
from .layers import LayerStore
from .names import Names
from .targets import is_index

log = logging.getLogger(__name__)

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"

_decode_any = msgspec.json.Decoder(dict[str, Any]).decode
decode_manifest = msgspec.json.Decoder(Manifest).decode
encode_json = msgspec.json.Encoder().encode


def decode_config(data: bytes) -> ImageConfig:
    """A config blob; null counts as absent, as in Go. Raises msgspec.DecodeError."""
    return msgspec.convert(_without_nulls(_decode_any(data)), ImageConfig)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value


class NewImage(msgspec.Struct, frozen=True, kw_only=True):
    """What is needed to register an image whose blobs and layers are in place."""

    id: str
    config: ImageConfig
    manifest_digest: str
    media_type: str = ""
    """What the manifest's sender called it."""
    chain_ids: list[str]
    layer_sizes: list[int]
    parent: str = ""


class Garbage(msgspec.Struct, frozen=True, kw_only=True):
    """Content that nothing refers to any more, already out of sight, to be deleted in a thread."""

    files: list[str]
    directories: list[str]
    chain_ids: list[str]
    size_bytes: int
    """Of the unpacked layers."""


class ImageStore:
    def __init__(self, db: Database, blobs: BlobStore, layers: LayerStore) -> None:
        self.blobs = blobs
        self.layers = layers
        self._db = db
        self._images_table = ImageTable(db)
        self._layers_table = LayerTable(db)
        self._leases: set[Lease] = set()
        self._lock = threading.Lock()
        self._layers = {layer.chain_id: layer for layer in self._layers_table.load()}
        self.layer_blobs = LayerBlobs(blobs, layers, self._layers)
        self._images: dict[str, Image] = {}
        self._digests: dict[str, list[str]] = {}
        """Blobs of a manifest's layers, as far as it was read."""
        self.documents = Documents(self._images_table, blobs, self._images)
        self.names = Names(self._images_table, self.documents)
        self._load()

    def _load(self) -> None:
        for record in self._images_table.load_images():
            try:
                config = decode_config(self.blobs.read(record.id))
            except (BlobNotFound, ContentDamaged, msgspec.DecodeError) as error:
                # the other images are worth a start; loading this one again repairs it
                log.error("image %s cannot be used: %s", record.id, error)
                continue
            self._images[record.id] = self._image(record, config)

    def _image(self, record: ImageRecord, config: ImageConfig) -> Image:
        names = self.names.rows_of_image(record.id)
        return Image(
            id=record.id,
            config=config,
            manifest_digest=record.manifest_digest,
            repo_tags=sorted(row.name for row in names if row.kind == "tag"),
            repo_digests=sorted(row.name for row in names if row.kind == "digest"),
            chain_ids=record.chain_ids,
            layer_sizes=record.layer_sizes,
            size_bytes=record.size_bytes,
            created_ns=record.created_ns,
            last_tagged_ns=record.last_tagged_ns,
            arrived_ns=record.arrived_ns,
            parent=record.parent,
        )

    # looking up

    def find(self, image_id: str) -> Image | None:
        return self._images.get(image_id)

    def all(self) -> list[Image]:
        return list(self._images.values())

    def layer(self, chain_id: str) -> LayerRecord | None:
        return self._layers.get(chain_id)

    def manifest(self, image: Image) -> Manifest:
        return decode_manifest(self.blobs.read(image.manifest_digest))

    def is_whole(self, digest: str) -> bool:
        """Whether everything that a manifest refers to is here, as it has it packed."""
        digests = self._layer_digests(digest)
        return all(is_digest(one) and self.layer_blobs.find(one) is not None for one in digests)

    def content_size(self, digest: str) -> int:
        """Bytes of a document and of the blobs it refers to, as far as they are here."""
        if self.documents.find(digest) is None:
            return 0
        blobs = map(self.blobs.find, self._blobs_of(digest))
        return sum(blob.size for blob in blobs if blob is not None)

    # changing

    def register(
        self, new: NewImage, layers: Iterable[LayerRecord], names: Iterable[str], now_ns: int
    ) -> Image:
        """Make an image known, or an existing one keep its names and get more; one transaction.

        ``names`` are familiar names with a tag, for its own manifest; one that stood for something else
        stands for that now.
        """
        old = self._images.get(new.id)
        record = ImageRecord(
            id=new.id,
            manifest_digest=old.manifest_digest if old else new.manifest_digest,
            chain_ids=new.chain_ids,
            layer_sizes=new.layer_sizes,
            size_bytes=sum(new.layer_sizes),
            created_ns=_created(new.config),
            last_tagged_ns=old.last_tagged_ns if old else 0,
            arrived_ns=now_ns,
            parent=new.parent or (old.parent if old else ""),
        )
        document = ManifestRecord(digest=new.manifest_digest, media_type=new.media_type, image_id=new.id)
        fresh = [layer for layer in layers if layer != self._layers.get(layer.chain_id)]
        with self._db.transaction():
            for layer in fresh:
                self._layers_table.put(layer)
            self._images_table.put_image(record)
            self.documents.write(document)
        crash_point("image.register.committed")
        self._layers.update({layer.chain_id: layer for layer in fresh})
        self._digests.pop(new.manifest_digest, None)
        self.documents.add(document)
        self._images[new.id] = self._image(record, new.config)
        for name in names:
            self.name(name, record.manifest_digest, now_ns)
        return self._images[new.id]

    def remember_packed(self, diff_id: str, packed: PackedLayer) -> None:
        """Note what a layer became when it was packed, for the next push."""
        changed = [
            msgspec.structs.replace(record, packed=packed)
            for record in self._layers.values()
            if record.diff_id == diff_id
        ]
        with self._db.transaction():
            for record in changed:
                self._layers_table.put(record)
        self._layers.update({record.chain_id: record for record in changed})

    def name(self, name: str, target: str, now_ns: int, kind: str = "tag") -> None:
        """Let a familiar name stand for an index or a manifest that is here, and for nothing else."""
        self.point({name: kind}, target, now_ns)

    def point(
        self,
        names: Mapping[str, str],
        target: str,
        now_ns: int,
        *,
        documents: Iterable[ManifestRecord] = (),
        arrived: str = "",
    ) -> None:
        """Let familiar names, with the kind of each, stand for one target; one transaction.

        ``documents`` have come with it: their blobs are in place, and the images they describe are here.
        They stay as long as a name leads to them. ``arrived`` is an image that was asked for once more.
        """
        fresh = [one for one in documents if not self.documents.has(one)]
        named = self.documents.images_of(target) | {one.image_id for one in fresh} if names else set()
        images = []
        for image_id in named | {arrived}:
            image = self._images.get(image_id)
            if image is None:
                continue
            if image_id in named:
                image = msgspec.structs.replace(image, last_tagged_ns=now_ns)
            if image_id == arrived:
                image = msgspec.structs.replace(image, arrived_ns=now_ns)
            images.append(image)
        with self._db.transaction():
            for document in fresh:
                self.documents.write(document)
            for name, kind in names.items():
                self.names.write(name, target, kind)
            for image in images:
                self._images_table.put_image(_record(image))
        crash_point("image.name.committed")
        self._images.update({image.id: image for image in images})
        for document in fresh:
            self._digests.pop(document.digest, None)
            self._refresh(self.documents.add(document))
        for name, kind in names.items():
            self._refresh(self.names.place(name, target, kind))

    def unname(self, name: str) -> None:
        self._refresh(self.names.remove(name))

    def forget(self, image_id: str) -> None:
        """Delete the image's row, its manifests and their names; an index it was in keeps its own. Its
        content is garbage unless something else needs it."""
        manifests = self.documents.of_image(image_id)
        with self._db.transaction():
            self.names.delete_documents(manifests)
            self._images_table.delete_image(image_id)
        self.names.drop_documents(manifests)
        self._images.pop(image_id, None)
        for digest in manifests:
            self._digests.pop(digest, None)

    def _refresh(self, image_ids: Iterable[str]) -> None:
        for image_id in image_ids:
            image = self._images[image_id]
            self._images[image_id] = self._image(_record(image), image.config)

    # garbage

    def lease(self) -> Lease:
        """Protects content from collection while it is on its way into an image."""
        lease = Lease(self)
        with self._lock:
            self._leases.add(lease)
        return lease

    def hold(self, lease: Lease, items: Iterable[str]) -> None:
        with self._lock:
            lease.items.update(items)

    def leased(self) -> set[str]:
        """Everything that leases hold now."""
        with self._lock:
            return {item for lease in self._leases for item in lease.items}

    def hold_target(self, lease: Lease, target: str) -> None:
        """All that is here of an index or a manifest, whatever becomes of its names and images."""
        for digest in self.documents.below(target):
            self.hold(lease, self._blobs_of(digest) | set(self._layer_digests(digest)))
        for image_id in self.documents.images_of(target):
            self.hold(lease, self._images[image_id].chain_ids)

    def end_lease(self, lease: Lease) -> None:
        with self._lock:
            self._leases.discard(lease)

    def take_garbage(self, layers_in_use: Iterable[str]) -> Garbage:
        """Take away what no image, container or lease needs: rows first, so that no row lacks its files."""
        with self._lock:
            leased = {item for lease in self._leases for item in lease.items}
            own = {image.manifest_digest for image in self._images.values()}
            documents = self.names.unreachable(leased | own)
            kept_layers = leased.union(layers_in_use)
            kept_layers.update(self._writing(leased) if leased else ())
            for image in self._images.values():
                kept_layers.update(image.chain_ids)
            dead = [chain for chain in self._layers if chain not in kept_layers]
            size = sum(self._layers[chain].size_bytes for chain in dead)
            if dead or documents:
                with self._db.transaction():
                    self.names.delete_documents(documents)
                    for chain in dead:
                        self._layers_table.delete(chain)
            self.names.drop_documents(documents)
            for chain in dead:
                del self._layers[chain]
            kept_blobs = leased.union(self._blobs())
            crash_point("image.garbage.committed")
            # what is on disk without a row was left by a process that died
            chains = [chain for chain in self.layers.chains() if chain not in kept_layers]
            blobs = [digest for digest in self.blobs.digests() if digest not in kept_blobs]
            return Garbage(
                files=[grave for digest in blobs if (grave := self.blobs.bury(digest))],
                directories=[grave for chain in chains if (grave := self.layers.bury(chain))],
                chain_ids=dead,
                size_bytes=size,
            )

    def _writing(self, digests: set[str]) -> list[str]:
        """Chain ids of the layers that can be written as one of these blobs."""
        return [
            chain
            for chain, record in self._layers.items()
            if record.diff_id in digests or (record.packed is not None and record.packed.digest in digests)
        ]

    def _blobs(self) -> set[str]:
        """All that images and documents consist of."""
        found = set(self._images)
        for digest in self.documents.digests():
            found |= self._blobs_of(digest)
        return found

    def doubled(self) -> list[tuple[LayerRecord, str]]:
        """Layers that are here with a recipe, and a blob beside it that may come out of them as well."""
        found: dict[str, LayerRecord] = {}
        for image in self._images.values():
            for digest, chain in zip(
                self._layer_digests(image.manifest_digest), image.chain_ids, strict=False
            ):
                record = self._layers.get(chain)
                recorded = record is not None and record.archive_bytes is not None
                if record is not None and recorded and not is_spare(record, digest, self.layers.policy):
                    found[digest] = record
        return [(record, digest) for digest, record in found.items()]

    def blob_owners(self) -> dict[str, set[str]]:
        """Digest of each blob that has to be stored -> the images that need it, or the document that leads to
        none."""
        owners: dict[str, set[str]] = {}
        for digest in self.documents.digests():
            images = self.documents.images_of(digest) or {digest}
            for blob in self._blobs_of(digest):
                owners.setdefault(blob, set()).update(images)
        return owners

    def _blobs_of(self, digest: str) -> set[str]:
        """A document and what it refers to, without other documents and without blobs of layers that are not
        needed beside the unpacked layer."""
        record = self.documents.find(digest)
        kept = {digest}
        if record is None or not record.image_id:
            return kept.union(record.blobs if record is not None else ())
        kept.add(record.image_id)
        layers = self._layer_digests(digest)
        image = self._images.get(record.image_id)
        if image is None:
            return kept.union(layers)
        for layer, chain in zip(layers, image.chain_ids, strict=False):
            if not is_spare(self._layers.get(chain), layer, self.layers.policy):
                kept.add(layer)
        return kept

    def _layer_digests(self, manifest_digest: str) -> list[str]:
        record = self.documents.find(manifest_digest)
        known = self._digests.get(manifest_digest)
        if record is not None and is_index(record.media_type):
            return []
        if known is None:
            try:
                manifest = decode_manifest(self.blobs.read(manifest_digest))
                known = [layer.digest for layer in manifest.layers]
            except (BlobNotFound, ContentDamaged, msgspec.DecodeError) as error:
                log.error("manifest %s cannot be used: %s", manifest_digest, error)
                known = []
            self._digests[manifest_digest] = known
        return known

    def sweep(self) -> None:
        """After a start: remove what a process that died has left unfinished."""
        self.blobs.sweep()
        self.layers.sweep()
        for chain in [chain for chain in self._layers if not self.layers.exists(chain)]:
            # unpacked again by the next load of an image that has it
            log.error("layer %s is missing below %s: load its image again", chain, self.layers.root)
            del self._layers[chain]


def delete_garbage(garbage: Garbage) -> None:
    """Free the space; blocks, so call it in a thread."""
    for path in garbage.files:
        os.unlink(path)
    for path in garbage.directories:
        shutil.rmtree(path)


class Lease:
    """Digests and chain ids that must stay. Items may be added from any thread."""

    def __init__(self, store: ImageStore) -> None:
        self._store = store
        self.items: set[str] = set()

    def add(self, *items: str) -> None:
        """From here on the collector leaves them; look whether they exist only afterwards."""
        self._store.hold(self, items)

    def release(self) -> None:
        """Nothing is protected any more. Idempotent."""
        self._store.end_lease(self)

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _created(config: ImageConfig) -> int:
    try:
        return parse_ns(config.created)
    except ValueError:
        return 0


def _record(image: Image) -> ImageRecord:
    return ImageRecord(
        id=image.id,
        manifest_digest=image.manifest_digest,
        chain_ids=image.chain_ids,
        layer_sizes=image.layer_sizes,
        size_bytes=image.size_bytes,
        created_ns=image.created_ns,
        last_tagged_ns=image.last_tagged_ns,
        arrived_ns=image.arrived_ns,
        parent=image.parent,
    )


def build_manifest(config: Descriptor, layers: list[Descriptor], *, oci: bool = True) -> bytes:
    """The bytes of a manifest that ties a config to its layers."""
    return encode_json(
        Manifest(
            media_type=OCI_MANIFEST if oci else DOCKER_MANIFEST,
            config=config,
            layers=layers,
        )
    )
