"""What a name stands for: an index or a single manifest, and which of its images are here. Pure.

An index is a tree of descriptors whose leaves are manifests: images of platforms, attestations of them, and
documents of kinds nobody here knows. The tree comes from strangers, so it is walked with bounds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

import msgspec

from sampan.base.errors import Conflict, InvalidArgument, NotFound
from sampan.formats.platform import Platform, is_same, rank, read_platform
from sampan.model.image import Descriptor, Index

MAX_DEPTH = 4
"""Of indexes within indexes; more than one level is rare."""
MAX_ENTRIES = 2048
"""Of an index with all that it contains."""
INDEX_LIMIT_BYTES = 4 << 20

INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "",
)
_MAX_BLOB_BYTES = 1 << 50
_DIGEST = re.compile(r"sha256:[a-f0-9]{64}")
_REFERENCE_TYPE = "vnd.docker.reference.type"
_REFERENCE_DIGEST = "vnd.docker.reference.digest"

_index = msgspec.json.Decoder(Index).decode


class BadIndex(InvalidArgument):
    """An index that is none, or one too large or too deep to be honest."""


class PlatformNotHere(NotFound):
    """The image is here, but not for this platform. Docker's text, after which ``docker run`` pulls."""

    def __init__(self, ref: str, platform: Platform | None) -> None:
        wanted = f"the specified platform ({platform.text})" if platform is not None else "any platform"
        super().__init__(f"image with reference {ref} was found but does not provide {wanted}")


class SeveralFit(Conflict):
    """Nothing says which of several images is meant."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A leaf of a target."""

    descriptor: Descriptor
    platform: Platform | None = None
    image_id: str = ""
    """"" when the image is not here, or when it is no image."""
    arrived_ns: int = 0
    """When the image came here last."""
    is_here: bool = False
    """The document is here, and if it describes an image, that one too."""
    attests: str = ""
    """Digest of the manifest that this one is about."""

    @property
    def is_image(self) -> bool:
        """As far as can be told without having it."""
        if self.image_id:
            return True
        unknown = self.platform is not None and not self.platform.is_known
        return not self.attests and not unknown and self.descriptor.media_type in MANIFESTS


class PushPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What a push sends: the whole index, or one manifest."""

    entry: Entry | None
    """None: everything."""
    instead: bool = False
    """The manifest goes because the index is not all here; the client is to be told."""


def is_index(media_type: str) -> bool:
    return media_type in INDEXES


def decode_index(data: bytes) -> Index:
    """With the entries that can be followed. Raises BadIndex."""
    if len(data) > INDEX_LIMIT_BYTES:
        raise BadIndex(f"the image index has {len(data)} bytes, more than {INDEX_LIMIT_BYTES}")
    try:
        index = _index(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadIndex(f"unsupported manifest format: {error}") from None
    if len(index.manifests) > MAX_ENTRIES:
        raise BadIndex(f"the image index has {len(index.manifests)} entries, more than {MAX_ENTRIES}")
    for entry in index.manifests:
        require_sound(entry, "image index")
    return index


def require_sound(part: Descriptor, where: str) -> None:
    """A digest that can be checked, and a size that can be. Raises BadIndex."""
    if not 0 <= part.size <= _MAX_BLOB_BYTES or not _DIGEST.fullmatch(part.digest):
        raise BadIndex(f"unsupported digest {part.digest!r} of {part.size} bytes in {where}")


def attested(descriptor: Descriptor) -> str:
    """The manifest that an attestation is about; "" for everything else."""
    notes = descriptor.annotations or {}
    if notes.get(_REFERENCE_TYPE) != "attestation-manifest":
        return ""
    return notes.get(_REFERENCE_DIGEST) or "unknown"


def leaves(descriptors: Iterable[Descriptor], read: Callable[[Descriptor], Index | None]) -> list[Descriptor]:
    """What is no index, in order and each once. ``read`` gives a nested index, or None when it is not here:
    it then counts as a leaf. Raises BadIndex when the tree is too large or too deep."""
    found: dict[str, Descriptor] = {}
    seen: set[str] = set()
    visited = 0

    def walk(level: Iterable[Descriptor], depth: int) -> None:
        nonlocal visited
        if depth > MAX_DEPTH:
            raise BadIndex(f"image indexes are nested more than {MAX_DEPTH} deep")
        for descriptor in level:
            visited += 1
            if visited > MAX_ENTRIES:
                raise BadIndex(f"the image index leads to more than {MAX_ENTRIES} entries")
            inner = None
            if is_index(descriptor.media_type):
                if descriptor.digest in seen:
                    continue
                seen.add(descriptor.digest)
                inner = read(descriptor)
            if inner is None:
                found.setdefault(descriptor.digest, descriptor)
            else:
                walk(inner.manifests, depth + 1)

    walk(descriptors, 1)
    return list(found.values())


def choose(
    entries: Sequence[Entry], host: Platform, wanted: Platform | None = None, *, ref: str = ""
) -> Entry | None:
    """The image that a name means: the ``wanted`` platform's, else this machine's, else the one that came
    last. None when none is here. Raises PlatformNotHere for a platform that is not."""
    images = [entry for entry in entries if entry.image_id]
    if not images:
        return None
    if wanted is not None:
        fitting = [one for one in images if one.platform is None or is_same(one.platform, wanted)]
        if not fitting:
            raise PlatformNotHere(ref, wanted)
        return _best(fitting, wanted) or fitting[0]
    return _best(images, host) or max(images, key=lambda one: one.arrived_ns)


def _best(entries: Sequence[Entry], wanted: Platform) -> Entry | None:
    ranked = [(value, entry) for entry in entries if (value := rank(entry.platform, wanted)) is not None]
    # of equals the first one: max() keeps it
    return max(ranked, key=lambda item: item[0])[1] if ranked else None


def select(index: Sequence[Descriptor], wanted: Platform) -> Descriptor | None:
    """The entry of an index, none of which need be here, that suits the platform best."""
    entries = [
        Entry(descriptor=one, platform=read_platform(one.platform), attests=attested(one))
        for one in index
        if one.media_type in MANIFESTS
    ]
    best = _best([entry for entry in entries if entry.is_image], wanted)
    return best.descriptor if best is not None else None


def plan_push(
    entries: Sequence[Entry], host: Platform, platform: Platform | None, *, ref: str, whole: bool
) -> PushPlan:
    """What ``docker push`` sends of an index (moby: containerd/image_push.go, getPushDescriptor).

    ``whole``: every document and layer of it is here. Raises PlatformNotHere, SeveralFit.
    """
    if platform is None and whole:
        return PushPlan(entry=None)
    here = [entry for entry in entries if entry.image_id]
    if platform is not None:
        fitting = [one for one in here if one.platform is None or is_same(one.platform, platform)]
        if len(fitting) > 1:
            fitting = [one for one in fitting if one.platform == platform] or fitting
        if len(fitting) > 1:
            raise SeveralFit(f"multiple manifests found for platform {platform.text}")
        if not fitting:
            raise PlatformNotHere(ref, platform)
        return PushPlan(entry=fitting[0])
    if not here:
        raise PlatformNotHere(ref, None)
    if len(here) == 1:
        return PushPlan(entry=here[0], instead=True)
    best = _best(here, host)
    if best is None:
        raise SeveralFit("multiple matching manifests found but no specific platform requested")
    return PushPlan(entry=best, instead=True)
