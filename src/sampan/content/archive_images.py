"""The images in an archive: ``docker save``'s manifest.json and OCI layouts, with their indexes.

Runs in a thread, after :class:`.archive_load.Archive` has taken in all members. Formats: moby
``image/spec/v1.2``, OCI image-layout.md and image-index.md.
"""

from __future__ import annotations

import msgspec

from sampan.base.errors import InvalidArgument
from sampan.formats.platform import Platform, is_same, platform, rank, read_platform
from sampan.formats.reference import parse_name
from sampan.model.image import Descriptor, ImageConfig, Index, Manifest
from sampan.store.images import ManifestRecord

from .archive_load import Archive, blob_path
from .assembly import Assembled, Progress, assemble, ignore_progress, parse_config
from .blobs import digest_of, is_digest
from .compression import Read
from .errors import BadArchive, DigestMismatch
from .images import OCI_LAYER, ImageStore, Lease
from .targets import MANIFESTS, attested, decode_index, is_index, leaves
from .unpack import ArchiveLimits

_IMAGE_NAME = "io.containerd.image.name"
_REF_NAME = "org.opencontainers.image.ref.name"


class ManifestItem(msgspec.Struct, frozen=True, kw_only=True):
    """One image of ``manifest.json``."""

    config: str = msgspec.field(name="Config", default="")
    repo_tags: list[str] | None = msgspec.field(name="RepoTags", default=None)
    layers: list[str] | None = msgspec.field(name="Layers", default=None)
    parent: str = msgspec.field(name="Parent", default="")


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """What one name in the archive stands for, its content in place."""

    images: list[Assembled]
    """Without names; the best one for this machine first."""
    names: list[str]
    documents: list[ManifestRecord] = []
    """Indexes, and what they have that is no image."""
    target: str = ""
    """Digest of the index or manifest that the names stand for; "" when the archive has none."""


class _Image(msgspec.Struct, frozen=True, kw_only=True):
    """An image found in the archive, its layers not looked at yet."""

    config: bytes
    layers: list[Descriptor]
    manifest: bytes | None = None
    media_type: str = ""
    parent: str = ""
    platform: Platform


class _Wanted(msgspec.Struct, frozen=True, kw_only=True):
    images: list[_Image]
    names: list[str]
    documents: list[ManifestRecord] = []
    target: str = ""


_items = msgspec.json.Decoder(list[ManifestItem] | None)
_index = msgspec.json.Decoder(Index)
_manifest = msgspec.json.Decoder(Manifest)


def load_archive(
    store: ImageStore,
    lease: Lease,
    source: Read,
    *,
    wanted: Platform | None,
    host: Platform,
    limits: ArchiveLimits,
    progress: Progress = ignore_progress,
) -> list[Loaded]:
    """Every image of an archive, or those of the ``wanted`` platform, unpacked and ready to be registered.

    Raises BadArchive and what reading and unpacking raise.
    """
    with Archive(store, lease, limits, progress) as archive:
        archive.read(source)

        def put_together(image: _Image) -> Assembled:
            return assemble(
                store,
                lease,
                image.config,
                image.layers,
                names=[],
                manifest_data=image.manifest,
                media_type=image.media_type,
                parent=image.parent,
                progress=progress,
                ready=archive.staged(parse_config(image.config).rootfs.diff_ids),
            )

        return [
            Loaded(
                images=[put_together(image) for image in one.images],
                names=one.names,
                documents=one.documents,
                target=one.target,
            )
            for one in _found(archive, wanted, host)
        ]


def _found(archive: Archive, wanted: Platform | None, host: Platform) -> list[_Wanted]:
    try:
        found = _images_of(archive, wanted, host)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadArchive(f"invalid archive: {error}") from error
    for name in (name for one in found for name in one.names):
        if not parse_name(name).tag:
            raise BadArchive(f'invalid tag "{name}"')
    return found


def _images_of(archive: Archive, wanted: Platform | None, host: Platform) -> list[_Wanted]:
    """A layout with an index in it is read as one; manifest.json could only say half of it."""
    has_items = archive.find("manifest.json") is not None
    if archive.find("index.json") is not None:
        index = _index.decode(archive.document("index.json"))
        if not has_items or any(is_index(one.media_type) for one in index.manifests):
            return _oci_images(archive, index, wanted, host)
    if has_items:
        return _docker_images(archive, wanted)
    raise BadArchive("invalid archive: does not contain a manifest.json")


