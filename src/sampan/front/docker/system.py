"""Ping, version, info, disk usage."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from sampan.base.errors import InvalidArgument
from sampan.engine.host.system_views import DiskUsage
from sampan.engine.image.views import ImageSummary

from .call import Call
from .container_views import render_status, render_summary
from .containers import image_names
from .image_views import render_image_summary
from .replies import Reply, json_reply
from .routing import Route
from .volumes import render_volume

_PING_HEADERS = {
    "Builder-Version": "1",
    "Cache-Control": "no-cache, no-store, must-revalidate",
    "Pragma": "no-cache",
    "Swarm": "inactive",
}
"""Builder-Version 1: clients use the classic ``POST /build`` instead of BuildKit's gRPC."""
DF_TYPES = ("container", "image", "volume", "build-cache")


async def ping(call: Call) -> Reply:
    return Reply(200, b"OK", "text/plain; charset=utf-8", _PING_HEADERS)


async def ping_head(call: Call) -> Reply:
    return Reply(200, b"", "text/plain; charset=utf-8", _PING_HEADERS)


async def version(call: Call) -> Reply:
    return json_reply(await call.engine.system.version())


async def info(call: Call) -> Reply:
    facts: dict[str, Any] = msgspec.to_builtins(await call.engine.system.info())
    return json_reply(info_of_version(facts, call.version))


def info_of_version(facts: dict[str, Any], version: int) -> dict[str, Any]:
    """What the fields were in older versions (moby's system router)."""
    if version < 25:
        options = facts.get("SecurityOptions") or []
        facts["SecurityOptions"] = [option.split(",")[0].removeprefix("name=") for option in options]
    if version < 44:
        for runtime in (facts.get("Runtimes") or {}).values():
            runtime.pop("status", None)
    if version < 46:
        facts.pop("Containerd", None)
    if version < 47 and facts.get("RegistryConfig") is not None:
        facts["RegistryConfig"]["AllowNondistributableArtifactsCIDRs"] = None
        facts["RegistryConfig"]["AllowNondistributableArtifactsHostnames"] = None
    if version < 49:
        facts.pop("FirewallBackend", None)
        for commit in ("ContainerdCommit", "RuncCommit", "InitCommit"):
            if facts.get(commit) is not None and facts[commit].get("ID"):
                facts[commit]["Expected"] = facts[commit]["ID"]
    if version >= 42:
        facts.pop("KernelMemory", None)
    if version < 50 or not facts.get("DiscoveredDevices"):
        facts.pop("DiscoveredDevices", None)
    if version < 50:
        facts["BridgeNfIptables"] = False
        facts["BridgeNfIp6tables"] = False
    return facts


def df_types(call: Call) -> tuple[str, ...]:
    asked = call.texts("type")
    if call.version < 42 or not asked:
        return DF_TYPES
    for one in asked:
        if one not in DF_TYPES:
            raise InvalidArgument(f"unknown object type: {one}")
    return tuple(asked)


async def df(call: Call) -> Reply:
    types = df_types(call)
    usage = await call.engine.system.df(types)
    return json_reply(await render_df(call, usage))


def _used_image(image: ImageSummary, version: int) -> dict[str, Any]:
    """As in a list, but that the number of containers was always told here."""
    return {**render_image_summary(image, version), "Containers": image.containers}


async def render_df(call: Call, usage: DiskUsage) -> dict[str, Any]:
    """Kinds that were not asked for are null."""
    containers = None
    if usage.containers is not None:
        images = await image_names(call, usage.containers)
        now_ns = time.time_ns()
        containers = [
            render_summary(
                view,
                call.version,
                images.get(view.record.id) or view.record.image_ref,
                render_status(view.state, now_ns),
            )
            for view in usage.containers
        ]
    volumes = None
    if usage.volumes is not None:
        volumes = [
            {
                **render_volume(one.volume),
                "UsageData": {"RefCount": one.ref_count, "Size": one.size_bytes},
            }
            for one in usage.volumes
        ]
    return {
        "LayersSize": usage.layers_size,
        "Images": None
        if usage.images is None
        else [_used_image(image, call.version) for image in usage.images],
        "Containers": containers,
        "Volumes": volumes,
        "BuildCache": usage.build_cache,
    }


ROUTES = (
    Route("GET", "/system/df", df),
    Route("GET", "/_ping", ping),
    Route("HEAD", "/_ping", ping_head),
    Route("GET", "/version", version),
    Route("GET", "/info", info),
)
