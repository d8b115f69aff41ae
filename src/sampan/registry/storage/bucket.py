"""A bucket of an S3-compatible object store: the few requests we make, with our errors.

aiobotocore is imported at the first use: a registry on files does not need it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import datetime
from typing import Any

import msgspec

from sampan.base.errors import FailedPrecondition, SystemFailure, Unavailable

from ..errors import StorageFull

_MISSING = ("404", "NoSuchKey", "NotFound", "NoSuchUpload")
_FULL = ("QuotaExceeded", "XMinioStorageFull", "InsufficientCapacity", "507")
_DENIED = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "403", "401")
_DELETED_AT_ONCE = 1000
_PIECE_BYTES = 256 << 10
_ATTEMPTS = 4
_CONNECT_TIMEOUT_S = 10
_READ_TIMEOUT_S = 60


class S3Settings(msgspec.Struct, frozen=True, kw_only=True):
    """``[storage.s3]`` of the settings file."""

    bucket: str
    endpoint: str = ""
    """``https://host:port``; "" is Amazon's for the region."""
    region: str = "us-east-1"
    prefix: str = ""
    """Before every key, so that several registries share a bucket: ``team-a/``."""
    access_key: str = ""
    """"" takes the environment, ``~/.aws`` or the machine's role, as Amazon's tools do."""
    secret_key: str = ""
    session_token: str = ""
    path_style: bool = True
    """``host/bucket/key``; False is ``bucket.host/key``."""
    ca_file: str = ""
    """Authorities to trust for the endpoint; "" is the system's."""
    part_size_bytes: int = 8 << 20
    """Bytes of a blob that are held in memory for each upload, twice; at least Amazon's 5 MiB."""
    redirect: bool = False
    """Whether pulls are sent to the bucket by signed URLs."""
    redirect_endpoint: str = ""
    """As clients reach the endpoint; "" is ``endpoint``."""
    redirect_life_s: int = 1200
    snapshot_interval_s: int = 30
    """At most so much of the database is lost with this machine's disk."""
    snapshots_kept: int = 3

    def __repr__(self) -> str:
        return f"S3Settings(bucket={self.bucket!r}, endpoint={self.endpoint!r}, prefix={self.prefix!r})"


class StoredObject(msgspec.Struct, frozen=True, kw_only=True):
    """An object as a listing shows it; ``key`` is without the settings' prefix."""

    key: str
    size_bytes: int
    modified_ns: int


class ObjectMissing(Exception):
    """There is no such object or multipart upload; never leaves the storage."""