def _docker_images(archive: Archive, wanted: Platform | None) -> list[_Wanted]:
    items = _items.decode(archive.document("manifest.json"))
    if items is None:
        raise BadArchive("invalid manifest, manifest cannot be null (but can be [])")
    manifests = _manifests_by_config(archive)
    found = []
    ids = {}
    for item in items:
        data = archive.document(item.config)
        config = _checked_config(data)
        if wanted is not None and not is_same(_platform_of(config), wanted):
            continue
        paths = item.layers or []
        if len(paths) != len(config.rootfs.diff_ids):
            raise BadArchive(
                f"invalid manifest, layers length mismatch: expected {len(paths)}, "
                f"got {len(config.rootfs.diff_ids)}"
            )
        layers = [archive.blob(path) for path in paths]
        image_id = digest_of(data)
        ids[image_id] = config
        stored = manifests.get(image_id)
        if stored is not None:
            digests = [layer.digest for layer in _manifest.decode(stored).layers]
            if digests != [layer.digest for layer in layers]:
                stored = None
        image = _Image(
            config=data,
            layers=[
                Descriptor(media_type=OCI_LAYER, digest=layer.digest, size=layer.size) for layer in layers
            ],
            manifest=stored,
            parent=item.parent if _is_parent(ids.get(item.parent), config) else "",
            platform=_platform_of(config),
        )
        target = digest_of(stored) if stored is not None else ""
        found.append(_Wanted(images=[image], names=item.repo_tags or [], target=target))
    return found


def _manifests_by_config(archive: Archive) -> dict[str, bytes]:
    """OCI manifests that lie beside manifest.json (Docker 25 and later), by the config they name."""
    found: dict[str, bytes] = {}
    if archive.find("index.json") is None:
        return found
    for descriptor in _index.decode(archive.document("index.json")).manifests:
        path = blob_path(descriptor.digest)
        if is_index(descriptor.media_type) or archive.find(path) is None:
            continue
        data = archive.document(path)
        if digest_of(data) == descriptor.digest:
            found[_manifest.decode(data).config.digest] = data
    return found


def _is_parent(parent: ImageConfig | None, child: ImageConfig) -> bool:
    """Whether the child's history is the parent's and one step more."""
    return parent is not None and child.history[:-1] == parent.history


def _platform_of(config: ImageConfig) -> Platform:
    return platform(config.os or "linux", config.architecture, config.variant, config.os_version)


def _checked_config(data: bytes) -> ImageConfig:
    config = parse_config(data)
    if config.os not in ("", "linux"):
        raise BadArchive(f"cannot load {config.os} image on linux")
    return config


def _oci_images(archive: Archive, index: Index, wanted: Platform | None, host: Platform) -> list[_Wanted]:
    found = []
    for name, descriptors in _by_name(index.manifests).items():
        names = [name] if name else []
        found += [
            one
            for descriptor in descriptors
            if is_index(descriptor.media_type)
            and (one := _oci_index(archive, descriptor, names, wanted, host)) is not None
        ]
        single = [one for one in descriptors if not is_index(one.media_type) and not attested(one)]
        chosen = _choose(archive, single, wanted, host)
        found += [
            _Wanted(images=[_oci_image(archive, one)], names=names, target=one.digest) for one in chosen
        ]
    if not found and wanted is not None:
        raise InvalidArgument("no image of the requested platform in the archive")
    return found


def _by_name(descriptors: list[Descriptor]) -> dict[str, list[Descriptor]]:
    """Descriptors that share a name are the platforms of one image; nameless ones stand alone."""
    named: dict[str, list[Descriptor]] = {}
    for descriptor in descriptors:
        annotations = descriptor.annotations or {}
        name = annotations.get(_IMAGE_NAME) or annotations.get(_REF_NAME, "")
        # a bare tag is how OCI tools write it; without a repository it names nothing here
        if _IMAGE_NAME not in annotations and not any(mark in name for mark in "/:"):
            name = ""
        named.setdefault(name, []).append(descriptor)
    return named


