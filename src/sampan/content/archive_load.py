"""Read images out of an archive: ``docker save``'s format and OCI layouts, also several images in one.

Runs in a thread. Nothing is extracted by name: each member becomes a blob under its own digest while it
arrives, so a member's path can lead nowhere. Formats: moby ``image/spec/v1.2``, OCI image-layout.md.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Callable
from typing import cast

import msgspec

from sampan.base.errors import InvalidArgument, SampanError
from sampan.formats.reference import parse_name
from sampan.formats.tar import BLOCK, FILE, HARD_LINK, SYMLINK, BadTar, starts_archive
from sampan.formats.tar_reader import TarReader
from sampan.model.image import Descriptor, ImageConfig, Index, Manifest

from .assembly import Assembled, Progress, assemble, ignore_progress, parse_config
from .blobs import digest_of, is_digest
from .compression import PLAIN, Decompressor, Read, detect
from .errors import BadArchive, DigestMismatch, HostileArchive
from .images import DOCKER_INDEX, OCI_INDEX, OCI_LAYER, ImageStore, Lease
from .layer_intake import take_layer
from .layers import StagedLayer, chain_ids
from .unpack import ArchiveLimits, bounded

Matches = Callable[[str, str, str], bool]
"""Whether an image of this os, architecture and variant is wanted."""

_IN_MEMORY = 256 << 10
_MEMORY_TOTAL = 64 << 20
_MAX_DOCUMENT = 16 << 20
_MAX_MEMBERS = 200_000
_MAX_DEPTH = 8
_IMAGE_NAME = "io.containerd.image.name"
_REF_NAME = "org.opencontainers.image.ref.name"
_DOCUMENTS = ("manifest.json", "index.json", "oci-layout", "repositories")


class ManifestItem(msgspec.Struct, frozen=True, kw_only=True):
    """One image of ``manifest.json``."""

    config: str = msgspec.field(name="Config", default="")
    repo_tags: list[str] | None = msgspec.field(name="RepoTags", default=None)
    layers: list[str] | None = msgspec.field(name="Layers", default=None)
    parent: str = msgspec.field(name="Parent", default="")


class _Member(msgspec.Struct, frozen=True):
    digest: str
    size: int
    data: bytes | None
    """None: it is a blob of the store, or a layer."""
    error: SampanError | None = None
    """Why it is no layer, although it looks like one."""


class _Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """An image found in the archive, its content not looked at yet."""

    config: bytes
    layers: list[Descriptor]
    names: list[str]
    manifest: bytes | None = None
    parent: str = ""


_items = msgspec.json.Decoder(list[ManifestItem] | None)
_index = msgspec.json.Decoder(Index)
_manifest = msgspec.json.Decoder(Manifest)


class Archive:
    """The members of one archive, read to its end."""

    def __init__(self, store: ImageStore, lease: Lease, limits: ArchiveLimits, progress: Progress) -> None:
        self._store = store
        self._lease = lease
        self._limits = limits
        self._progress = progress
        self._members: dict[str, _Member] = {}
        self._links: dict[str, str] = {}
        self._in_memory = 0
        self._layers: dict[str, StagedLayer] = {}
        """Unpacked on their way in, by diff id."""
        self._stacks: dict[str, str] = {}
        """The chain ids that they got."""

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        """Of the layers that became part of an image nothing is left where they were unpacked."""
        for layer in self._layers.values():
            self._store.layers.discard(layer)

    def read(self, source: Read) -> None:
        """Take in everything. Raises BadTar, HostileArchive, DiskFull, DigestMismatch."""
        plain = bounded(Decompressor(source, hashed=False), self._limits)
        reader = TarReader(plain)
        total = 0
        for number, entry in enumerate(reader):
            if number >= _MAX_MEMBERS:
                raise HostileArchive(f"archive has more than {_MAX_MEMBERS} members: this is no image")
            path = _clean(entry.name.decode("utf-8", "replace"))
            total += entry.stored_size
            if self._limits.total_bytes and total > self._limits.total_bytes:
                raise HostileArchive(
                    f"archive holds more than {self._limits.total_bytes} bytes: refused as a bomb"
                )
            if entry.kind == FILE:
                self._members[path] = self._take(reader, entry.stored_size, path)
            elif entry.kind == SYMLINK:
                target = entry.linkname.decode("utf-8", "replace")
                self._links[path] = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
            elif entry.kind == HARD_LINK:
                self._links[path] = _clean(entry.linkname.decode("utf-8", "replace"))
        reader.drain()

    def _take(self, reader: TarReader, size: int, path: str) -> _Member:
        if size <= _IN_MEMORY and self._in_memory + size <= _MEMORY_TOTAL:
            data = reader.read_all(size)
            self._in_memory += size
            return _Member(digest_of(data), size, data)
        member = _MemberSource(reader, size, _digest_in(path), self._progress)
        if member.promised and self._is_here(member.promised):
            if member.digest() != member.promised:
                raise DigestMismatch(f"wrong digest of {path}: expected {member.promised}")
            return _Member(member.promised, size, None)
        if member.is_layer():
            return self._take_layer(member)
        with self._store.blobs.ingest() as writer:
            while chunk := member.read():
                writer.write(chunk)
            self._lease.add(writer.digest)
            # assembling syncs the file system once before anything refers to the blob
            blob = writer.commit(sync=False)
        return _Member(blob.digest, blob.size, None)

    def _is_here(self, digest: str) -> bool:
        self._lease.add(digest)
        return self._store.layer_blobs.find(digest) is not None

    def _take_layer(self, member: _MemberSource) -> _Member:
        """Unpack it at once. One that cannot be is no error unless an image wants it."""
        try:
            taken = take_layer(self._store, self._lease, member.read)
        except (BadTar, HostileArchive) as error:
            return _Member("", member.size, None, error)
        diff_id = taken.staged.diff_id
        if diff_id in self._layers:
            self._store.layers.discard(taken.staged)
        else:
            self._layers[diff_id] = taken.staged
        self._progress(diff_id, member.size, member.size)
        return _Member(taken.blob.digest, member.size, None)

    def staged(self, diff_ids: list[str]) -> dict[int, StagedLayer]:
        """The layers of one image that were unpacked, by place; each can become a part of one stack only."""
        ready: dict[int, StagedLayer] = {}
        for place, (diff_id, chain) in enumerate(zip(diff_ids, chain_ids(diff_ids), strict=True)):
            layer = self._layers.get(diff_id)
            if layer is not None and self._stacks.setdefault(diff_id, chain) == chain:
                ready[place] = layer
        return ready

    def find(self, path: str) -> _Member | None:
        """A member by path, through links that stay inside."""
        place = _clean(path)
        for _ in range(_MAX_DEPTH):
            member = self._members.get(place)
            if member is not None:
                return member
            if place not in self._links:
                return None
            place = self._links[place]
        return None

    def document(self, path: str) -> bytes:
        """The bytes of a small member. Raises BadArchive."""
        member = self.find(path)
        if member is None:
            raise BadArchive(f"invalid archive: does not contain {path}")
        if member.data is not None:
            return member.data
        if member.size > _MAX_DOCUMENT:
            raise BadArchive(f"invalid archive: {path} is too large")
        return self._store.blobs.read(member.digest)

    def blob(self, path: str, expected: str = "") -> _Member:
        """A member as a blob of the store. Raises BadArchive, DigestMismatch."""
        member = self.find(path)
        if member is not None and member.error is not None:
            raise member.error
        if member is None:
            if expected and self._is_here(expected):
                # saved without the layers that the receiver has, as Docker's --platform does
                size = self._store.layer_blobs.require(expected).size_bytes
                return _Member(expected, size, None)
            raise BadArchive(f"invalid archive: does not contain {path}")
        if expected and member.digest != expected:
            raise DigestMismatch(f"wrong digest of {path}: expected {expected}, got {member.digest}")
        if member.data is not None:
            self._lease.add(member.digest)
            self._store.blobs.put(member.data)
        return member


def load_archive(
    store: ImageStore,
    lease: Lease,
    source: Read,
    *,
    matches: Matches,
    chosen: bool,
    limits: ArchiveLimits,
    progress: Progress = ignore_progress,
) -> list[Assembled]:
    """Every wanted image of an archive, unpacked and ready to be registered.

    ``chosen``: the caller asked for a platform, so ``matches`` decides strictly; otherwise it only picks
    among the variants of a multi-platform image. Raises BadArchive and what reading and unpacking raise.
    """
    with Archive(store, lease, limits, progress) as archive:
        archive.read(source)
        return [
            assemble(
                store,
                lease,
                image.config,
                image.layers,
                names=image.names,
                manifest_data=image.manifest,
                parent=image.parent,
                progress=progress,
                ready=archive.staged(parse_config(image.config).rootfs.diff_ids),
            )
            for image in _wanted(archive, matches, chosen)
        ]


def _wanted(archive: Archive, matches: Matches, chosen: bool) -> list[_Wanted]:
    try:
        if archive.find("manifest.json") is not None:
            wanted = _docker_images(archive, matches, chosen)
        elif archive.find("index.json") is not None:
            wanted = _oci_images(archive, matches, chosen)
        else:
            raise BadArchive("invalid archive: does not contain a manifest.json")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadArchive(f"invalid archive: {error}") from error
    for name in (name for image in wanted for name in image.names):
        if not parse_name(name).tag:
            raise BadArchive(f'invalid tag "{name}"')
    return wanted


def _docker_images(archive: Archive, matches: Matches, chosen: bool) -> list[_Wanted]:
    items = _items.decode(archive.document("manifest.json"))
    if items is None:
        raise BadArchive("invalid manifest, manifest cannot be null (but can be [])")
    manifests = _manifests_by_config(archive)
    wanted = []
    ids = {}
    for item in items:
        data = archive.document(item.config)
        config = _checked_config(data)
        if chosen and not matches(config.os or "linux", config.architecture, config.variant):
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
        wanted.append(
            _Wanted(
                config=data,
                layers=[
                    Descriptor(media_type=OCI_LAYER, digest=layer.digest, size=layer.size) for layer in layers
                ],
                names=item.repo_tags or [],
                manifest=stored,
                parent=item.parent if _is_parent(ids.get(item.parent), config) else "",
            )
        )
    return wanted


def _manifests_by_config(archive: Archive) -> dict[str, bytes]:
    """OCI manifests that lie beside manifest.json (Docker 25 and later), by the config they name."""
    found: dict[str, bytes] = {}
    if archive.find("index.json") is None:
        return found
    for descriptor in _index.decode(archive.document("index.json")).manifests:
        path = _blob_path(descriptor.digest)
        if descriptor.media_type in (OCI_INDEX, DOCKER_INDEX) or archive.find(path) is None:
            continue
        data = archive.document(path)
        if digest_of(data) == descriptor.digest:
            found[_manifest.decode(data).config.digest] = data
    return found


def _is_parent(parent: ImageConfig | None, child: ImageConfig) -> bool:
    """Whether the child's history is the parent's and one step more."""
    return parent is not None and child.history[:-1] == parent.history


def _checked_config(data: bytes) -> ImageConfig:
    config = parse_config(data)
    if config.os not in ("", "linux"):
        raise BadArchive(f"cannot load {config.os} image on linux")
    return config


def _oci_images(archive: Archive, matches: Matches, chosen: bool) -> list[_Wanted]:
    index = _index.decode(archive.document("index.json"))
    wanted = []
    for name, descriptors in _by_name(index.manifests).items():
        selected = _select(archive, descriptors, matches, chosen, 0)
        wanted += [_oci_image(archive, one, [name] if name else []) for one in selected]
    if not wanted and chosen:
        raise InvalidArgument("no image of the requested platform in the archive")
    return wanted


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


def _select(
    archive: Archive, descriptors: list[Descriptor], matches: Matches, chosen: bool, depth: int
) -> list[Descriptor]:
    """Manifests of wanted platforms; of several variants of one image the best for this machine."""
    if depth > _MAX_DEPTH:
        raise HostileArchive("image indexes are nested too deeply")
    leaves: list[Descriptor] = []
    for descriptor in descriptors:
        if (descriptor.annotations or {}).get("vnd.docker.reference.type"):
            continue  # attestations
        if descriptor.media_type in (OCI_INDEX, DOCKER_INDEX):
            inner = _index.decode(_verified(archive, descriptor.digest))
            leaves += _select(archive, inner.manifests, matches, chosen, depth + 1)
        else:
            leaves.append(descriptor)
    fitting = [leaf for leaf in leaves if _fits(archive, leaf, matches)]
    if chosen:
        return fitting
    if depth == 0 and not any(leaf.platform for leaf in leaves):
        return leaves
    present = [leaf for leaf in leaves if archive.find(_blob_path(leaf.digest)) is not None]
    return fitting[:1] or present[:1]


def _fits(archive: Archive, descriptor: Descriptor, matches: Matches) -> bool:
    platform = descriptor.platform
    if platform:
        os_, architecture = str(platform.get("os", "")), str(platform.get("architecture", ""))
        return matches(os_, architecture, str(platform.get("variant", "")))
    if archive.find(_blob_path(descriptor.digest)) is None:
        return False
    manifest = _manifest.decode(_verified(archive, descriptor.digest))
    config = parse_config(_verified(archive, manifest.config.digest))
    return matches(config.os or "linux", config.architecture, config.variant)


def _verified(archive: Archive, digest: str) -> bytes:
    data = archive.document(_blob_path(digest))
    if digest_of(data) != digest:
        raise DigestMismatch(f"wrong digest: expected {digest}, got {digest_of(data)}")
    return data


def _oci_image(archive: Archive, descriptor: Descriptor, names: list[str]) -> _Wanted:
    data = _verified(archive, descriptor.digest)
    manifest = _manifest.decode(data)
    config = _verified(archive, manifest.config.digest)
    _checked_config(config)
    layers = [
        msgspec.structs.replace(layer, size=archive.blob(_blob_path(layer.digest), layer.digest).size)
        for layer in manifest.layers
    ]
    return _Wanted(config=config, layers=layers, names=names, manifest=data)


def _blob_path(digest: str) -> str:
    if not is_digest(digest):
        raise BadArchive(f"invalid archive: unsupported digest {digest!r}")
    return "blobs/" + digest.replace(":", "/", 1)


def _clean(path: str) -> str:
    """A member's path without ``.``. Raises HostileArchive."""
    if path.startswith("/"):
        raise HostileArchive(f'refusing absolute path "{path}" in archive')
    cleaned = posixpath.normpath(path)
    if cleaned == ".." or cleaned.startswith("../") or "/../" in f"/{path}/":
        raise HostileArchive(f'invalid path "{path}": ".." leads out of the archive')
    return cleaned


