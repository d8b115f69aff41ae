"""Blobs as files in an OCI layout: ``<root>/blobs/<algorithm>/<hex>``; uploads in ``<root>/uploads/<id>``;
damaged blobs in ``<root>/quarantine``.

A blob appears under its name by one rename, after its bytes are verified and synced. What was received is
hashed as it arrives; after a restart the file is read once more, so nothing needs to be written beside it.
Files are opened relative to descriptors of the three directories and never through symbolic links.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from sampan.base.crashpoints import crash_point
from sampan.base.errors import SystemFailure
from sampan.model.registry import BlobInfo, UploadInfo
from sampan.registry.digests import ALGORITHMS, algorithm_of, digest_of, is_digest
from sampan.registry.errors import BlobUnknown, DigestInvalid, RangeInvalid, StorageFull, UploadUnknown

if TYPE_CHECKING:
    from hashlib import _Hash

T = TypeVar("T")
BATCH_BYTES = 1 << 20
"""Received bytes are handed to a thread in pieces of this size."""
PIECE_BYTES = 1 << 20
"""Of what is read."""
THREADS = 8
_OPEN = os.O_CLOEXEC | os.O_NOFOLLOW
_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'


class _Upload:
    """The hash of what an upload's file holds. Used by one thread at a time."""

    def __init__(self, algorithm: str) -> None:
        self.hash: _Hash = hashlib.new(algorithm)
        self.size = 0

    def write(self, fd: int, pieces: Sequence[bytes]) -> None:
        for piece in pieces:
            view = memoryview(piece)
            while view:
                count = os.pwrite(fd, view, self.size)
                self.hash.update(view[:count])
                self.size += count
                view = view[count:]

    def read_back(self, fd: int, algorithm: str) -> None:
        """Hash what another process has received, or what turns out to be wanted by another algorithm."""
        self.hash = hashlib.new(algorithm)
        self.size = 0
        while piece := os.pread(fd, PIECE_BYTES, self.size):
            self.hash.update(piece)
            self.size += len(piece)


class _Folders:
    """Descriptors of the directories, and the threads in which the disk is waited for."""

    def __init__(self, root: str) -> None:
        os.makedirs(root, mode=0o700, exist_ok=True)
        self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.uploads = self._make("uploads")
        self.quarantine = self._make("quarantine")
        os.close(self._make("blobs"))
        self.blobs = {name: self._make(f"blobs/{name}") for name in ALGORITHMS}
        self._threads = ThreadPoolExecutor(THREADS, "registry-files")
        with contextlib.suppress(FileExistsError):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _OPEN
            layout = os.open("oci-layout", flags, 0o600, dir_fd=self._root)
            os.write(layout, _LAYOUT)
            os.close(layout)

    def _make(self, path: str) -> int:
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700, dir_fd=self._root)
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | _OPEN, dir_fd=self._root)

    def of(self, digest: str) -> int:
        return self.blobs[algorithm_of(digest)]

    async def in_thread(self, call: Callable[..., T], *arguments: Any) -> T:
        """Runs to its end also when the caller is cancelled meanwhile: the file stays as its hash says."""
        job = asyncio.get_running_loop().run_in_executor(self._threads, call, *arguments)
        try:
            return await asyncio.shield(job)
        except asyncio.CancelledError:
            await asyncio.wait({job})
            raise
        except OSError as error:
            raise _failure(error) from error

    def publish(self, name: str, fd: int, digest: str) -> None:
        """Durable first, visible then: who sees the name sees all bytes after any crash."""
        os.fdatasync(fd)
        crash_point("registry.blob.synced")
        folder = self.of(digest)
        os.rename(name, _hex(digest), src_dir_fd=self.uploads, dst_dir_fd=folder)
        os.fsync(folder)

    def close(self) -> None:
        self._threads.shutdown()
        for fd in (*self.blobs.values(), self.quarantine, self.uploads, self._root):
            os.close(fd)


