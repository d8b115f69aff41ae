"""What Sampan offers beside Docker's API, below ``/sampan``."""

from __future__ import annotations

import msgspec
from aiohttp import web

from sampan.base.errors import InvalidArgument

from .call import Call
from .progress import send_progress
from .registries import credentials_of
from .replies import Reply, empty, json_reply
from .routing import Route


def _name(call: Call) -> str:
    name = call.text("name")
    if not name:
        raise InvalidArgument("bad parameter: name cannot be empty")
    return name


async def bootstrap(call: Call) -> web.StreamResponse:
    """``?name=busybox``; the body is BootstrapOptions of the engine, or absent."""
    from sampan.content.bootstrap import BootstrapOptions

    name = _name(call)
    options = await call.decode(BootstrapOptions, BootstrapOptions())
    return await send_progress(call, call.engine.images.bootstrap(name, options))


async def collect(call: Call) -> Reply:
    """``?dry-run=1``, ``?unused-for=SECONDS``, ``?disk-high=PERCENT&disk-low=PERCENT``; without a rule those
    of the settings."""
    from sampan.engine.image.upkeep_plan import Rules

    age_s, high, low = (call.number(key) or 0 for key in ("unused-for", "disk-high", "disk-low"))
    if not (age_s >= 0 and 0 <= low <= 100 and 0 <= high <= 100):
        raise InvalidArgument("bad parameter: unused-for is seconds, disk-high and disk-low are percentages")
    rules = Rules(unused_for_ns=age_s * 1_000_000_000, high_percent=high, low_percent=low)
    done = await call.engine.upkeep.collect(rules if rules.any else None, dry_run=call.flag("dry-run"))
    return json_reply(done)


async def manifest(call: Call) -> Reply:
    """What ``?name=`` stands for in its registry; ``&each=1``: with the manifests of an index."""
    name = _name(call)
    credentials = credentials_of(call, name)
    with call.ended_with_client():
        view = await call.engine.transfers.lists.inspect(name, credentials, each=call.flag("each"))
        return json_reply(view)


async def push_manifests(call: Call) -> web.StreamResponse:
    """``?name=``; the body is WantedList of the engine: which manifests of the registry become a list."""
    from sampan.engine.image.manifest_lists import WantedList

    name = _name(call)
    wanted = await call.decode(WantedList)
    lines = call.engine.transfers.lists.push(name, wanted, credentials_of(call, name))
    return await send_progress(call, lines)


async def disk_usage(call: Call) -> Reply:
    """What every byte below the data root belongs to."""
    return json_reply(await call.engine.system.data_root_usage())


async def explain(call: Call) -> Reply:
    """The plan of a container, line by line."""
    return json_reply({"Plan": list(await call.engine.explain(call.name))})


class LimitBody(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    container: str
    receive: str | None = None
    """``100mbit``, "" for the network's; absent: as it is."""
    send: str | None = None


async def limit(call: Call) -> Reply:
    """Bandwidth of a container on a network, from now on."""
    body = await call.decode(LimitBody)
    await call.engine.networks.limit(call.name, body.container, body.receive, body.send)
    return empty()


async def trace(call: Call) -> Reply:
    """``?from=CONTAINER&to=HOST``, with ``&port=80&protocol=tcp``: why one reaches the other, or does not."""
    from sampan.engine.network.tracer import Asked

    asked = Asked(
        host=call.text("to"), port=call.number("port") or 0, protocol=call.text("protocol") or "tcp"
    )
    return json_reply(await call.engine.tracer.trace(call.text("from"), asked))


async def graph(call: Call) -> Reply:
    """Who talks to whom."""
    return json_reply(await call.engine.traffic.graph())


ROUTES = (
    Route("GET", "/sampan/networks/trace", trace),
    Route("GET", "/sampan/networks/graph", graph),
    Route("POST", "/sampan/networks/limit/{}", limit),
    Route("POST", "/sampan/images/bootstrap", bootstrap),
    Route("POST", "/sampan/images/gc", collect),
    Route("GET", "/sampan/manifests", manifest),
    Route("POST", "/sampan/manifests/push", push_manifests),
    Route("GET", "/sampan/system/df", disk_usage),
    Route("GET", "/sampan/debug/explain/{}", explain),
)
