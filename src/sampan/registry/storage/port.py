"""The storage of blobs, as the registry sees it: digests and uploads, nothing of repositories."""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncIterator
from typing import Protocol

from sampan.model.registry import BlobInfo, UploadInfo

UPLOAD_ID = re.compile(r"[a-f0-9]{8}(?:-[a-f0-9]{4}){3}-[a-f0-9]{12}")


def new_upload_id() -> str:
    """A random UUID, which the specification wants in an upload's place ("Pushing a blob monolithically")."""
    return str(uuid.uuid4())


class BlobStorage(Protocol):
    """All digests given are well-formed ``sha256:`` or ``sha512:`` ones, all upload ids of
    :func:`new_upload_id`: the registry checks both. Memory is bounded whatever a blob's size.

    Raises StorageFull, SystemFailure or Unavailable where the medium fails.
    """

    async def find(self, digest: str) -> BlobInfo | None: ...

    def read(self, digest: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """The bytes from ``start`` to before ``end`` (None: to the last one). Raises BlobUnknown."""

    def local_path(self, digest: str) -> str | None:
        """The file whose content is the blob, for sendfile(2); None when it is not a file here."""

    async def redirect(self, digest: str) -> str | None:
        """A URL at which the client itself may read the blob; None: it is read here. The blob is there."""

    async def start_upload(self, upload_id: str, algorithm: str = "sha256") -> None:
        """``algorithm``: the one the digest will be of, as far as the client has said."""

    async def append(self, upload_id: str, offset: int, chunks: AsyncIterator[bytes]) -> int:
        """The new size. What came before ``chunks`` failed is kept, so that the client can go on there.

        Raises RangeInvalid when ``offset`` is not the present size, UploadUnknown.
        """

    async def upload_size(self, upload_id: str) -> int | None:
        """Bytes that are kept, also after a restart; None: there is no such upload."""

    async def finish(self, upload_id: str, digest: str) -> int:
        """Make the upload the blob ``digest``; its size. Atomic and durable; idempotent by digest.

        The upload is gone afterwards, also when DigestInvalid is raised. Raises UploadUnknown.
        """

    async def abort(self, upload_id: str) -> None:
        """Forget an upload and free its bytes; nothing happens when there is none."""

    async def put(self, digest: str, data: bytes) -> None:
        """Store a small blob. Idempotent. Raises DigestInvalid."""

    async def delete(self, digest: str) -> int:
        """Bytes freed; 0 when there was no such blob."""

    async def set_aside(self, digest: str) -> None:
        """Move a damaged blob to where nobody reads it, so that a push stores it again; idempotent."""

    def digests(self) -> AsyncIterator[BlobInfo]:
        """Every blob there is, for scrubbing and for collecting what no row knows of."""

    def uploads(self) -> AsyncIterator[UploadInfo]:
        """Every upload that is not finished."""

    async def close(self) -> None: ...