class FileBlobStorage:
    """A :class:`~sampan.registry.storage.port.BlobStorage` in a directory, which is made when missing."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._folders = _Folders(root)
        self._uploads: dict[str, _Upload] = {}

    # blobs

    async def find(self, digest: str) -> BlobInfo | None:
        try:
            status = os.stat(_hex(digest), dir_fd=self._folders.of(digest), follow_symlinks=False)
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        return BlobInfo(digest=digest, size_bytes=status.st_size, stored_ns=status.st_mtime_ns)

    async def read(self, digest: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        fd = self.open(digest)
        try:
            position = start
            while end is None or position < end:
                wanted = PIECE_BYTES if end is None else min(PIECE_BYTES, end - position)
                piece = await self._folders.in_thread(os.pread, fd, wanted, position)
                if not piece:
                    return
                position += len(piece)
                yield piece
        finally:
            os.close(fd)

    def open(self, digest: str) -> int:
        """A descriptor that stays good when the blob is deleted meanwhile. Raises BlobUnknown."""
        try:
            return os.open(_hex(digest), os.O_RDONLY | _OPEN, dir_fd=self._folders.of(digest))
        except FileNotFoundError:
            raise BlobUnknown(f"blob {digest} unknown to registry") from None

    def local_path(self, digest: str) -> str | None:
        return f"{self.root}/blobs/{algorithm_of(digest)}/{_hex(digest)}"

    async def redirect(self, digest: str) -> str | None:
        return None

    async def put(self, digest: str, data: bytes) -> None:
        if digest_of(data, algorithm_of(digest)) != digest:
            raise DigestInvalid(f"content does not have the digest {digest}")
        if await self.find(digest) is None:
            await self._folders.in_thread(self._put, digest, data)

    def _put(self, digest: str, data: bytes) -> None:
        name = f"put-{os.urandom(16).hex()}"
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _OPEN, 0o600, dir_fd=self._folders.uploads)
        try:
            _Upload("sha256").write(fd, [data])
            self._folders.publish(name, fd, digest)
        except BaseException:
            os.unlink(name, dir_fd=self._folders.uploads)
            raise
        finally:
            os.close(fd)

    async def delete(self, digest: str) -> int:
        info = await self.find(digest)
        if info is None:
            return 0
        # freeing a large file's blocks takes a while
        await self._folders.in_thread(_unlink, _hex(digest), self._folders.of(digest))
        return info.size_bytes

    async def set_aside(self, digest: str) -> None:
        """To ``<root>/quarantine/<algorithm>-<hex>``, in place of an earlier one."""
        source, target = self._folders.of(digest), self._folders.quarantine
        with contextlib.suppress(FileNotFoundError):
            os.rename(_hex(digest), digest.replace(":", "-"), src_dir_fd=source, dst_dir_fd=target)

    async def digests(self) -> AsyncIterator[BlobInfo]:
        for algorithm, folder in self._folders.blobs.items():
            for name in await self._folders.in_thread(os.listdir, folder):
                digest = f"{algorithm}:{name}"
                info = await self.find(digest) if is_digest(digest) else None
                if info is not None:
                    yield info

    # uploads

    async def start_upload(self, upload_id: str, algorithm: str = "sha256") -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _OPEN
        try:
            os.close(os.open(upload_id, flags, 0o600, dir_fd=self._folders.uploads))
        except OSError as error:
            raise _failure(error) from error
        self._uploads[upload_id] = _Upload(algorithm)

    async def append(self, upload_id: str, offset: int, chunks: AsyncIterator[bytes]) -> int:
        fd = self._open_upload(upload_id)
        writing: asyncio.Task[None] | None = None
        try:
            upload = await self._state(upload_id, fd)
            if offset != upload.size:
                raise RangeInvalid(f"upload {upload_id} has {upload.size} bytes: go on there", upload.size)
            async for batch in _batches(chunks):
                if writing is not None:
                    await writing
                writing = asyncio.ensure_future(self._folders.in_thread(upload.write, fd, batch))
        finally:
            # what has come is kept, whatever ended the stream
            if writing is not None:
                await asyncio.wait({writing})
                if not writing.cancelled():
                    writing.exception()  # seen; raised below where nothing else went wrong
            os.close(fd)
        if writing is not None:
            writing.result()
        return upload.size

    async def upload_size(self, upload_id: str) -> int | None:
        upload = self._uploads.get(upload_id)
        if upload is not None:
            return upload.size
        try:
            return os.stat(upload_id, dir_fd=self._folders.uploads, follow_symlinks=False).st_size
        except FileNotFoundError:
            return None

    async def finish(self, upload_id: str, digest: str) -> int:
        fd = self._open_upload(upload_id)
        try:
            upload = await self._state(upload_id, fd)
            algorithm = algorithm_of(digest)
            if upload.hash.name != algorithm:
                await self._folders.in_thread(upload.read_back, fd, algorithm)
            found = f"{algorithm}:{upload.hash.hexdigest()}"
            if found != digest:
                await self.abort(upload_id)
                raise DigestInvalid(f"content has the digest {found}, not {digest}", {"digest": found})
            if await self.find(digest) is not None:
                await self.abort(upload_id)
            else:
                await self._folders.in_thread(self._folders.publish, upload_id, fd, digest)
                self._uploads.pop(upload_id, None)
            return upload.size
        finally:
            os.close(fd)

    async def abort(self, upload_id: str) -> None:
        self._uploads.pop(upload_id, None)
        await self._folders.in_thread(_unlink, upload_id, self._folders.uploads)

    async def uploads(self) -> AsyncIterator[UploadInfo]:
        for name in await self._folders.in_thread(os.listdir, self._folders.uploads):
            try:
                status = os.stat(name, dir_fd=self._folders.uploads, follow_symlinks=False)
            except FileNotFoundError:
                continue
            yield UploadInfo(id=name, size_bytes=status.st_size, touched_ns=status.st_mtime_ns)

    async def close(self) -> None:
        """Uploads stay: they can go on after the next start."""
        self._folders.close()

    def _open_upload(self, upload_id: str) -> int:
        try:
            return os.open(upload_id, os.O_RDWR | _OPEN, dir_fd=self._folders.uploads)
        except FileNotFoundError:
            raise UploadUnknown(f"upload {upload_id} unknown to registry: start a new one") from None

    async def _state(self, upload_id: str, fd: int) -> _Upload:
        upload = self._uploads.get(upload_id)
        if upload is None:
            upload = _Upload("sha256")
            await self._folders.in_thread(upload.read_back, fd, "sha256")
            self._uploads[upload_id] = upload
        return upload


def _unlink(name: str, folder: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)


async def _batches(chunks: AsyncIterator[bytes]) -> AsyncIterator[list[bytes]]:
    """Pieces as they come from the network, put together to what is worth a thread's turn."""
    batch: list[bytes] = []
    size = 0
    try:
        async for chunk in chunks:
            batch.append(chunk)
            size += len(chunk)
            if size >= BATCH_BYTES:
                yield batch
                batch, size = [], 0
    except GeneratorExit:
        raise
    except BaseException:
        if batch:
            yield batch
        raise
    if batch:
        yield batch


def _hex(digest: str) -> str:
    return digest.partition(":")[2]


def _failure(error: OSError) -> Exception:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFull(f"registry storage: {os.strerror(error.errno)}: free disk space and try again")
    return SystemFailure(f"registry storage: {error}")
