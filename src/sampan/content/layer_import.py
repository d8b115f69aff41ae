"""Make an image out of one archive of a root file system. Runs in a thread."""

from __future__ import annotations

from sampan.model.image import Descriptor

from .assembly import Assembled, assemble_new
from .compression import Read
from .images import OCI_LAYER, ImageStore, Lease

_MEDIA_TYPES = {b"\x1f\x8b": OCI_LAYER + "+gzip", b"\x28\xb5": OCI_LAYER + "+zstd"}


def import_layer(store: ImageStore, lease: Lease, source: Read, document: dict[str, object]) -> Assembled:
    """Unpack the archive while it is stored as it comes, in one pass; ``document`` becomes the config.

    Raises HostileArchive, BadTar, DiskFull; then nothing is left.
    """
    head = b""
    with store.blobs.ingest() as writer:

        def read() -> bytes:
            nonlocal head
            chunk = source()
            head = head or chunk[:2]
            writer.write(chunk)
            return chunk

        staged = store.layers.stage(read)
        try:
            while source_rest := source():
                writer.write(source_rest)
            lease.add(writer.digest)
            blob = writer.commit(sync=False)
            config = document | {"rootfs": {"type": "layers", "diff_ids": [staged.diff_id]}}
        except BaseException:
            store.layers.discard(staged)
            raise
    layer = Descriptor(media_type=_MEDIA_TYPES.get(head, OCI_LAYER), digest=blob.digest, size=blob.size)
    try:
        return assemble_new(store, lease, config, [layer], names=[], ready={0: staged})
    except BaseException:
        store.layers.discard(staged)
        raise
