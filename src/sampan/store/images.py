"""Image, manifest, layer and reference rows. Configs, manifests and indexes are blobs, not repeated here."""

from __future__ import annotations

import msgspec

from .db import Database


class PackedLayer(msgspec.Struct, frozen=True, kw_only=True):
    """What a layer became when it was packed for a registry; packing it again gives the same bytes."""

    digest: str
    size_bytes: int
    codec: str
    """What packed it, with version and parameters."""


class LayerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An unpacked layer directory that is complete: the row is written after its last file is synced."""

    chain_id: str
    diff_id: str
    parent: str = ""
    """Chain id of the layer below, empty for the bottom one."""
    size_bytes: int = 0
    archive_bytes: int | None = None
    """Length of the plain archive, if it can be written again from the unpacked layer."""
    packed: PackedLayer | None = None


class ImageRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What cannot be read from the blobs, or is too dear to compute for every listing."""

    id: str
    """``sha256:<digest of the config blob>``."""
    manifest_digest: str
    chain_ids: list[str]
    """Bottom first."""
    layer_sizes: list[int]
    size_bytes: int
    created_ns: int
    last_tagged_ns: int = 0
    arrived_ns: int = 0
    """When it was pulled, loaded or made the last time."""
    parent: str = ""


class ManifestRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A document that is here: an index, an image's manifest, or something of another kind."""

    digest: str
    media_type: str = ""
    """What its sender called it; "" when the document says it itself."""
    image_id: str = ""
    """The image it describes; "" for an index and for what is no image."""
    blobs: list[str] = []
    """Of a document that is neither: what it refers to."""


class ReferenceRow(msgspec.Struct, frozen=True, kw_only=True):
    """A name: ``busybox:latest`` (tag) or ``busybox@sha256:...`` (digest)."""

    name: str
    kind: str
    """tag or digest."""
    target: str
    """Digest of the index or manifest that it stands for."""


_encode = msgspec.json.Encoder().encode
_layer = msgspec.json.Decoder(LayerRecord)
_image = msgspec.json.Decoder(ImageRecord)
_manifest = msgspec.json.Decoder(ManifestRecord)


class ImageTable:
    """Images, the documents that lead to them, and the names of those."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def load_images(self) -> list[ImageRecord]:
        return [_image.decode(row[0]) for row in self._db.rows("SELECT record FROM image ORDER BY id")]

    def load_manifests(self) -> list[ManifestRecord]:
        return [
            _manifest.decode(row[0]) for row in self._db.rows("SELECT record FROM manifest ORDER BY digest")
        ]

    def load_references(self) -> list[ReferenceRow]:
        return [
            ReferenceRow(name=str(name), kind=str(kind), target=str(target))
            for name, kind, target in self._db.rows("SELECT name, kind, target FROM reference ORDER BY name")
        ]

    def put_image(self, image: ImageRecord) -> None:
        """Insert or replace; names stay."""
        self._db.write(
            "INSERT INTO image (id, record) VALUES (?, ?)"
            " ON CONFLICT (id) DO UPDATE SET record = excluded.record",
            (image.id, _encode(image)),
        )

    def delete_image(self, image_id: str) -> None:
        self._db.write("DELETE FROM image WHERE id = ?", (image_id,))

    def put_manifest(self, manifest: ManifestRecord) -> None:
        self._db.write(
            "INSERT INTO manifest (digest, record) VALUES (?, ?)"
            " ON CONFLICT (digest) DO UPDATE SET record = excluded.record",
            (manifest.digest, _encode(manifest)),
        )

    def delete_manifest(self, digest: str) -> None:
        """Its names must be gone or go somewhere else first."""
        self._db.write("DELETE FROM manifest WHERE digest = ?", (digest,))

    def put_reference(self, reference: ReferenceRow) -> None:
        """Insert, or let the name stand for something else."""
        self._db.write(
            "INSERT INTO reference (name, kind, target) VALUES (?, ?, ?)"
            " ON CONFLICT (name) DO UPDATE SET kind = excluded.kind, target = excluded.target",
            (reference.name, reference.kind, reference.target),
        )

    def delete_reference(self, name: str) -> None:
        self._db.write("DELETE FROM reference WHERE name = ?", (name,))


class LayerTable:
    def __init__(self, db: Database) -> None:
        self._db = db

    def load(self) -> list[LayerRecord]:
        return [_layer.decode(row[0]) for row in self._db.rows("SELECT record FROM layer ORDER BY chain_id")]

    def put(self, layer: LayerRecord) -> None:
        self._db.write(
            "INSERT INTO layer (chain_id, record) VALUES (?, ?)"
            " ON CONFLICT (chain_id) DO UPDATE SET record = excluded.record",
            (layer.chain_id, _encode(layer)),
        )

    def delete(self, chain_id: str) -> None:
        self._db.write("DELETE FROM layer WHERE chain_id = ?", (chain_id,))
