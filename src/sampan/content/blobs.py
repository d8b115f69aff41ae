"""Blobs by digest in an OCI layout: ``<root>/blobs/sha256/<hex>`` (image-spec, image-layout.md).

A blob appears under its name only when it is whole, verified and synced. What a crash leaves lies in the
temporary directory, which :meth:`BlobStore.sweep` empties at start.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
import re
import tempfile
from collections.abc import Iterator
from types import TracebackType

import msgspec

from sampan.base.crashpoints import crash_point

from .errors import BlobNotFound, ContentDamaged, DigestMismatch, DiskFull

_DIGEST = re.compile(r"sha256:[a-f0-9]{64}")
_TEMPORARY = "blob-"
_numbers = itertools.count()
_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'


def is_digest(text: str) -> bool:
    """Whether ``text`` is ``sha256:`` and 64 hex digits, the only algorithm the store knows."""
    return _DIGEST.fullmatch(text) is not None


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Blob(msgspec.Struct, frozen=True, kw_only=True):
    digest: str
    size: int
    path: str


class BlobStore:
    """All methods may be called from any thread."""

    def __init__(self, root: str, temporary: str) -> None:
        """``temporary`` is a directory on the same file system. Both are made when missing."""
        self._blobs = os.path.join(root, "blobs", "sha256")
        self._temporary = temporary
        os.makedirs(self._blobs, mode=0o700, exist_ok=True)
        os.makedirs(temporary, mode=0o700, exist_ok=True)
        layout = os.path.join(root, "oci-layout")
        if not os.path.exists(layout):
            with open(layout, "wb") as file:
                file.write(_LAYOUT)

    def path(self, digest: str) -> str:
        """Where the blob is or would be. Raises BlobNotFound for what is no sha256 digest."""
        if not is_digest(digest):
            raise BlobNotFound(f"blob {digest} not found: not a sha256 digest")
        return os.path.join(self._blobs, digest[7:])

    def find(self, digest: str) -> Blob | None:
        path = self.path(digest)
        try:
            return Blob(digest=digest, size=os.stat(path).st_size, path=path)
        except FileNotFoundError:
            return None

    def require(self, digest: str) -> Blob:
        blob = self.find(digest)
        if blob is None:
            raise BlobNotFound(f"blob {digest} not found")
        return blob

    def read(self, digest: str, limit: int = 16 << 20) -> bytes:
        """A small blob, verified. Raises BlobNotFound, and ContentDamaged when the disk changed it."""
        blob = self.require(digest)
        if blob.size > limit:
            raise ContentDamaged(f"blob {digest} has {blob.size} bytes, expected at most {limit}")
        with open(blob.path, "rb") as file:
            data = file.read()
        if digest_of(data) != digest:
            raise ContentDamaged(f"blob {digest} is damaged on disk: load its image again")
        return data

    def open(self, digest: str) -> int:
        """A read-only descriptor; stays valid when the blob is removed meanwhile."""
        try:
            return os.open(self.path(digest), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise BlobNotFound(f"blob {digest} not found") from None

    def put(self, data: bytes) -> str:
        """Store a small blob; its digest. Idempotent."""
        digest = digest_of(data)
        if self.find(digest) is None:
            with self.ingest() as writer:
                writer.write(data)
                writer.commit()
        return digest

    def adopt(self, path: str, digest: str) -> Blob:
        """Take over a file of the same file system whose digest the caller has verified. Idempotent.

        As with an unsynced commit, the caller syncs before anything durable refers to the blob.
        """
        target = self.path(digest)
        if not os.path.exists(target):
            try:
                os.rename(path, target)
            except FileNotFoundError:
                # somebody else who wanted it has taken it just now
                if not os.path.exists(target):
                    raise
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        return self.require(digest)

    def ingest(self) -> BlobWriter:
        """A new blob, to be written, then committed within a ``with`` block."""
        return BlobWriter(self)

    def bury(self, digest: str) -> str:
        """Take a blob away at once; the path under which :func:`os.unlink` frees its space, or ""."""
        grave = os.path.join(self._temporary, f"{_TEMPORARY}{digest[7:]}-{next(_numbers)}")
        try:
            os.rename(self.path(digest), grave)
        except FileNotFoundError:
            return ""
        return grave

    def digests(self) -> Iterator[str]:
        with os.scandir(self._blobs) as entries:
            for entry in entries:
                yield f"sha256:{entry.name}"

    def sweep(self) -> None:
        """Remove what unfinished writes of a process that died have left. Only at start."""
        with os.scandir(self._temporary) as entries:
            leftovers = [entry.path for entry in entries if entry.name.startswith(_TEMPORARY)]
        for path in leftovers:
            os.unlink(path)

    def make_temporary(self) -> tuple[int, str]:
        return tempfile.mkstemp(prefix=_TEMPORARY, dir=self._temporary)


class BlobWriter:
    """Bytes on their way to become a blob. Leaving the ``with`` block without a commit removes them.

    The digest is computed while writing. ``commit`` syncs, so that a visible blob survives a power cut.
    """

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self._fd, self.path = store.make_temporary()
        self._hash = hashlib.sha256()
        self._pending = True
        self.size = 0

    def write(self, data: bytes | memoryview) -> None:
        """Raises DiskFull."""
        self._hash.update(data)
        self.size += write_all(self._fd, data)

    @property
    def digest(self) -> str:
        """Of what was written so far."""
        return "sha256:" + self._hash.hexdigest()

    def commit(self, expected: str = "", *, sync: bool = True) -> Blob:
        """Make the blob visible. Raises DigestMismatch when it is not the ``expected`` one.

        Without ``sync`` the caller syncs the file system before anything durable refers to the blob; one
        that a power cut leaves damaged then is unreferenced, and collected at the next start.
        """
        digest = self.digest
        if expected and digest != expected:
            raise DigestMismatch(f"wrong digest: expected {expected}, got {digest}")
        target = self._store.path(digest)
        if not os.path.exists(target):
            if sync:
                os.fdatasync(self._fd)
                crash_point("blob.commit.synced")
            os.rename(self.path, target)
            self._pending = False
            if sync:
                sync_directory(os.path.dirname(target))
        return Blob(digest=digest, size=self.size, path=target)

    def __enter__(self) -> BlobWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)
        if self._pending:
            os.unlink(self.path)


def write_all(fd: int, data: bytes | memoryview) -> int:
    """write(2) until everything is written; the number of bytes. Raises DiskFull."""
    try:
        written = os.write(fd, data)
        if written < len(data):
            view = memoryview(data)
            while written < len(view):
                written += os.write(fd, view[written:])
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"write: {os.strerror(error.errno)}: free disk space and try again") from error
        raise
    return written


def sync_directory(path: str) -> None:
    """Make renames within a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
