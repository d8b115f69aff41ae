"""``/v2/<name>/blobs/<digest>``: pull, whole or in part, and delete."""

from __future__ import annotations

import io
import os
from collections.abc import AsyncIterator, Callable

from aiohttp import web

from sampan.registry.digests import check_digest
from sampan.registry.errors import BlobUnknown
from sampan.store.registry.blobs import BlobLink

from .call import Call
from .conditional import Span, not_modified, wanted_span
from .replies import head_reply, headers, reply, warning_pairs
from .routing import route
from .sending import FileResponse, PiecesResponse

CONTENT_TYPE = "application/octet-stream"
CACHE_CONTROL = "private, max-age=31536000, immutable"
"""What a digest names never changes."""


async def get(call: Call) -> web.StreamResponse:
    digest = call.reference
    check_digest(digest)
    incoming = None if call.header("Range") else await call.registry.blobs.incoming(call.name, digest)
    if incoming is not None:
        return _pass_on(call, digest, *incoming)
    link = await call.registry.blobs.require(call.name, digest)
    pairs = _pairs(call, digest)
    if not_modified(call, digest):
        return reply(304, pairs)
    if call.request.method == "HEAD":
        return head_reply(pairs, link.size_bytes, CONTENT_TYPE)
    if (url := await call.registry.storage.redirect(digest)) is not None:
        call.registry.blobs.pulled(link, call.actor)
        return reply(307, [*pairs, ("Location", url)])
    span = wanted_span(call, digest, link.size_bytes)
    if span is not None:
        pairs.append(("Content-Range", f"bytes {span.start}-{span.end - 1}/{link.size_bytes}"))
    answer = _content(call, digest, span or Span(0, link.size_bytes), 206 if span else 200, pairs)
    call.registry.blobs.pulled(link, call.actor)
    return answer


def _pairs(call: Call, digest: str) -> list[tuple[str, str]]:
    return [
        ("Docker-Content-Digest", digest),
        ("ETag", f'"{digest}"'),
        ("Accept-Ranges", "bytes"),
        ("Cache-Control", CACHE_CONTROL),
        *warning_pairs(call.registry.context.notices.warnings(call.name)),
    ]


def _pass_on(
    call: Call, digest: str, size_bytes: int, pieces: Callable[[], AsyncIterator[bytes]]
) -> web.StreamResponse:
    """What an upstream is sending us at this moment."""
    pairs = _pairs(call, digest)
    if call.request.method == "HEAD":
        return head_reply(pairs, size_bytes, CONTENT_TYPE)
    link = BlobLink(repository=call.name, digest=digest, size_bytes=size_bytes, touched_ns=0)
    call.registry.blobs.pulled(link, call.actor)
    return PiecesResponse(200, headers([*pairs, ("Content-Type", CONTENT_TYPE)]), pieces(), size_bytes)


def _content(
    call: Call, digest: str, span: Span, status: int, pairs: list[tuple[str, str]]
) -> web.StreamResponse:
    fields = headers([*pairs, ("Content-Type", CONTENT_TYPE)])
    count = span.end - span.start
    path = None if call.caller.secure else call.registry.storage.local_path(digest)
    if path is None:
        pieces = call.registry.storage.read(digest, span.start, span.end)
        return PiecesResponse(status, fields, pieces, count)
    try:
        source = io.FileIO(path, opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW))
    except FileNotFoundError:
        raise BlobUnknown(f"blob {digest} is lost: push it again", {"digest": digest}) from None
    return FileResponse(status, fields, source, span.start, count)


async def delete(call: Call) -> web.StreamResponse:
    check_digest(call.reference)
    call.registry.blobs.delete(call.name, call.reference, call.actor)
    return reply(202, [("Docker-Content-Digest", call.reference)])


ROUTES = (route("(.+)/blobs/([^/]+)", GET=(get, "pull"), DELETE=(delete, "delete")),)
