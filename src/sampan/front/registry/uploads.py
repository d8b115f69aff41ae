"""``/v2/<name>/blobs/uploads/``: blobs on their way in, and mounts instead of them."""

from __future__ import annotations

import re

from aiohttp import web

from sampan.registry.digests import check_digest, digest_of
from sampan.registry.errors import DigestInvalid, RangeInvalid, SizeInvalid, UploadInvalid
from sampan.registry.names import check_repository

from .call import Call
from .replies import reply, warning_pairs
from .routing import route

_SPAN = re.compile(r"(?:bytes[ =])?([0-9]{1,18})-([0-9]{1,18})(?:/.*)?")
"""The specification's form, and RFC 9110's, which some clients send."""


async def start(call: Call) -> web.StreamResponse:
    """A session, a whole blob (``digest``), or another repository's (``mount``)."""
    call.registry.context.check_writable(call.name)
    mount, digest = call.text("mount"), call.text("digest")
    if mount and await _mounted(call, mount):
        return _created(call, mount)
    if digest and not mount:
        check_digest(digest)
        empty = digest == digest_of(b"", digest.partition(":")[0])
        # without a body a client says what it is going to send, and asks for a session
        if call.content_length != 0 or empty:
            length = call.content_length
            await call.registry.uploads.receive(call.name, digest, call.body(), call.actor, length)
            return _created(call, digest)
    algorithm = call.text("digest-algorithm") or (digest or mount).partition(":")[0] or "sha256"
    upload_id = await call.registry.uploads.start(call.name, algorithm)
    return _accepted(call, upload_id, 0)


async def _mounted(call: Call, digest: str) -> bool:
    check_digest(digest)
    source = call.text("from")
    if source:
        check_repository(source)
    link = await call.registry.blobs.mount(call.name, digest, source, call.may_pull, call.actor)
    return link is not None


async def status(call: Call) -> web.StreamResponse:
    size = await call.registry.uploads.size(call.name, call.reference)
    return reply(204, _session(call, call.reference, size))


async def patch(call: Call) -> web.StreamResponse:
    size = await _append(call)
    return _accepted(call, call.reference, size)


async def finish(call: Call) -> web.StreamResponse:
    digest = call.text("digest")
    if not digest:
        raise DigestInvalid("the digest parameter is missing: it ends an upload")
    check_digest(digest)
    if call.content_length != 0:
        await _append(call)
    await call.registry.uploads.finish(call.name, call.reference, digest, call.actor)
    return _created(call, digest)


async def _append(call: Call) -> int:
    return await call.registry.uploads.append(
        call.name, call.reference, _offset(call), call.body(), call.content_length
    )


async def cancel(call: Call) -> web.StreamResponse:
    await call.registry.uploads.cancel(call.name, call.reference)
    return reply(204)


def _offset(call: Call) -> int | None:
    """Where the chunk begins; None: where the upload ends. Raises UploadInvalid, SizeInvalid."""
    header = call.header("Content-Range")
    if not header:
        return None
    found = _SPAN.fullmatch(header.strip())
    if found is None:
        raise UploadInvalid(f"invalid Content-Range {header[:80]!r}: want <first>-<last>")
    first, last = int(found[1]), int(found[2])
    length = call.content_length
    if length is not None and last - first + 1 != length:
        raise SizeInvalid(f"Content-Range {header[:80]!r} and a Content-Length of {length} do not agree")
    return first


def session_pairs(call: Call, error: RangeInvalid) -> list[tuple[str, str]]:
    """With a 416: where to go on."""
    return _session(call, call.reference, error.size_bytes)


def _session(call: Call, upload_id: str, size: int) -> list[tuple[str, str]]:
    return [
        ("Location", f"/v2/{call.name}/blobs/uploads/{upload_id}"),
        # inclusive, and nothing yet looks as one byte does: so have all registries had it
        ("Range", f"0-{max(size - 1, 0)}"),
        ("Docker-Upload-UUID", upload_id),
    ]


def _accepted(call: Call, upload_id: str, size: int) -> web.StreamResponse:
    pairs = _session(call, upload_id, size)
    return reply(202, [*pairs, *warning_pairs(call.registry.context.notices.warnings(call.name))])


def _created(call: Call, digest: str) -> web.StreamResponse:
    return reply(201, [("Location", f"/v2/{call.name}/blobs/{digest}"), ("Docker-Content-Digest", digest)])


ROUTES = (
    route("(.+)/blobs/uploads/?", POST=(start, "push")),
    route(
        "(.+)/blobs/uploads/([^/]+)",
        GET=(status, "push"),
        PATCH=(patch, "push"),
        PUT=(finish, "push"),
        DELETE=(cancel, "push"),
    ),
)
