"""Write images as one archive that Docker, Podman and OCI tools read: an OCI layout with Docker's
``manifest.json`` and ``repositories`` beside it, as Docker writes since version 25.

Blobs are written as they came, so ids, digests and layers come back bit by bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from sampan.formats.reference import parse_name
from sampan.formats.tar import DIRECTORY, END, TarEntry, encode_header, padding
from sampan.model.image import Descriptor, Image, Index

from .blobs import digest_of
from .images import (
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    ImageStore,
    Lease,
    build_manifest,
    decode_manifest,
    encode_json,
)

Write = Callable[[bytes], None]


class SavedTarget(msgspec.Struct, frozen=True, kw_only=True):
    target: str
    """Digest of an index or a manifest."""
    images: list[Image]
    """Those of it that are here, or the one that was asked for; the one its names mean here first."""
    names: list[str]
    """Familiar names with a tag that the archive gives it."""
    whole: bool = True
    """An index is saved with everything of it that is here; otherwise the first image alone."""


class _Item(msgspec.Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    config: str
    repo_tags: list[str] | None
    layers: list[str]
    layer_sources: dict[str, Descriptor]
    parent: str = ""


class Contents:
    """What goes into one archive."""

    def __init__(self, store: ImageStore, lease: Lease) -> None:
        self._store = store
        self._lease = lease
        self.items: dict[str, _Item] = {}
        self.index: list[Descriptor] = []
        self.repositories: dict[str, dict[str, str]] = {}
        self.blobs: set[str] = set()
        self.made: dict[str, bytes] = {}
        """Manifests that only this archive has, by digest."""

    def add(self, saved: SavedTarget, saved_ids: set[str]) -> None:
        image = saved.images[0]
        manifest_digest = self._packed(saved.target, image)
        if not self._store.is_whole(manifest_digest):
            manifest_digest = self._unpacked(manifest_digest, image)
        top = manifest_digest
        if saved.whole and manifest_digest in self._store.documents.below(saved.target):
            top = saved.target
            for digest in self._store.documents.below(saved.target):
                self._part(digest)
        data = self._take(manifest_digest)
        manifest = decode_manifest(data)
        digests = [layer.digest for layer in manifest.layers]
        self._lease.add(*image.chain_ids)
        self._take_blobs((image.id, *digests))
        known = self.items.get(image.id)
        names = [*((known.repo_tags or []) if known is not None else []), *saved.names]
        self.items[image.id] = _Item(
            config=_path(image.id),
            repo_tags=names or None,
            layers=[_path(digest) for digest in digests],
            layer_sources=dict(zip(image.config.rootfs.diff_ids, manifest.layers, strict=True)),
            parent=image.parent if image.parent in saved_ids else "",
        )
        self._name(self._describe(top), saved.names, digests)

    def _packed(self, target: str, image: Image) -> str:
        """The manifest of the image that the target has, unless the layers are here in another packing."""
        entries = self._store.documents.entries(target)
        found = [entry.descriptor.digest for entry in entries if entry.image_id == image.id]
        return next((digest for digest in found if self._store.is_whole(digest)), image.manifest_digest)

    def _unpacked(self, digest: str, image: Image) -> str:
        """A manifest with plain layers in place of those whose blobs are not kept. Raises BlobNotFound."""
        layers = []
        manifest = decode_manifest(self._store.blobs.read(digest))
        for layer, diff_id in zip(manifest.layers, image.config.rootfs.diff_ids, strict=True):
            if self._store.layer_blobs.find(layer.digest) is not None:
                layers.append(layer)
                continue
            size = self._store.layer_blobs.require(diff_id).size_bytes
            layers.append(Descriptor(media_type=OCI_LAYER, digest=diff_id, size=size))
        size = self._store.blobs.require(image.id).size
        data = build_manifest(Descriptor(media_type=OCI_CONFIG, digest=image.id, size=size), layers)
        made = digest_of(data)
        self.made[made] = data
        return made

    def _describe(self, digest: str) -> Descriptor:
        data = self.made.get(digest)
        if data is None:
            return self._store.documents.describe(digest)
        return Descriptor(media_type=OCI_MANIFEST, digest=digest, size=len(data))

    def _part(self, digest: str) -> None:
        """A part of an index. A manifest whose layers are not here is left out: nobody could load it."""
        record = self._store.documents.find(digest)
        if record is None or (record.image_id and not self._store.is_whole(digest)):
            return
        data = self._take(digest)
        if record.image_id:
            manifest = decode_manifest(data)
            image = self._store.find(record.image_id)
            self._lease.add(*(image.chain_ids if image is not None else ()))
            self._take_blobs((record.image_id, *(layer.digest for layer in manifest.layers)))
        else:
            self._take_blobs(record.blobs)

    def _take(self, digest: str) -> bytes:
        if digest in self.made:
            return self.made[digest]
        self._take_blobs((digest,))
        return self._store.blobs.read(digest)

    def _take_blobs(self, digests: Iterable[str]) -> None:
        found = set(digests)
        self._lease.add(*found)
        self.blobs |= found

    def _name(self, entry: Descriptor, names: list[str], layers: list[str]) -> None:
        for name in names:
            parsed = parse_name(name)
            annotations = {
                "io.containerd.image.name": parsed.normalised,
                "org.opencontainers.image.ref.name": parsed.tag,
            }
            self.index.append(msgspec.structs.replace(entry, annotations=annotations))
            if layers:
                tags = self.repositories.setdefault(parsed.familiar_repository, {})
                tags[parsed.tag] = layers[-1].removeprefix("sha256:")
        if not names:
            self.index.append(entry)


def plan_archive(store: ImageStore, lease: Lease, saved: list[SavedTarget]) -> Contents:
    """What the archive will hold, from here on under the lease: call it where no image can go meanwhile.

    Raises BlobNotFound when an image lost a blob.
    """
    contents = Contents(store, lease)
    saved_ids = {one.images[0].id for one in saved}
    for one in saved:
        contents.add(one, saved_ids)
    return contents


def write_archive(store: ImageStore, contents: Contents, write: Write) -> None:
    """In a thread. Raises ContentDamaged, BlobNotFound and what ``write`` raises."""
    _directory(write, b"blobs/")
    _directory(write, b"blobs/sha256/")
    for digest in sorted(contents.blobs | contents.made.keys()):
        if digest in contents.made:
            _document(write, _path(digest).encode(), contents.made[digest])
        else:
            _blob(store, digest, write)
    _document(write, b"index.json", encode_json(Index(media_type=OCI_INDEX, manifests=contents.index)))
    _document(write, b"manifest.json", encode_json(list(contents.items.values())))
    _document(write, b"oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
    if contents.repositories:
        _document(write, b"repositories", encode_json(contents.repositories))
    write(END)


def _path(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/", 1)


def _directory(write: Write, name: bytes) -> None:
    write(encode_header(TarEntry(name=name, kind=DIRECTORY, mode=0o755)))


def _document(write: Write, name: bytes, data: bytes) -> None:
    write(encode_header(TarEntry(name=name, size=len(data))))
    write(data)
    write(padding(len(data)))


def _blob(store: ImageStore, digest: str, write: Write) -> None:
    size = store.layer_blobs.require(digest).size_bytes
    with store.layer_blobs.open(digest) as blob:
        write(encode_header(TarEntry(name=_path(digest).encode(), size=size)))
        while chunk := blob.read():
            write(chunk)
        write(padding(size))
