"""What belongs to a name, manifest by manifest, as ``?manifests=1`` and ``docker images --tree`` show it."""

from __future__ import annotations

from collections.abc import Sequence

from sampan.content.documents import platform_of
from sampan.content.images import ImageStore
from sampan.content.targets import Entry
from sampan.formats.platform import Platform

from .users import ImageUser
from .views import AttestationProperties, ImageProperties, ManifestSize, ManifestSummary, UnpackedSize


def manifest_summaries(store: ImageStore, target: str, users: Sequence[ImageUser]) -> list[ManifestSummary]:
    """In the order of the index; one for a target that is a manifest."""
    return [_summary(store, entry, users) for entry in store.documents.entries(target)]


def _summary(store: ImageStore, entry: Entry, users: Sequence[ImageUser]) -> ManifestSummary:
    descriptor = entry.descriptor
    if not descriptor.size and entry.is_here:
        descriptor = store.documents.describe(descriptor.digest)
    content = store.content_size(descriptor.digest)
    if not entry.is_image:
        kind = "attestation" if entry.attests else "unknown"
        size = ManifestSize(content=content, total=content)
        summary = ManifestSummary(
            id=descriptor.digest, descriptor=descriptor, available=entry.is_here, size=size, kind=kind
        )
        if not entry.attests:
            return summary
        about = AttestationProperties(for_=entry.attests)
        return ManifestSummary(
            id=descriptor.digest,
            descriptor=descriptor,
            available=entry.is_here,
            size=size,
            kind=kind,
            attestation_data=about,
        )
    image = store.find(entry.image_id) if entry.image_id else None
    unpacked = image.size_bytes if image is not None else 0
    platform = entry.platform or (platform_of(image) if image is not None else Platform(os=""))
    return ManifestSummary(
        id=descriptor.digest,
        descriptor=descriptor,
        available=image is not None,
        size=ManifestSize(content=content, total=content + unpacked),
        kind="image",
        image_data=ImageProperties(
            platform=_wire(platform),
            size=UnpackedSize(unpacked=unpacked),
            containers=[user.id for user in users if image is not None and user.image_id == image.id],
        ),
    )


def _wire(platform: Platform) -> dict[str, str]:
    """OCI's object; what is empty and may be absent is."""
    shown = {"architecture": platform.architecture, "os": platform.os}
    if platform.os_version:
        shown["os.version"] = platform.os_version
    if platform.variant:
        shown["variant"] = platform.variant
    return shown
