"""Take in a layer as it streams by: unpacked at once, and stored as a blob only if it has to be.

Runs in a thread; what is packed here is packed in another one beside it.
"""

from __future__ import annotations

import contextlib
import hashlib
import queue
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import msgspec

from sampan.base.errors import Cancelled
from sampan.model.image import Descriptor

from .blobs import BlobWriter
from .compression import CHUNK, GZIP, PLAIN, ZSTD, Read, detect
from .images import OCI_LAYER, ImageStore, Lease
from .layers import StagedLayer
from .pack import Write

_HEAD = 512
_IN_FLIGHT = 4
_MEDIA_TYPES = {GZIP: OCI_LAYER + "+gzip", ZSTD: OCI_LAYER + "+zstd"}


class TakenLayer(msgspec.Struct, frozen=True, kw_only=True):
    blob: Descriptor
    """What the layer is called in a manifest; its bytes are stored or can be written again."""
    staged: StagedLayer
    """To be published, or discarded by whoever called: see :func:`held`."""


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


@contextlib.contextmanager
def held(store: ImageStore, layer: TakenLayer) -> Iterator[TakenLayer]:
    """A layer that is published within the block, or discarded at its end."""
    try:
        yield layer
    finally:
        # of what was published nothing is left there
        store.layers.discard(layer.staged)


def take_packed(store: ImageStore, lease: Lease, pack: Callable[[Write], None]) -> TakenLayer:
    """Take in the archive that ``pack(write)`` writes. Raises what ``pack`` and :func:`take_layer` raise."""
    pipe = _Pipe()

    def run() -> None:
        try:
            pack(pipe.write)
            pipe.flush()
        finally:
            pipe.end()

    with ThreadPoolExecutor(1, thread_name_prefix="pack") as pool:
        packing = pool.submit(run)

        def read() -> bytes:
            piece = pipe.read()
            if not piece:
                packing.result()
            return piece

        try:
            return take_layer(store, lease, read)
        finally:
            pipe.cancel()


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


class _Pipe:
    """From the thread that packs to the one that unpacks, a few large pieces at a time."""

    def __init__(self) -> None:
        self._pieces: queue.Queue[bytes] = queue.Queue(_IN_FLIGHT)
        self._batch: list[bytes] = []
        self._length = 0
        self._cancelled = False
        self._ended = False

    def write(self, data: bytes) -> None:
        self._batch.append(data)
        self._length += len(data)
        if self._length >= CHUNK:
            self.flush()

    def flush(self) -> None:
        if self._cancelled:
            raise Cancelled("nobody unpacks what is packed")
        if self._batch:
            self._pieces.put(b"".join(self._batch))
        self._batch.clear()
        self._length = 0

    def end(self) -> None:
        """In the thread that packs: no more comes."""
        if not self._cancelled:
            self._pieces.put(b"")

    def cancel(self) -> None:
        """In the thread that reads: let the other one end, whatever it waits for."""
        self._cancelled = True
        with contextlib.suppress(queue.Empty):
            while True:
                self._pieces.get_nowait()

    def read(self) -> bytes:
        if not self._ended:
            piece = self._pieces.get()
            self._ended = not piece
            return piece
        return b""


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
