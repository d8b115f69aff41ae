"""Read images out of an archive: ``docker save``'s format and OCI layouts, also several images in one.

Runs in a thread. Nothing is extracted by name: each member becomes a blob under its own digest while it
arrives, so a member's path can lead nowhere. Formats: moby ``image/spec/v1.2``, OCI image-layout.md.
"""

from __future__ import annotations

import posixpath
from typing import cast

import msgspec

from sampan.base.errors import SampanError
from sampan.formats.tar import BLOCK, FILE, HARD_LINK, SYMLINK, BadTar, starts_archive
from sampan.formats.tar_reader import TarReader

from .assembly import Progress, ignore_progress
from .blobs import digest_of, is_digest
from .compression import PLAIN, Decompressor, Read, StreamHash, detect
from .errors import BadArchive, DigestMismatch, HostileArchive
from .images import ImageStore, Lease
from .layer_intake import take_layer
from .layers import StagedLayer, chain_ids
from .unpack import ArchiveLimits, bounded

_IN_MEMORY = 256 << 10
_MEMORY_TOTAL = 64 << 20
_MAX_DOCUMENT = 16 << 20
_MAX_MEMBERS = 200_000
_MAX_DEPTH = 8
_DOCUMENTS = ("manifest.json", "index.json", "oci-layout", "repositories")


class _Member(msgspec.Struct, frozen=True):
    digest: str
    size: int
    data: bytes | None
    """None: it is a blob of the store, or a layer."""
    error: SampanError | None = None
    """Why it is no layer, although it looks like one."""


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
        self._store.layers.space.require(size, f"load {path}")
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
            self.keep(member.digest, member.data)
        return member

    def has(self, digest: str) -> bool:
        """Whether :meth:`blob` gives the blob of this digest."""
        if not is_digest(digest):
            return False
        member = self.find(blob_path(digest))
        return member.error is None if member is not None else self._is_here(digest)

    def keep(self, digest: str, data: bytes) -> None:
        """Make a verified document a blob of the store."""
        self._lease.add(digest)
        self._store.blobs.put(data)


def blob_path(digest: str) -> str:
    """Where an OCI layout has a blob. Raises BadArchive."""
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
        digest = StreamHash()
        while chunk := self.read():
            digest.update(chunk)
        return "sha256:" + digest.hexdigest()