class Bucket:
    """One client for all tasks, opened at the first request. Keys are without the prefix."""

    def __init__(self, settings: S3Settings) -> None:
        self.settings = settings
        self._stack = contextlib.AsyncExitStack()
        self._opening = asyncio.Lock()
        self._clients: dict[str, Any] = {}

    async def close(self) -> None:
        self._clients.clear()
        await self._stack.aclose()

    async def client(self, endpoint: str = "") -> Any:
        settings = self.settings
        endpoint = endpoint or settings.endpoint
        async with self._opening:
            found = self._clients.get(endpoint)
            if found is None:
                found = await self._stack.enter_async_context(_new_client(settings, endpoint))
                self._clients[endpoint] = found
            return found

    def place(self, key: str) -> dict[str, str]:
        return {"Bucket": self.settings.bucket, "Key": self.settings.prefix + key}

    async def check(self) -> None:
        """Raises when the bucket is not there or not ours, so that a registry says it when it starts."""
        client = await self.client()
        with self.errors("check"):
            try:
                await client.head_bucket(Bucket=self.settings.bucket)
            except client.exceptions.ClientError as error:
                if _code(error) in _MISSING or _code(error) == "NoSuchBucket":
                    raise FailedPrecondition(
                        f"there is no bucket {self.settings.bucket!r} at {self.where}: create it first"
                    ) from error
                raise

    # objects

    async def find(self, key: str) -> StoredObject | None:
        client = await self.client()
        try:
            with self.errors(key):
                head = await client.head_object(**self.place(key))
        except ObjectMissing:
            return None
        return StoredObject(
            key=key, size_bytes=int(head["ContentLength"]), modified_ns=moment_ns(head["LastModified"])
        )

    async def read(self, key: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Pieces of an object from ``start`` to before ``end``. Raises ObjectMissing.

        A connection that breaks is made again where it broke, as long as each brings something.
        """
        failures = 0
        while end is None or start < end:
            wanted = f"bytes={start}-{'' if end is None else end - 1}"
            try:
                with self.errors(key):
                    async for piece in self._pieces(key, wanted if start or end is not None else ""):
                        yield piece
                        start += len(piece)
                        failures = 0
                return
            except Unavailable:
                failures += 1
                if failures >= _ATTEMPTS:
                    raise

    async def _pieces(self, key: str, wanted: str) -> AsyncIterator[bytes]:
        client = await self.client()
        answer = await client.get_object(**self.place(key), **({"Range": wanted} if wanted else {}))
        async with answer["Body"] as body:
            while piece := await body.read(_PIECE_BYTES):
                yield piece

    async def read_all(self, key: str) -> bytes:
        """For small objects. Raises ObjectMissing."""
        return b"".join([piece async for piece in self.read(key)])

    async def put(self, key: str, data: bytes) -> None:
        client = await self.client()
        with self.errors(key):
            await client.put_object(**self.place(key), Body=data)

    async def copy(self, source: str, target: str) -> None:
        """Within the store, up to the 5 GiB that one request may copy. Raises ObjectMissing."""
        client = await self.client()
        with self.errors(source):
            await client.copy_object(**self.place(target), CopySource=self.place(source))

    async def delete(self, keys: Sequence[str]) -> None:
        """Missing ones are no error."""
        client = await self.client()
        for at in range(0, len(keys), _DELETED_AT_ONCE):
            objects = [{"Key": self.settings.prefix + key} for key in keys[at : at + _DELETED_AT_ONCE]]
            with self.errors(keys[at]):
                answer = await client.delete_objects(
                    Bucket=self.settings.bucket, Delete={"Objects": objects, "Quiet": True}
                )
            for failure in answer.get("Errors", ()):
                raise SystemFailure(
                    f"{self.where}: {failure.get('Key')} is not deleted: {failure.get('Message')}"
                )

    async def objects(self, prefix: str) -> AsyncIterator[StoredObject]:
        """Those whose keys begin with ``prefix``, page by page, in order."""
        client = await self.client()
        token: dict[str, str] = {}
        while True:
            with self.errors(prefix):
                page = await client.list_objects_v2(
                    Bucket=self.settings.bucket, Prefix=self.settings.prefix + prefix, **token
                )
            for item in page.get("Contents", ()):
                yield StoredObject(
                    key=item["Key"].removeprefix(self.settings.prefix),
                    size_bytes=int(item["Size"]),
                    modified_ns=moment_ns(item["LastModified"]),
                )
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    async def signed_url(self, key: str, life_s: int) -> str:
        """Where anybody may GET an object for so long. No request is made."""
        client = await self.client(self.settings.redirect_endpoint)
        with self.errors(key):
            url: str = await client.generate_presigned_url(
                "get_object", Params=self.place(key), ExpiresIn=life_s
            )
        return url

    # errors

    @property
    def where(self) -> str:
        return f"{self.settings.endpoint or 'https://s3.amazonaws.com'}/{self.settings.bucket}"

    @contextlib.contextmanager
    def errors(self, key: str) -> Iterator[None]:
        """What the library raises becomes ours. Entered with a client, so the library is there."""
        from aiohttp import ClientError as BrokenBody
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

        try:
            yield
        except ClientError as error:
            code, status = _code(error), error.response["ResponseMetadata"].get("HTTPStatusCode", 0)
            text = f"{self.where}/{key}: {error}"
            if code in _MISSING:
                raise ObjectMissing(key) from error
            if code in _FULL:
                raise StorageFull(f"no space left in the bucket: {text}") from error
            if code in _DENIED:
                raise SystemFailure(
                    f"{text}: check access-key and secret-key, and what they allow"
                ) from error
            raise (Unavailable if status >= 500 or status == 429 else SystemFailure)(text) from error
        except NoCredentialsError as error:
            raise FailedPrecondition(
                f"no credentials for {self.where}: set access-key and secret-key in [storage.s3]"
            ) from error
        except (BotoCoreError, BrokenBody, OSError, TimeoutError) as error:
            raise Unavailable(f"{self.where} does not answer: {error or type(error).__name__}") from error


@functools.cache
def _session() -> Any:
    """One for all clients: it holds the parsed description of S3's requests."""
    try:
        from aiobotocore.session import get_session
    except ImportError as error:
        raise FailedPrecondition(
            "storage in an object store needs aiobotocore: install it with `pip install sampan[s3]`"
        ) from error
    for name in ("botocore", "aiobotocore"):
        # at debug it tells every step of every request, with its signature
        logging.getLogger(name).setLevel(logging.INFO)
    return get_session()


def _new_client(settings: S3Settings, endpoint: str) -> Any:
    session = _session()
    from aiobotocore.config import AioConfig

    config = AioConfig(
        signature_version="s3v4",
        s3={"addressing_style": "path" if settings.path_style else "virtual"},
        # checksums of their own are Amazon's alone; we verify digests
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        retries={"mode": "standard", "max_attempts": _ATTEMPTS},
        connect_timeout=_CONNECT_TIMEOUT_S,
        read_timeout=_READ_TIMEOUT_S,
        max_pool_connections=64,
    )
    return session.create_client(
        "s3",
        endpoint_url=endpoint or None,
        region_name=settings.region,
        aws_access_key_id=settings.access_key or None,
        aws_secret_access_key=settings.secret_key or None,
        aws_session_token=settings.session_token or None,
        verify=settings.ca_file or None,
        config=config,
    )


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def moment_ns(moment: datetime) -> int:
    return int(moment.timestamp() * 1_000_000_000)
