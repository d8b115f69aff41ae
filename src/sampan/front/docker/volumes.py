"""Routes of volumes."""

from __future__ import annotations

from typing import Any

import msgspec

from sampan.base.clock import format_ns
from sampan.model.volume import Volume

from .call import Call
from .replies import Reply, empty, json_reply
from .routing import Route


class VolumeCreate(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    name: str = ""
    driver: str = ""
    driver_opts: dict[str, str] | None = None
    labels: dict[str, str] | None = None


def render_volume(volume: Volume) -> dict[str, Any]:
    """``CreatedAt`` has whole seconds, as Docker's local driver writes it."""
    return {
        "CreatedAt": format_ns(volume.created_ns // 1_000_000_000 * 1_000_000_000),
        "Driver": volume.driver,
        "Labels": volume.labels,
        "Mountpoint": volume.mountpoint,
        "Name": volume.name,
        "Options": volume.options,
        "Scope": "local",
    }


async def list_(call: Call) -> Reply:
    volumes, warnings = await call.engine.volumes.list(call.filters())
    return json_reply({"Volumes": [render_volume(one) for one in volumes], "Warnings": warnings or None})


async def create(call: Call) -> Reply:
    body = await call.decode(VolumeCreate, VolumeCreate())
    volume = await call.engine.volumes.create(
        body.name, body.driver or "local", body.driver_opts or {}, body.labels or {}
    )
    return json_reply(render_volume(volume), 201)


async def inspect(call: Call) -> Reply:
    return json_reply(render_volume(await call.engine.volumes.inspect(call.name)))


async def remove(call: Call) -> Reply:
    await call.engine.volumes.remove(call.name, call.flag("force"))
    return empty()


async def prune(call: Call) -> Reply:
    filters = call.filters()
    if call.version < 42:
        # Named volumes too, before 1.42 let the caller choose.
        filters.setdefault("all", []).append("true")
    result = await call.engine.volumes.prune(filters)
    return json_reply({"VolumesDeleted": result.deleted or None, "SpaceReclaimed": result.space_reclaimed})


ROUTES = (
    Route("GET", "/volumes", list_),
    Route("POST", "/volumes/create", create),
    Route("POST", "/volumes/prune", prune),
    Route("GET", "/volumes/{}", inspect),
    Route("DELETE", "/volumes/{}", remove),
)
