"""``docker cp``, ``diff`` and ``export``."""

from __future__ import annotations

import base64
from typing import Any

from aiohttp import web

from sampan.base.clock import format_ns
from sampan.base.errors import InvalidArgument

from .call import Call
from .replies import Reply, encode, json_reply
from .routing import Route
from .streams import primed, send_all

TAR = "application/x-tar"


def stat_header(stat: Any) -> dict[str, str]:
    """The file's facts as base64 of JSON. ``mode`` is Go's os.FileMode."""
    value = {
        "name": stat.name,
        "size": stat.size,
        "mode": stat.mode,
        "mtime": format_ns(stat.mtime_ns),
        "linkTarget": stat.link_target,
    }
    return {"X-Docker-Container-Path-Stat": base64.b64encode(encode(value)).decode()}


def _path(call: Call) -> str:
    path = call.text("path")
    if not path:
        raise InvalidArgument("bad parameter: pathcannot be empty")
    return path


async def head(call: Call) -> Reply:
    stat = await call.engine.archive.stat(call.name, _path(call))
    return Reply(200, b"", "", stat_header(stat))


async def get(call: Call) -> web.StreamResponse:
    source, stat = await call.engine.archive.get(call.name, _path(call))
    return await send_all(call, source, TAR, stat_header(stat))


async def put(call: Call) -> Reply:
    await call.engine.archive.put(
        call.name,
        _path(call),
        call.chunks(),
        no_overwrite_dir_non_dir=call.flag("noOverwriteDirNonDir"),
        copy_uid_gid=call.flag("copyUIDGID"),
    )
    return Reply(200)


async def changes(call: Call) -> Reply:
    found = await call.engine.archive.changes(call.name)
    return json_reply([{"Kind": one.kind, "Path": one.path} for one in found] or None)


async def export(call: Call) -> web.StreamResponse:
    source = await primed(call.engine.archive.export(call.name))
    return await send_all(call, source, "application/octet-stream")


ROUTES = (
    Route("HEAD", "/containers/{}/archive", head),
    Route("GET", "/containers/{}/archive", get),
    Route("PUT", "/containers/{}/archive", put),
    Route("GET", "/containers/{}/changes", changes),
    Route("GET", "/containers/{}/export", export),
)
