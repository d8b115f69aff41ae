"""Routes of images."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from sampan.base.errors import InvalidArgument
from sampan.model.container import ContainerConfig

from . import registries
from .call import Call
from .decoding import decode_body
from .image_views import render_image, render_image_summary
from .progress import send_progress
from .replies import Reply, empty, json_reply
from .routing import Route
from .streams import primed, send_all

TAR = "application/x-tar"


class Platform(msgspec.Struct, frozen=True, kw_only=True):
    """OCI's platform object, as clients from 1.48 on send it in the query."""

    architecture: str = ""
    os: str = ""
    variant: str = ""
    os_version: str = msgspec.field(default="", name="os.version")


def platform_text(call: Call, since: int, key: str = "platform") -> str:
    """``linux/arm64/v8`` from the JSON form; "" when absent or before the version that brought it."""
    values = platform_texts(call, since, key)
    if len(values) > 1:
        raise InvalidArgument("multiple platform parameters not supported")
    return values[0] if values else ""


def platform_texts(call: Call, since: int, key: str) -> list[str]:
    """As :func:`platform_text`, where several may be named."""
    if call.version < since:
        return []
    return [_platform_text(one) for one in call.texts(key) if one]


def _platform_text(value: str) -> str:
    if not value.startswith("{"):
        return value
    try:
        platform = msgspec.json.decode(value, type=Platform)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidArgument(f"failed to parse platform: {error}") from None
    if not platform.os or not platform.architecture:
        if platform.variant and not platform.os and not platform.architecture:
            raise InvalidArgument("optional platform fields provided, but OS and Architecture are missing")
        raise InvalidArgument("both OS and Architecture must be provided")
    return "/".join(filter(None, (platform.os, platform.architecture, platform.variant)))


async def list_(call: Call) -> Reply:
    filters = call.filters()
    if call.version < 41 and call.text("filter"):
        filters.setdefault("reference", []).append(call.text("filter"))
    images = await call.engine.images.list(
        filters,
        all=call.flag("all"),
        shared_size=call.version >= 42 and call.flag("shared-size"),
        digests=call.flag("digests"),
        manifests=call.version >= 47 and call.flag("manifests"),
    )
    return json_reply([render_image_summary(image, call.version) for image in images])


_OLD_COMPOSE = 44
"""Compose 1.29 asks with whatever version is the newest, and reads ContainerConfig, which API 1.45 left out:
without it it recreates no container."""


async def inspect(call: Call) -> Reply:
    manifests = call.version >= 48 and call.flag("manifests")
    platform = platform_text(call, 49)
    if manifests and platform:
        raise InvalidArgument("conflicting options: manifests and platform options cannot both be set")
    found = await call.engine.images.inspect(call.name, manifests, platform)
    old = call.header("User-Agent").startswith("docker-compose/1.")
    return json_reply(render_image(found, min(call.version, _OLD_COMPOSE) if old else call.version))


async def history(call: Call) -> Reply:
    return json_reply(list(await call.engine.images.history(call.name, platform_text(call, 48))))


async def tag(call: Call) -> Reply:
    repo = call.text("repo")
    if not repo:
        raise InvalidArgument("repository name must have at least one component")
    await call.engine.images.tag(call.name, repo, call.text("tag"))
    return empty(201)


async def remove(call: Call) -> Reply:
    if not call.name.strip():
        raise InvalidArgument("image name cannot be blank")
    platforms = platform_texts(call, 50, "platforms")
    removed = await call.engine.images.remove(call.name, call.flag("force"), call.flag("noprune"), platforms)
    return json_reply(list(removed))


async def prune(call: Call) -> Reply:
    return json_reply(await call.engine.images.prune(call.filters()))


async def create(call: Call) -> web.StreamResponse:
    """Pull, or import of an archive."""
    if call.text("fromImage"):
        return await registries.pull(call, platform_text(call, 32))
    source = call.text("fromSrc")
    message = call.text("message") or f"Imported from {source}"
    lines = call.engine.images.import_(
        call.chunks(),
        repo=call.text("repo"),
        tag=call.text("tag"),
        message=message,
        changes=call.texts("changes"),
        platform=platform_text(call, 32),
        source=source or "-",
    )
    return await send_progress(call, lines)


async def push(call: Call) -> web.StreamResponse:
    return await registries.push(call, platform_text(call, 46))


async def load(call: Call) -> web.StreamResponse:
    lines = call.engine.images.load(
        call.chunks(), quiet=call.flag("quiet", True), platform=platform_text(call, 48)
    )
    return await send_progress(call, lines, errors_in_stream=True)


async def _save(call: Call, names: list[str]) -> web.StreamResponse:
    source = await primed(call.engine.images.save(names, platform_text(call, 48)))
    return await send_all(call, source, TAR)


async def save_many(call: Call) -> web.StreamResponse:
    return await _save(call, call.texts("names"))


async def save_one(call: Call) -> web.StreamResponse:
    return await _save(call, [call.name])


async def commit(call: Call) -> Reply:
    body = await call.json_body()
    config: Any = decode_body(body, ContainerConfig) if body.strip() not in (b"", b"null") else None
    image_id = await call.engine.commits.commit(
        call.text("container"),
        call.text("repo"),
        call.text("tag"),
        comment=call.text("comment"),
        author=call.text("author"),
        pause=call.flag("pause", True),
        changes=call.texts("changes"),
        config=config,
    )
    return json_reply({"Id": image_id}, 201)


ROUTES = (
    Route("GET", "/images/json", list_),
    Route("GET", "/images/get", save_many),
    Route("POST", "/images/create", create),
    Route("POST", "/images/load", load),
    Route("POST", "/images/prune", prune),
    Route("POST", "/commit", commit),
    Route("POST", "/images/{}/push", push),
    Route("GET", "/images/{}/json", inspect),
    Route("GET", "/images/{}/history", history),
    Route("GET", "/images/{}/get", save_one),
    Route("POST", "/images/{}/tag", tag),
    Route("DELETE", "/images/{}", remove),
)

ARCHIVES = frozenset((save_one, save_many, load))
"""What serves a few older versions of the API than the rest."""
