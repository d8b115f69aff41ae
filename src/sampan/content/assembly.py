"""Turn a config and layer blobs into an image that can run: unpack what is missing, then say it is there.

Runs in a thread. Everything is unpacked out of sight, synced once, and published; a failure leaves nothing
but blobs that the next collection takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from sampan.formats.tar import BadTar
from sampan.model.image import Descriptor, ImageConfig
from sampan.store.images import LayerRecord

from .blobs import digest_of
from .errors import BadArchive
from .images import (
    OCI_CONFIG,
    ImageStore,
    Lease,
    NewImage,
    build_manifest,
    decode_config,
    encode_json,
)
from .layers import StagedLayer, chain_ids

Progress = Callable[[str, int, int], None]
"""Called with a layer's diff id, bytes done and bytes in all."""


class Assembled(msgspec.Struct, frozen=True, kw_only=True):
    """An image whose content is in place, and the familiar names it wants."""

    image: NewImage
    layers: list[LayerRecord]
    names: list[str]


def ignore_progress(_diff_id: str, _done: int, _total: int) -> None:
    """For callers who show none."""


def parse_config(data: bytes) -> ImageConfig:
    """Raises BadArchive."""
    try:
        return decode_config(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadArchive(f"invalid image config: {error}") from error


def unpack_layers(
    store: ImageStore,
    lease: Lease,
    diff_ids: list[str],
    digests: list[str],
    progress: Progress = ignore_progress,
    ready: Mapping[int, StagedLayer] | None = None,
) -> list[LayerRecord]:
    """Make sure that each layer is unpacked; ``digests`` are the blobs, in the order of the diff ids.

    ``ready`` are layers, by their place from the bottom, that were staged on their way in. They are published
    here; when that fails, they stay the caller's, who may share them with another.
    """
    chains = chain_ids(diff_ids)
    lease.add(*chains, *digests)
    records: list[LayerRecord] = []
    given = {chains[place]: layer for place, layer in (ready or {}).items()}
    staged: dict[str, StagedLayer] = {}
    try:
        for place, (chain, diff_id, digest) in enumerate(zip(chains, diff_ids, digests, strict=True)):
            known = store.layer(chain)
            layer = given.get(chain)
            if layer is None and known is None:
                layer = staged[chain] = _stage(store, diff_id, digest, progress)
            parent = chains[place - 1] if place else ""
            records.append(_record(chain, diff_id, parent, known, layer))
        # also for blobs that came without a sync of their own
        store.layers.sync()
        for chain, layer in (given | staged).items():
            store.layers.publish(layer, chain)
    finally:
        # of those that have their name by now nothing is left here
        for layer in staged.values():
            store.layers.discard(layer)
    return records


def _record(
    chain: str, diff_id: str, parent: str, known: LayerRecord | None, layer: StagedLayer | None
) -> LayerRecord:
    if known is not None:
        if layer is None or layer.archive_bytes is None:
            return known
        return msgspec.structs.replace(known, archive_bytes=layer.archive_bytes)
    if layer is None:
        raise AssertionError("a layer is known or staged")
    return LayerRecord(
        chain_id=chain,
        diff_id=diff_id,
        parent=parent,
        size_bytes=layer.result.size_bytes,
        archive_bytes=layer.archive_bytes,
    )


def _stage(store: ImageStore, diff_id: str, digest: str, progress: Progress) -> StagedLayer:
    """Unpack a layer from its blob, or from what another image has of the same layer."""
    blobs = store.layer_blobs
    written = store.layers.find_written(diff_id)
    if written is not None:
        source, size = diff_id, written.archive_bytes
    else:
        source = diff_id if blobs.find(diff_id) is not None else digest
        size = blobs.require(source).size_bytes
    done = 0
    with blobs.open(source) as blob:

        def read() -> bytes:
            nonlocal done
            chunk = blob.read()
            done += len(chunk)
            progress(diff_id, done, size)
            return chunk

        try:
            return store.layers.stage(read, diff_id, trusted=source == diff_id)
        except BadTar as error:
            raise BadArchive(f"layer {diff_id}: {error.message}") from error


def assemble(
    store: ImageStore,
    lease: Lease,
    config_data: bytes,
    layers: list[Descriptor],
    *,
    names: list[str],
    manifest_data: bytes | None = None,
    media_type: str = "",
    parent: str = "",
    progress: Progress = ignore_progress,
    ready: Mapping[int, StagedLayer] | None = None,
) -> Assembled:
    """Put an image together whose layer blobs are stored. ``manifest_data`` is kept if there is one,
    with what its sender called it.

    Raises BadArchive when config and layers do not fit, and what unpacking raises.
    """
    config = parse_config(config_data)
    diff_ids = config.rootfs.diff_ids
    if len(diff_ids) != len(layers):
        raise BadArchive(
            f"invalid manifest, layers length mismatch: expected {len(diff_ids)}, got {len(layers)}"
        )
    records = unpack_layers(store, lease, diff_ids, [layer.digest for layer in layers], progress, ready)
    image_id = digest_of(config_data)
    lease.add(image_id)
    store.blobs.put(config_data)
    if manifest_data is None:
        manifest_data = build_manifest(
            Descriptor(media_type=OCI_CONFIG, digest=image_id, size=len(config_data)), layers
        )
    manifest_digest = digest_of(manifest_data)
    lease.add(manifest_digest)
    store.blobs.put(manifest_data)
    return Assembled(
        image=NewImage(
            id=image_id,
            config=config,
            manifest_digest=manifest_digest,
            media_type=media_type,
            chain_ids=[record.chain_id for record in records],
            layer_sizes=[record.size_bytes for record in records],
            parent=parent,
        ),
        layers=records,
        names=names,
    )


def assemble_new(
    store: ImageStore,
    lease: Lease,
    config: dict[str, object],
    layers: list[Descriptor],
    *,
    names: list[str],
    parent: str = "",
    ready: Mapping[int, StagedLayer] | None = None,
) -> Assembled:
    """Put together an image whose config we write ourselves."""
    return assemble(store, lease, encode_json(config), layers, names=names, parent=parent, ready=ready)
