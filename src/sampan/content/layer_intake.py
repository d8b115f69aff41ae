"""Take in a layer as it streams by: unpacked at once, and stored as a blob only if it has to be.

Runs in a thread.
"""

from __future__ import annotations

import hashlib

import msgspec

from sampan.model.image import Descriptor

from .blobs import BlobWriter
from .compression import GZIP, PLAIN, ZSTD, Read, detect
from .images import OCI_LAYER, ImageStore, Lease
from .layers import StagedLayer

_HEAD = 512
_MEDIA_TYPES = {GZIP: OCI_LAYER + "+gzip", ZSTD: OCI_LAYER + "+zstd"}


class TakenLayer(msgspec.Struct, frozen=True, kw_only=True):
    blob: Descriptor
    """What the layer is called in a manifest; its bytes are stored or can be written again."""
    staged: StagedLayer
    """To be published, or discarded by whoever called."""


def take_layer(store: ImageStore, lease: Lease, source: Read) -> TakenLayer:
    """Unpack a layer out of sight while it comes. Raises HostileArchive, BadTar, DiskFull; then nothing is
    left."""
    head = b""
    while len(head) < _HEAD and (chunk := source()):
        head += chunk
    compression = detect(head)
    if store.layers.replaces(compression):
        return _unpack(store, lease, _Tee(head, source, None), compression)
    with store.blobs.ingest() as writer:
        taken = _unpack(store, lease, _Tee(head, source, writer), compression)
        try:
            # assembling syncs the file system once before anything refers to the blob
            writer.commit(sync=False)
        except BaseException:
            store.layers.discard(taken.staged)
            raise
    return taken


def _unpack(store: ImageStore, lease: Lease, tee: _Tee, compression: str) -> TakenLayer:
    staged = store.layers.stage(tee.read)
    try:
        while tee.read():
            pass
        digest = tee.digest if compression != PLAIN else staged.diff_id
        lease.add(digest)
    except BaseException:
        store.layers.discard(staged)
        raise
    kind = _MEDIA_TYPES.get(compression, OCI_LAYER)
    return TakenLayer(blob=Descriptor(media_type=kind, digest=digest, size=tee.length), staged=staged)


class _Tee:
    """The bytes as they pass: stored if there is a writer, hashed unless the diff id is their digest."""

    def __init__(self, head: bytes, source: Read, writer: BlobWriter | None) -> None:
        self._head = head
        self._source = source
        self._writer = writer
        self._hash = hashlib.sha256() if writer is None and detect(head) != PLAIN else None
        self.length = 0

    def read(self) -> bytes:
        chunk, self._head = self._head, b""
        chunk = chunk or self._source()
        self.length += len(chunk)
        if self._writer is not None:
            self._writer.write(chunk)
        if self._hash is not None:
            self._hash.update(chunk)
        return chunk

    @property
    def digest(self) -> str:
        if self._writer is not None:
            return self._writer.digest
        if self._hash is None:
            raise ValueError("a plain layer is known by its own digest")
        return "sha256:" + self._hash.hexdigest()
