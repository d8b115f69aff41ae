"""Routes of containers that answer at once; streams are in ``streams``."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec
from aiohttp import web

from sampan.base.errors import InvalidArgument, SampanError
from sampan.engine.container.views import ContainerView, HostConfigUpdate

from .call import Call
from .container_views import SummaryCache, render_inspect
from .create import decode_create
from .decoding import InvalidBody
from .listings import Answer, Answers, StandingImages, holds_until_ns
from .replies import JSON, Reply, Stream, empty, encode, json_reply, raw_json
from .routing import Route

START_BODY_LIMIT_BYTES = 7
"""A JSON object with anything in it is longer (moby#17799 ended host configurations at start)."""

_summaries = SummaryCache(encode)
_answers = Answers()


class CreateReply(msgspec.Struct, frozen=True, rename="pascal"):
    id: str
    warnings: list[str]


async def create(call: Call) -> Reply:
    body = await call.json_body()
    if not body:
        raise InvalidBody("got EOF while reading request body")
    request = decode_create(body, call.version)
    platform = call.text("platform") if call.version >= 41 else ""
    container_id, warnings = await call.engine.containers.create(
        call.text("name"), request.config, request.host, request.networks, platform
    )
    return json_reply(CreateReply(container_id, [*warnings, *request.warnings]), 201)


async def list_(call: Call) -> Reply:
    filters = call.filters()
    for legacy in ("since", "before"):
        value = call.text(legacy)
        if value:
            filters.setdefault(legacy, []).append(value)
    all_, limit, size = call.flag("all"), max(call.number("limit") or 0, 0), call.flag("size")
    generation = 0 if filters or size else call.engine.containers.generation
    question = (all_, limit, call.version >= 46)
    known = _answers.find(question, generation, time.time_ns())
    if known is not None and await _stand_as_before(call, known.images):
        return raw_json(known.body)
    views = call.engine.containers.list(all_, limit, False, filters)
    if size:
        views = [await call.engine.containers.with_size(view) for view in views]
    now_ns = time.time_ns()
    current = await _standing_images(call, views)
    body = _summaries.render(views, call.version, _asked_images(views, current))
    if generation:
        _answers.keep(question, generation, Answer(body, current, holds_until_ns(views, now_ns)))
    return raw_json(body)


async def image_names(call: Call, views: list[ContainerView]) -> dict[str, str]:
    """By container: the image's id, where the name it was made from now leads to other images or none."""
    return _asked_images(views, await _standing_images(call, views))


async def _stand_as_before(call: Call, images: StandingImages) -> bool:
    for key, stands in images.items():
        if await call.engine.images.stands_for(*key) != stands:
            return False
    return True


async def _standing_images(call: Call, views: list[ContainerView]) -> StandingImages:
    """By the name that was asked for and the image: whether the one still stands for the other."""
    current: StandingImages = {}
    for view in views:
        record = view.record
        key = (record.image_ref, record.image_id)
        if key not in current and record.image_ref != record.image_id:
            current[key] = await call.engine.images.stands_for(*key)
    return current


def _asked_images(views: list[ContainerView], current: StandingImages) -> dict[str, str]:
    if all(current.values()):
        return {}
    return {
        view.record.id: view.record.image_id
        for view in views
        if not current.get((view.record.image_ref, view.record.image_id), True)
    }


async def inspect(call: Call) -> Reply:
    view = await call.engine.containers.inspect(call.name, call.flag("size"))
    return json_reply(render_inspect(view, call.version))


async def start(call: Call) -> Reply:
    request = call.request
    length = request.content_length
    if request.body_exists and (length is None or length > START_BODY_LIMIT_BYTES):
        raise InvalidArgument(
            "starting container with non-empty request body was deprecated since API v1.22 "
            "and removed in v1.24"
        )
    await call.engine.containers.start(call.name, call.text("detachKeys"))
    return empty()


def _stop_options(call: Call) -> tuple[int | None, str]:
    signal = call.text("signal") if call.version >= 42 else ""
    return call.number("t"), signal


async def stop(call: Call) -> Reply:
    await call.engine.containers.stop(call.name, *_stop_options(call))
    return empty()


async def restart(call: Call) -> Reply:
    await call.engine.containers.restart(call.name, *_stop_options(call))
    return empty()


async def kill(call: Call) -> Reply:
    prefix = f"cannot kill container: {call.name}: "
    try:
        await call.engine.containers.kill(call.name, call.text("signal"))
    except SampanError as error:
        if not error.message.lower().startswith("cannot kill container"):
            error.message = prefix + error.message
        raise
    return empty()


async def pause(call: Call) -> Reply:
    await call.engine.containers.pause(call.name)
    return empty()


async def unpause(call: Call) -> Reply:
    await call.engine.containers.unpause(call.name)
    return empty()


async def rename(call: Call) -> Reply:
    await call.engine.containers.rename(call.name, call.text("name"))
    return empty()


async def update(call: Call) -> Reply:
    changes = await call.decode(HostConfigUpdate, HostConfigUpdate())
    if call.version < 40:
        changes = msgspec.structs.replace(changes, pids_limit=None)
    warnings = await call.engine.containers.update(call.name, changes)
    return json_reply({"Warnings": warnings or None})


async def remove(call: Call) -> Reply:
    await call.engine.containers.remove(
        call.name, force=call.flag("force"), volumes=call.flag("v"), link=call.flag("link")
    )
    return empty()


async def prune(call: Call) -> Reply:
    result = await call.engine.containers.prune(call.filters())
    return json_reply({"ContainersDeleted": result.deleted or None, "SpaceReclaimed": result.space_reclaimed})


async def top(call: Call) -> Reply:
    result = await call.engine.containers.top(call.name, call.text("ps_args"))
    return json_reply({"Processes": result.processes, "Titles": result.titles})


def console_size(call: Call) -> tuple[int, int]:
    """Height and width of a resize. Raises InvalidArgument."""
    return _dimension(call, "h", "height"), _dimension(call, "w", "width")


def _dimension(call: Call, key: str, label: str) -> int:
    text = call.text(key)
    digits = text.removeprefix("-")
    if not digits.isdecimal():
        raise InvalidArgument(f'invalid resize {label} "{text}": invalid syntax')
    if digits != text or int(digits) >= 1 << 32:
        raise InvalidArgument(f'invalid resize {label} "{text}": value out of range')
    return int(digits)


async def resize(call: Call) -> Reply:
    height, width = console_size(call)
    await call.engine.containers.resize(call.name, height, width)
    return Reply(200)


async def wait(call: Call) -> web.StreamResponse:
    condition = call.text("condition") if call.version >= 30 else ""
    if condition not in ("", "not-running", "next-exit", "removed"):
        raise InvalidArgument(f'invalid condition: "{condition}"')
    waiter = await call.engine.containers.wait(call.name, condition or "not-running")
    stream = Stream(JSON)
    if call.version >= 30 and not (isinstance(waiter, asyncio.Future) and waiter.done()):
        # The head tells the client that it may start the container now: nothing will be missed.
        await stream.prepare(call.request)
    with call.ended_with_client():
        result = await waiter
    body: dict[str, Any] = {"StatusCode": result.exit_code}
    if result.error:
        body["Error"] = {"Message": result.error}
    if not stream.started:
        return json_reply(body)
    await stream.send(encode(body) + b"\n")
    return stream


ROUTES = (
    Route("GET", "/containers/json", list_),
    Route("POST", "/containers/create", create),
    Route("POST", "/containers/prune", prune),
    Route("GET", "/containers/{}/json", inspect),
    Route("GET", "/containers/{}/top", top),
    Route("POST", "/containers/{}/start", start),
    Route("POST", "/containers/{}/stop", stop),
    Route("POST", "/containers/{}/restart", restart),
    Route("POST", "/containers/{}/kill", kill),
    Route("POST", "/containers/{}/pause", pause),
    Route("POST", "/containers/{}/unpause", unpause),
    Route("POST", "/containers/{}/rename", rename),
    Route("POST", "/containers/{}/update", update),
    Route("POST", "/containers/{}/resize", resize),
    Route("POST", "/containers/{}/wait", wait),
    Route("DELETE", "/containers/{}", remove),
)
