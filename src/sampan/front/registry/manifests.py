"""``/v2/<name>/manifests/<tag or digest>``: pull, push, delete; and who refers to one."""

from __future__ import annotations

from aiohttp import web

from sampan.registry.contents import MANIFEST_LIMIT_BYTES, OCI_INDEX
from sampan.registry.errors import ManifestTooLarge
from sampan.registry.manifests import Condition, Pushed
from sampan.store.registry.manifests import ManifestRow

from .call import Call
from .conditional import etags, not_modified
from .paging import link
from .replies import encode, head_reply, reply, warning_pairs
from .routing import route
from .views import DescriptorView, IndexView


async def get(call: Call) -> web.StreamResponse:
    stored = await call.registry.manifests.get(call.name, call.reference)
    pairs = [
        ("Docker-Content-Digest", stored.digest),
        ("ETag", f'"{stored.digest}"'),
        ("Vary", "Accept"),
        *warning_pairs(call.registry.context.notices.warnings(call.name)),
    ]
    if not_modified(call, stored.digest):
        return reply(304, pairs)
    if call.request.method == "HEAD":
        return head_reply(pairs, stored.size_bytes, stored.media_type)
    call.registry.manifests.pulled(call.name, call.reference, stored, call.actor)
    return reply(200, pairs, stored.body, stored.media_type)


async def put(call: Call) -> web.StreamResponse:
    call.registry.context.check_writable(call.name)
    body = await call.whole_body(
        MANIFEST_LIMIT_BYTES, ManifestTooLarge(f"manifest is larger than {MANIFEST_LIMIT_BYTES} bytes")
    )
    tags = call.query.get("tag", [])
    pushed = call.registry.manifests.put(
        call.name,
        call.reference,
        body,
        call.header("Content-Type"),
        call.actor,
        tags=tags,
        condition=Condition(
            match=etags(call.header("If-Match")), none_match=etags(call.header("If-None-Match"))
        ),
    )
    pairs = [
        ("Location", f"/v2/{call.name}/manifests/{pushed.digest}"),
        ("Docker-Content-Digest", pushed.digest),
        *warning_pairs([*_warnings(pushed), *call.registry.context.notices.warnings(call.name)]),
    ]
    if pushed.subject:
        pairs.append(("OCI-Subject", pushed.subject))
    if tags:
        pairs.append(("OCI-Tag", ", ".join(pushed.tags)))
    return reply(201, pairs)


def _warnings(pushed: Pushed) -> list[str]:
    if not pushed.absent:
        return []
    return [f"{len(pushed.absent)} parts of this manifest are not in this repository"]


async def delete(call: Call) -> web.StreamResponse:
    if ":" in call.reference:
        call.registry.manifests.delete(call.name, call.reference, call.actor)
    else:
        call.registry.tags.delete(call.name, call.reference, call.actor)
    return reply(202)


async def referrers(call: Call) -> web.StreamResponse:
    wanted = call.text("artifactType") or None
    page = call.registry.referrers.page(call.name, call.reference, wanted, call.text("last"))
    pairs = [("OCI-Filters-Applied", "artifactType")] if wanted else []
    if page.more:
        pairs.append(link(call.path, last=page.manifests[-1].digest, artifactType=wanted or ""))
    body = encode(IndexView(manifests=[_descriptor(row) for row in page.manifests]))
    if call.request.method == "HEAD":
        return head_reply(pairs, len(body), OCI_INDEX)
    return reply(200, pairs, body, OCI_INDEX)


def _descriptor(row: ManifestRow) -> DescriptorView:
    return DescriptorView(
        media_type=row.media_type,
        digest=row.digest,
        size=row.size_bytes,
        artifact_type=row.artifact_type,
        annotations=row.annotations,
    )


ROUTES = (
    route("(.+)/manifests/([^/]+)", GET=(get, "pull"), PUT=(put, "push"), DELETE=(delete, "delete")),
    route("(.+)/referrers/([^/]+)", GET=(referrers, "pull")),
)
