"""The blobs of layers, whether they are stored or can be written again from the unpacked layer.

Whoever reads the blob of a layer asks here: an archive that is saved, an upload, an unpacking. Configs and
manifests are in the blob store alone. All functions may be called from any thread.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from types import TracebackType
from typing import Protocol

import msgspec

from sampan.store.images import LayerRecord, PackedLayer

from .blobs import BlobStore
from .compression import CHUNK
from .errors import BlobNotFound, ContentDamaged
from .layers import LayerBlobPolicy, LayerStore
from .packing import CODEC, Packer, is_ours
from .recipe import Reproduction


class LayerBlob(msgspec.Struct, frozen=True, kw_only=True):
    digest: str
    size_bytes: int


class LayerBlobReader(Protocol):
    """The bytes of a blob from its start. Leave the ``with`` block to free what it holds."""

    def read(self) -> bytes:
        """The next chunk, ``b""`` at the end. Raises ContentDamaged, at the end at the latest, when the bytes
        were written again and are not those of the digest."""

    def close(self) -> None: ...

    def __enter__(self) -> LayerBlobReader: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class LayerBlobs:
    def __init__(self, blobs: BlobStore, layers: LayerStore, records: Mapping[str, LayerRecord]) -> None:
        """``records`` are the layers that are here, by chain id; a view that follows every change."""
        self._blobs = blobs
        self._layers = layers
        self._records = records

    def find(self, digest: str) -> LayerBlob | None:
        """Whether :meth:`open` can give the blob, and how long it is; reads nothing of it."""
        stored = self._blobs.find(digest)
        if stored is not None:
            return LayerBlob(digest=digest, size_bytes=stored.size)
        for record in list(self._records.values()):
            if (size := written_again(record, digest)) is not None:
                return LayerBlob(digest=digest, size_bytes=size)
        return None

    def require(self, digest: str) -> LayerBlob:
        blob = self.find(digest)
        if blob is None:
            raise BlobNotFound(f"blob {digest} not found")
        return blob

    def open(self, digest: str) -> LayerBlobReader:
        """A reader of the blob; hold a lease on the digest until it is closed. Raises BlobNotFound.

        Also of a layer that was only staged so far, which :meth:`find` does not promise: it may never become
        part of an image.
        """
        try:
            return _StoredBlob(self._blobs.open(digest))
        except BlobNotFound:
            for record in list(self._records.values()):
                if written_again(record, digest) is None:
                    continue
                try:
                    plain = Reproduction(self._layers.directory(record.chain_id), record.diff_id)
                except FileNotFoundError:
                    continue
                return plain if digest == record.diff_id else _PackedBlob(plain, digest)
            written = self._layers.find_written(digest)
            if written is None:
                raise
            return Reproduction(written.directory, digest)

    def find_packing(self, record: LayerRecord, digest: str) -> PackedLayer | None:
        """How a stored blob comes out of its unpacked layer again, if it says that Sampan packed it and all
        of its bytes come out the same. Reads and packs the whole layer: call it in a thread."""
        stored = self._blobs.find(digest)
        if stored is None or record.archive_bytes is None:
            return None
        with open(stored.path, "rb") as file:
            if not is_ours(file.read(64)):
                return None
        try:
            plain = Reproduction(self._layers.directory(record.chain_id), record.diff_id)
            with _PackedBlob(plain, digest) as packed:
                while packed.read():
                    pass
        except (FileNotFoundError, ContentDamaged):
            return None
        return PackedLayer(digest=digest, size_bytes=stored.size, codec=CODEC)


def written_again(record: LayerRecord, digest: str) -> int | None:
    """The size of the blob if the layer can be written as it; None if not."""
    if record.archive_bytes is None:
        return None
    if record.diff_id == digest:
        return record.archive_bytes
    packed = record.packed
    if packed is not None and packed.digest == digest and packed.codec == CODEC:
        return packed.size_bytes
    return None


def is_spare(record: LayerRecord | None, digest: str, policy: LayerBlobPolicy) -> bool:
    """Whether the blob of an unpacked layer need not be stored."""
    if record is None or record.archive_bytes is None or policy == "keep":
        return False
    return policy == "drop" or written_again(record, digest) is not None


class _StoredBlob:
    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __enter__(self) -> _StoredBlob:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        os.close(self._fd)

    def read(self) -> bytes:
        return os.read(self._fd, CHUNK)


class _PackedBlob:
    """A layer written again and packed as it was before."""

    def __init__(self, plain: Reproduction, digest: str) -> None:
        self._plain = plain
        self._digest = digest
        self._packer = Packer()
        self._hash = hashlib.sha256()
        self._ended = False

    def __enter__(self) -> _PackedBlob:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._plain.close()

    def read(self) -> bytes:
        while not self._ended:
            chunk = self._plain.read()
            self._ended = not chunk
            packed = self._packer.pack(chunk) if chunk else self._packer.finish()
            self._hash.update(packed)
            if packed:
                return packed
        if "sha256:" + self._hash.hexdigest() != self._digest:
            raise ContentDamaged(
                f"blob {self._digest} cannot be packed again as it was: pull its image again"
            )
        return b""
