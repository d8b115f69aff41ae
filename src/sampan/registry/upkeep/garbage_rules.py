"""What is garbage. Pure: states and times in, verdicts out."""

from __future__ import annotations

import msgspec

from sampan.model.registry import BlobInfo, UploadInfo
from sampan.store.registry.garbage import BlobState, LinkState, ManifestState

_SECOND_NS = 1_000_000_000


class GarbageSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[gc]`` of the settings file."""

    interval_s: int = 3600
    """Between two runs; 0: only on demand."""
    grace_s: int = 3600
    """What was pushed, mounted or asked for within it stays, so that a push between its blobs and its
    manifest loses nothing."""
    untagged_s: int | None = None
    """Manifests without a tag go when they were neither pushed nor pulled for so long; None: never, because
    a digest is a name too."""
    upload_life_s: int = 24 * 3600
    """Uploads go when nothing came for so long."""
    strays_interval_s: int = 24 * 3600
    """How often the storage is searched for what the index does not know."""
    batch: int = 200
    """Rows that are looked at in one step. Everything else is answered between two."""
    deletions_at_once: int = 4


def link_goes(
    link: LinkState, settings: GarbageSettings, now_ns: int, receiving: frozenset[str] = frozenset()
) -> bool:
    """``receiving``: repositories with an upload on its way, whose blobs wait for their manifest."""
    if link.needed or link.name in receiving:
        return False
    return link.touched_ns < now_ns - settings.grace_s * _SECOND_NS


def blob_goes(blob: BlobState, settings: GarbageSettings, now_ns: int) -> bool:
    """Also what was marked by a run that did not come to its end."""
    if blob.linked:
        return False
    return blob.deleting or blob.stored_ns < now_ns - settings.grace_s * _SECOND_NS


def manifest_goes(manifest: ManifestState, settings: GarbageSettings, now_ns: int) -> bool:
    if settings.untagged_s is None or manifest.tagged or manifest.needed or manifest.about:
        return False
    # never before the tag can have come that its client may push next
    life_s = max(settings.untagged_s, settings.grace_s)
    return max(manifest.pushed_ns, manifest.pulled_ns) < now_ns - life_s * _SECOND_NS


def upload_goes(upload: UploadInfo, settings: GarbageSettings, now_ns: int) -> bool:
    return upload.touched_ns < now_ns - settings.upload_life_s * _SECOND_NS


def is_receiving(upload: UploadInfo, settings: GarbageSettings, now_ns: int) -> bool:
    return upload.touched_ns >= now_ns - settings.grace_s * _SECOND_NS


def stray_goes(
    blob: BlobInfo, settings: GarbageSettings, now_ns: int, oldest_ns: int | None, *, everything: bool = False
) -> bool:
    """Bytes that the index does not know. ``oldest_ns``: when its first repository was made.

    What is older than the index was not lost by it: a new one before an old storage, after a restore that
    did not happen, would take everything away. ``everything`` says that this is wanted.
    """
    if blob.stored_ns >= now_ns - settings.grace_s * _SECOND_NS:
        return False
    return everything or (oldest_ns is not None and blob.stored_ns > oldest_ns)
