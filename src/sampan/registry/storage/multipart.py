"""Multipart uploads: objects that are put together from parts within the store."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import msgspec

from sampan.base.errors import SystemFailure

from .bucket import Bucket, ObjectMissing, moment_ns


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a multipart upload that the store has."""

    number: int
    etag: str
    size_bytes: int
    modified_ns: int = 0


class Multiparts:
    """Of one bucket. An upload is a key and the id that :meth:`start` gave."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    async def start(self, key: str) -> str:
        client = await self._bucket.client()
        with self._bucket.errors(key):
            answer = await client.create_multipart_upload(**self._bucket.place(key))
        return str(answer["UploadId"])

    async def put(self, key: str, multipart: str, number: int, data: bytes) -> Part:
        """Raises ObjectMissing when the multipart upload is gone."""
        client = await self._bucket.client()
        with self._bucket.errors(key):
            answer = await client.upload_part(
                **self._bucket.place(key), UploadId=multipart, PartNumber=number, Body=data
            )
        return Part(number=number, etag=answer["ETag"], size_bytes=len(data))

    async def copy(self, source: str, start: int, end: int, key: str, multipart: str, number: int) -> Part:
        """The bytes from ``start`` to before ``end`` of an object as a part. Raises ObjectMissing."""
        client = await self._bucket.client()
        with self._bucket.errors(source):
            answer = await client.upload_part_copy(
                **self._bucket.place(key),
                UploadId=multipart,
                PartNumber=number,
                CopySource=self._bucket.place(source),
                CopySourceRange=f"bytes={start}-{end - 1}",
            )
        etag = answer.get("CopyPartResult", {}).get("ETag")
        if not etag:
            raise SystemFailure(
                f"{self._bucket.where} cannot copy parts of objects (UploadPartCopy), which blobs above "
                "5 GiB need: use another object store for them"
            )
        return Part(number=number, etag=etag, size_bytes=end - start)

    async def parts(self, key: str, multipart: str) -> list[Part]:
        """Raises ObjectMissing."""
        client = await self._bucket.client()
        found: list[Part] = []
        marker: dict[str, int] = {}
        while True:
            with self._bucket.errors(key):
                page = await client.list_parts(**self._bucket.place(key), UploadId=multipart, **marker)
            found += [
                Part(
                    number=item["PartNumber"],
                    etag=item["ETag"],
                    size_bytes=int(item["Size"]),
                    modified_ns=moment_ns(item["LastModified"]),
                )
                for item in page.get("Parts", ())
            ]
            if not page.get("IsTruncated"):
                return found
            marker = {"PartNumberMarker": page["NextPartNumberMarker"]}

    async def complete(self, key: str, multipart: str, parts: Sequence[Part]) -> None:
        """The object appears as a whole, in place of one that was there. Raises ObjectMissing."""
        client = await self._bucket.client()
        listed = [{"ETag": part.etag, "PartNumber": part.number} for part in parts]
        with self._bucket.errors(key):
            await client.complete_multipart_upload(
                **self._bucket.place(key), UploadId=multipart, MultipartUpload={"Parts": listed}
            )

    async def all(self, prefix: str) -> list[tuple[str, str, int]]:
        """Key, id and start (ns) of the multipart uploads below ``prefix``."""
        client = await self._bucket.client()
        found: list[tuple[str, str, int]] = []
        marker: dict[str, str] = {}
        while True:
            try:
                with self._bucket.errors(prefix):
                    page = await client.list_multipart_uploads(
                        Bucket=self._bucket.settings.bucket,
                        Prefix=self._bucket.settings.prefix + prefix,
                        **marker,
                    )
            except ObjectMissing:  # gofakes3's answer when the bucket has none
                return found
            for item in page.get("Uploads", ()):
                key = item["Key"].removeprefix(self._bucket.settings.prefix)
                if key.startswith(prefix):
                    found.append((key, item["UploadId"], moment_ns(item["Initiated"])))
            if not page.get("IsTruncated"):
                return found
            marker = {
                "KeyMarker": page["NextKeyMarker"],
                "UploadIdMarker": page["NextUploadIdMarker"],
            }

    async def abort(self, key: str, multipart: str) -> None:
        """A missing one is no error."""
        client = await self._bucket.client()
        with contextlib.suppress(ObjectMissing), self._bucket.errors(key):
            await client.abort_multipart_upload(**self._bucket.place(key), UploadId=multipart)
