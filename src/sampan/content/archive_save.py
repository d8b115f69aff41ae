"""Write images as one archive that Docker, Podman and OCI tools read: an OCI layout with Docker's
``manifest.json`` and ``repositories`` beside it, as Docker writes since version 25.

Runs in a thread. Blobs are written as they are stored, so ids, digests and layers come back bit by bit.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from sampan.formats.reference import parse_name
from sampan.formats.tar import DIRECTORY, END, TarEntry, encode_header, padding
from sampan.model.image import Descriptor, Image, Index

from .images import OCI_INDEX, ImageStore, Lease, decode_manifest, encode_json

Write = Callable[[bytes], None]


class SavedImage(msgspec.Struct, frozen=True, kw_only=True):
    image: Image
    names: list[str]
    """Familiar names with a tag that the archive gives it."""


class _Item(msgspec.Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    config: str
    repo_tags: list[str] | None
    layers: list[str]
    layer_sources: dict[str, Descriptor]
    parent: str = ""


def save_images(store: ImageStore, lease: Lease, images: list[SavedImage], write: Write) -> None:
    """Raises BlobNotFound when an image lost a blob, and what ``write`` raises."""
    items: list[_Item] = []
    index: list[Descriptor] = []
    repositories: dict[str, dict[str, str]] = {}
    blobs: set[str] = set()
    saved_ids = {saved.image.id for saved in images}
    for saved in images:
        image = saved.image
        lease.add(image.manifest_digest, image.id)
        data = store.blobs.read(image.manifest_digest)
        manifest = decode_manifest(data)
        digests = [layer.digest for layer in manifest.layers]
        lease.add(*digests, *image.chain_ids)
        blobs.update((image.manifest_digest, image.id, *digests))
        items.append(
            _Item(
                config=_path(image.id),
                repo_tags=saved.names or None,
                layers=[_path(digest) for digest in digests],
                layer_sources=dict(zip(image.config.rootfs.diff_ids, manifest.layers, strict=True)),
                parent=image.parent if image.parent in saved_ids else "",
            )
        )
        entry = Descriptor(media_type=manifest.media_type, digest=image.manifest_digest, size=len(data))
        for name in saved.names:
            parsed = parse_name(name)
            annotations = {
                "io.containerd.image.name": parsed.normalised,
                "org.opencontainers.image.ref.name": parsed.tag,
            }
            index.append(msgspec.structs.replace(entry, annotations=annotations))
            if digests:
                tags = repositories.setdefault(parsed.familiar_repository, {})
                tags[parsed.tag] = digests[-1].removeprefix("sha256:")
        if not saved.names:
            index.append(entry)
    _directory(write, b"blobs/")
    _directory(write, b"blobs/sha256/")
    for digest in sorted(blobs):
        _blob(store, digest, write)
    _document(write, b"index.json", encode_json(Index(media_type=OCI_INDEX, manifests=index)))
    _document(write, b"manifest.json", encode_json(items))
    _document(write, b"oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
    if repositories:
        _document(write, b"repositories", encode_json(repositories))
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