def _choose(
    archive: Archive, leaves_: list[Descriptor], wanted: Platform | None, host: Platform
) -> list[Descriptor]:
    """Manifests of the wanted platform; of several variants of one image the best for this machine."""
    if wanted is None and not any(leaf.platform for leaf in leaves_):
        return leaves_
    present = [leaf for leaf in leaves_ if archive.find(blob_path(leaf.digest)) is not None]
    if wanted is not None:
        return [leaf for leaf in present if is_same(_leaf_platform(archive, leaf), wanted)]
    fitting = [leaf for leaf in present if rank(_leaf_platform(archive, leaf), host) is not None]
    return fitting[:1] or present[:1]


def _leaf_platform(archive: Archive, leaf: Descriptor) -> Platform:
    declared = read_platform(leaf.platform)
    if declared is not None:
        return declared
    manifest = _manifest.decode(_verified(archive, leaf.digest))
    return _platform_of(parse_config(_verified(archive, manifest.config.digest)))


def _oci_index(
    archive: Archive, top: Descriptor, names: list[str], wanted: Platform | None, host: Platform
) -> _Wanted | None:
    """An index with those of its images that the archive has; None when that is not one wanted."""
    documents: list[ManifestRecord] = []

    def read(descriptor: Descriptor) -> Index | None:
        if archive.find(blob_path(descriptor.digest)) is None:
            return None
        data = _verified(archive, descriptor.digest)
        archive.keep(descriptor.digest, data)
        documents.append(ManifestRecord(digest=descriptor.digest, media_type=descriptor.media_type))
        return decode_index(data)

    images: list[_Image] = []
    for leaf in leaves([top], read):
        if archive.find(blob_path(leaf.digest)) is None:
            continue
        if leaf.media_type not in MANIFESTS or attested(leaf) or not _is_image(archive, leaf):
            documents.append(_other(archive, leaf))
            continue
        image = _oci_image(archive, leaf)
        if wanted is None or is_same(image.platform, wanted):
            images.append(image)
    if not images:
        return None
    images.sort(key=lambda image: rank(image.platform, host) or 0, reverse=True)
    if not names:
        # nothing would hold the index
        return _Wanted(images=images, names=[])
    return _Wanted(images=images, names=names, documents=documents, target=top.digest)


def _is_image(archive: Archive, leaf: Descriptor) -> bool:
    """Whether the archive has an image for this system, whole."""
    manifest = _manifest.decode(_verified(archive, leaf.digest))
    if not is_digest(manifest.config.digest) or archive.find(blob_path(manifest.config.digest)) is None:
        return False
    declared = read_platform(leaf.platform)
    if declared is not None and declared.os != "linux":
        return False
    return all(archive.has(layer.digest) for layer in manifest.layers)


def _other(archive: Archive, leaf: Descriptor) -> ManifestRecord:
    """A document that is no image, with what it refers to as far as that is there."""
    data = _verified(archive, leaf.digest)
    archive.keep(leaf.digest, data)
    blobs: list[str] = []
    if leaf.media_type in MANIFESTS:
        manifest = _manifest.decode(data)
        parts = [part.digest for part in (manifest.config, *manifest.layers)]
        blobs = [archive.blob(blob_path(one), one).digest for one in parts if archive.has(one)]
    return ManifestRecord(digest=leaf.digest, media_type=leaf.media_type, blobs=blobs)


def _verified(archive: Archive, digest: str) -> bytes:
    data = archive.document(blob_path(digest))
    if digest_of(data) != digest:
        raise DigestMismatch(f"wrong digest: expected {digest}, got {digest_of(data)}")
    return data


def _oci_image(archive: Archive, descriptor: Descriptor) -> _Image:
    data = _verified(archive, descriptor.digest)
    manifest = _manifest.decode(data)
    config = _verified(archive, manifest.config.digest)
    layers = [
        msgspec.structs.replace(layer, size=archive.blob(blob_path(layer.digest), layer.digest).size)
        for layer in manifest.layers
    ]
    return _Image(
        config=config,
        layers=layers,
        manifest=data,
        media_type=descriptor.media_type,
        platform=_platform_of(_checked_config(config)),
    )
