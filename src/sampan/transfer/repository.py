"""A repository at one address: manifests, blobs, tags and uploads (OCI distribution-spec 1.1)."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from urllib.parse import quote, urlencode, urljoin, urlsplit

import msgspec
from aiohttp import ClientResponse

from .errors import (
    BLOB_UNKNOWN,
    BROKEN_JSON,
    MANIFEST_UNKNOWN,
    ContentMismatch,
    RegistryRefused,
    RegistryUnreachable,
    refused,
)
from .http import error_of
from .manifests import ACCEPTED, LIMIT_BYTES, Fetched, media_type_of
from .pace import Pace, paced, read_all
from .registry import Registry

_ACCEPT = ", ".join(ACCEPTED)
_RANGE = re.compile(r"bytes (\d+)-")
_UPLOADED = re.compile(r"(?:bytes[= ])?0-(\d{1,18})")
_PAGE_LIMIT_BYTES = 8 << 20
_MAX_PAGES = 1000
_BINARY = "application/octet-stream"


class _Tags(msgspec.Struct, frozen=True):
    tags: list[str] | None = None


_decode_tags = msgspec.json.Decoder(_Tags, strict=False).decode


class BlobStream:
    """An answer that carries a blob from ``offset`` on."""

    def __init__(self, response: ClientResponse, offset: int, pace: Pace) -> None:
        self.offset = offset
        self._response = response
        self._pace = pace

    @property
    def size_bytes(self) -> int | None:
        """Of the whole blob, as the registry says it."""
        length = self._response.content_length
        return None if length is None else self.offset + length

    def chunks(self) -> AsyncGenerator[bytes, None]:
        """As they arrive. Raises TooSlow, and what the connection raises; the caller is inside
        :meth:`Repository.blob`."""
        return paced(self._response, self._pace)


class Repository:
    """``path`` is the name without the registry: ``library/busybox``."""

    def __init__(self, registry: Registry, path: str) -> None:
        self.registry = registry
        self.path = path
        self._pull = f"repository:{path}:pull"
        self._push = f"repository:{path}:pull,push"

    async def _read(self, response: ClientResponse, limit_bytes: int, what: str) -> bytes:
        return await read_all(response, self.registry.pace, limit_bytes, what)

    # manifests

    async def manifest(self, reference: str) -> Fetched:
        """By tag or digest, verified. Raises RegistryRefused, ContentMismatch."""
        async with self.registry.send(
            "GET",
            f"/v2/{self.path}/manifests/{reference}",
            scope=self._pull,
            headers={"Accept": _ACCEPT},
            wanted=(200, 404),
        ) as response:
            if response.status == 404:
                raise await _missing(response, MANIFEST_UNKNOWN, "manifest unknown")
            data = await self._read(response, LIMIT_BYTES, f"manifest {reference}")
            declared = response.headers.get("Content-Type", "")
            promised = response.headers.get("Docker-Content-Digest", "")
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        expected = reference if ":" in reference else promised
        if expected.startswith("sha256:") and expected != digest:
            raise ContentMismatch(f"manifest verification failed for digest {expected}")
        if ":" in reference and expected != digest:
            raise ContentMismatch(f"manifest {reference} cannot be verified: use its sha256 digest")
        return Fetched(data=data, digest=digest, media_type=media_type_of(data, declared))

    async def has_manifest(self, digest: str) -> bool:
        """Whether the repository has it, and so everything that it refers to."""
        async with self.registry.send(
            "HEAD",
            f"/v2/{self.path}/manifests/{digest}",
            scope=self._push,
            headers={"Accept": _ACCEPT},
            wanted=(200, 404, 405),
        ) as response:
            return response.status == 200

    async def put_manifest(self, reference: str, data: bytes, media_type: str) -> str:
        """Its digest. Raises RegistryRefused."""
        async with self.registry.send(
            "PUT",
            f"/v2/{self.path}/manifests/{reference}",
            scope=self._push,
            headers={"Content-Type": media_type},
            body=data,
            wanted=(200, 201, 202),
        ):
            return f"sha256:{hashlib.sha256(data).hexdigest()}"

    async def tags(self) -> list[str]:
        """All of them, page by page. Raises RegistryRefused."""
        found: list[str] = []
        path = f"/v2/{self.path}/tags/list"
        for _ in range(_MAX_PAGES):
            async with self.registry.send("GET", path, scope=self._pull) as response:
                data = await self._read(response, _PAGE_LIMIT_BYTES, "list of tags")
                link = response.links.get("next")
                url = str(response.url)
            try:
                found += _decode_tags(data).tags or []
            except BROKEN_JSON as error:
                raise RegistryUnreachable("get", path, f"unreadable list of tags: {error}") from error
            if link is None:
                break
            target = urlsplit(urljoin(url, str(link["url"])))
            path = f"{target.path}?{target.query}"
            if not path.startswith("/v2/"):
                path = path[path.find("/v2/") :]
        return found

    # blobs

    @contextlib.asynccontextmanager
    async def blob(self, digest: str, offset: int = 0) -> AsyncIterator[BlobStream]:
        """A blob's bytes from ``offset`` on, or from 0 when the registry knows no ranges.

        Raises RegistryRefused, RegistryUnreachable (also when the connection is cut).
        """
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        async with self.registry.send(
            "GET",
            f"/v2/{self.path}/blobs/{digest}",
            scope=self._pull,
            headers=headers,
            wanted=(200, 206, 404),
            retried=False,
        ) as response:
            if response.status == 404:
                raise await _missing(response, BLOB_UNKNOWN, "blob unknown to registry")
            start = 0
            if response.status == 206:
                found = _RANGE.match(response.headers.get("Content-Range", ""))
                start = int(found[1]) if found else offset
            yield BlobStream(response, start, self.registry.pace)

    async def small_blob(self, digest: str, limit_bytes: int) -> bytes:
        """A verified blob in memory. Raises RegistryRefused, ContentMismatch."""
        async with self.registry.send(
            "GET", f"/v2/{self.path}/blobs/{digest}", scope=self._pull, wanted=(200, 404)
        ) as response:
            if response.status == 404:
                raise await _missing(response, BLOB_UNKNOWN, "blob unknown to registry")
            data = await self._read(response, limit_bytes, f"blob {digest}")
        if f"sha256:{hashlib.sha256(data).hexdigest()}" != digest:
            raise ContentMismatch(f"image config verification failed for digest {digest}")
        return data

    async def has_blob(self, digest: str, *, to_push: bool = True) -> bool:
        """Raises RegistryRefused for anything but yes and no. Who pushes asks with the rights to push."""
        scope = self._push if to_push else self._pull
        async with self.registry.send(
            "HEAD", f"/v2/{self.path}/blobs/{digest}", scope=scope, wanted=(200, 404)
        ) as response:
            return response.status == 200

    async def start_upload(self, mount: str = "", source: str = "") -> str:
        """Where to send a new blob to; "" when ``mount`` was taken over from the repository ``source``."""
        query = {"mount": mount, "from": source} if mount else {}
        scope = f"{self._push} repository:{source}:pull" if mount else self._push
        path = f"/v2/{self.path}/blobs/uploads/"
        async with self.registry.send(
            "POST",
            f"{path}?{urlencode(query)}" if query else path,
            scope=scope,
            body=b"",
            wanted=(201, 202),
        ) as response:
            return "" if response.status == 201 else _location(response)

    async def put_blob(self, location: str, digest: str, data: bytes) -> None:
        """A small blob in one request, to where :meth:`start_upload` said."""
        async with self.registry.send(
            "PUT",
            _with_digest(location, digest),
            scope=self._push,
            headers={"Content-Type": _BINARY},
            body=data,
            wanted=(201, 204),
            retried=False,
        ):
            return

    async def append(
        self, location: str, offset: int, size_bytes: int | None, body: Callable[[], AsyncIterator[bytes]]
    ) -> str:
        """Send what a blob has from ``offset`` on; ``size_bytes`` is of all of it, None while nobody knows.

        Where to go on. Raises RegistryRefused and RegistryUnreachable; :meth:`upload_state` tells what came.
        """
        headers = {"Content-Type": _BINARY}
        if size_bytes is not None:
            headers["Content-Length"] = str(size_bytes - offset)
            if offset:
                # at the start it says nothing, and not every registry reads it
                headers["Content-Range"] = f"{offset}-{size_bytes - 1}"
        async with self.registry.send(
            "PATCH",
            location,
            scope=self._push,
            headers=headers,
            body=body,
            wanted=(202, 204),
            retried=False,
        ) as response:
            return _location(response, location)

    async def upload_state(self, location: str) -> tuple[int, str] | None:
        """How many bytes of an upload have come, and where to go on; None when it has to be begun anew.

        distribution knows its uploads by a state in the location, which a broken request makes void (416).
        """
        async with self.registry.send(
            "GET", location, scope=self._push, wanted=(204, 202, 200, 400, 404, 405, 416)
        ) as response:
            if response.status >= 400:
                return None
            found = _UPLOADED.fullmatch(response.headers.get("Range", ""))
            # "0-0" is one byte, but what most registries say of none
            count = int(found[1]) + 1 if found is not None and found[1] != "0" else 0
            return (count, _location(response, location)) if count else None

    async def finish_upload(self, location: str, digest: str) -> None:
        """Everything has come: from here on the blob is in the repository."""
        async with self.registry.send(
            "PUT",
            _with_digest(location, digest),
            scope=self._push,
            headers={"Content-Type": _BINARY, "Content-Length": "0"},
            body=b"",
            wanted=(201, 204),
            retried=False,
        ):
            return

    async def cancel_upload(self, location: str) -> None:
        """Tell the registry that the rest will not come. Raises what it answers."""
        async with self.registry.send(
            "DELETE", location, scope=self._push, wanted=(204, 202, 200, 404, 405), retried=False
        ):
            return


def _with_digest(location: str, digest: str) -> str:
    separator = "&" if "?" in location else "?"
    return f"{location}{separator}digest={quote(digest, safe='')}"


def _location(response: ClientResponse, usual: str = "") -> str:
    location = response.headers.get("Location", "") or usual
    if not location:
        raise RegistryUnreachable("post", str(response.url), "the registry named no place to upload to")
    return urljoin(str(response.url), location)


async def _missing(response: ClientResponse, code: str, detail: str) -> RegistryRefused:
    """A 404's error; answers without a body are about what was asked for."""
    error = await error_of(response)
    if error.status == 404 and response.content_length in (0, None) and response.method == "HEAD":
        return refused(404, code, detail)
    if error.code in ("NAME_UNKNOWN", "UNKNOWN") and "json" not in response.headers.get("Content-Type", ""):
        return refused(404, code, detail)
    return error