def _digest_in(path: str) -> str:
    """The digest that a member of an OCI layout is named by, or ""."""
    digest = path.removeprefix("blobs/").replace("/", ":", 1)
    return digest if path.startswith("blobs/") and is_digest(digest) else ""


class _MemberSource:
    """A large member's bytes as they come."""

    def __init__(self, reader: TarReader, size: int, promised: str, progress: Progress) -> None:
        self._chunks = reader.data()
        self._done = 0
        self.size = size
        self.promised = promised
        """The digest that its name says, or ""."""
        self._head = b""
        while len(self._head) < BLOCK and (chunk := next(self._chunks, b"")):
            self._head += chunk
        self._plain = detect(self._head) == PLAIN
        self._progress = progress if promised and self._plain else ignore_progress

    def is_layer(self) -> bool:
        """Whether it looks like an archive, or like something compressed."""
        return not self._plain or starts_archive(self._head)

    def read(self) -> bytes:
        chunk, self._head = self._head, b""
        if not chunk:
            view = next(self._chunks, b"")
            # what is plain is never looked at as a whole, so a view will do
            chunk = cast(bytes, view) if self._plain else bytes(view)
        self._done += len(chunk)
        self._progress(self.promised, self._done, self.size)
        return chunk

    def digest(self) -> str:
        """Of all of it, which is read and dropped."""
        digest = hashlib.sha256()
        while chunk := self.read():
            digest.update(chunk)
        return "sha256:" + digest.hexdigest()
