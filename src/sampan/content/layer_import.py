"""Make an image out of one archive of a root file system. Runs in a thread."""

from __future__ import annotations

from .assembly import Assembled, assemble_new
from .compression import Read
from .images import ImageStore, Lease
from .layer_intake import held, take_layer


def import_layer(store: ImageStore, lease: Lease, source: Read, document: dict[str, object]) -> Assembled:
    """Unpack the archive as it comes, in one pass; ``document`` becomes the config.

    Raises HostileArchive, BadTar, DiskFull; then nothing is left.
    """
    with held(store, take_layer(store, lease, source)) as layer:
        config = document | {"rootfs": {"type": "layers", "diff_ids": [layer.staged.diff_id]}}
        return assemble_new(store, lease, config, [layer.blob], names=[], ready={0: layer.staged})
