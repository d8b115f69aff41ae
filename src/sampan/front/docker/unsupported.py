"""What Docker Engine has and Sampan does not, or not yet. docs/compatibility.md is made from this table."""

from __future__ import annotations

from typing import NamedTuple

from aiohttp import web

from sampan.base.errors import NotFound, NotImplementedYet, Unavailable

from .call import Call
from .replies import Reply, json_reply
from .routing import Handler, Route

NO_SWARM = (
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" '
    "to connect this node to swarm and try again."
)
NOT_IN_SWARM = "This node is not part of a swarm"


class Unsupported(NamedTuple):
    method: str
    path: str
    reason: str


LATER: tuple[Unsupported, ...] = (
    Unsupported("POST", "/build", "building images is not implemented yet"),
    Unsupported("POST", "/build/cancel", "building images is not implemented yet"),
    Unsupported("POST", "/session", "BuildKit sessions are not implemented yet"),
    Unsupported("POST", "/grpc", "BuildKit's gRPC is not implemented yet"),
)
"""Answered with 501 until their issue is done."""

NEVER: tuple[Unsupported, ...] = (
    Unsupported("POST", "/swarm/init", "Sampan has no Swarm mode; use Kubernetes for more than one machine"),
    Unsupported("POST", "/swarm/join", "Sampan has no Swarm mode; use Kubernetes for more than one machine"),
    Unsupported("POST", "/plugins/pull", "Docker plugins are not supported"),
    Unsupported("POST", "/plugins/create", "Docker plugins are not supported"),
    Unsupported("GET", "/plugins/privileges", "Docker plugins are not supported"),
    Unsupported("GET", "/containers/{}/checkpoints", "checkpoints are not supported"),
    Unsupported("POST", "/containers/{}/checkpoints", "checkpoints are not supported"),
)
"""Answered with 501 by decision."""

SWARM_PATHS: tuple[tuple[str, str], ...] = (
    ("GET", "/swarm"),
    ("POST", "/swarm/update"),
    ("GET", "/swarm/unlockkey"),
    ("POST", "/swarm/unlock"),
    ("GET", "/nodes"),
    ("GET", "/nodes/{}"),
    ("DELETE", "/nodes/{}"),
    ("POST", "/nodes/{}/update"),
    ("GET", "/services"),
    ("POST", "/services/create"),
    ("GET", "/services/{}"),
    ("DELETE", "/services/{}"),
    ("POST", "/services/{}/update"),
    ("GET", "/services/{}/logs"),
    ("GET", "/tasks"),
    ("GET", "/tasks/{}"),
    ("GET", "/tasks/{}/logs"),
    ("GET", "/secrets"),
    ("POST", "/secrets/create"),
    ("GET", "/secrets/{}"),
    ("DELETE", "/secrets/{}"),
    ("POST", "/secrets/{}/update"),
    ("GET", "/configs"),
    ("POST", "/configs/create"),
    ("GET", "/configs/{}"),
    ("DELETE", "/configs/{}"),
    ("POST", "/configs/{}/update"),
)
"""Answered with 503, as by a Docker Engine that is not a Swarm manager."""

PLUGIN_PATHS: tuple[tuple[str, str], ...] = (
    ("GET", "/plugins/{}/json"),
    ("DELETE", "/plugins/{}"),
    ("POST", "/plugins/{}/enable"),
    ("POST", "/plugins/{}/disable"),
    ("POST", "/plugins/{}/upgrade"),
    ("POST", "/plugins/{}/push"),
    ("POST", "/plugins/{}/set"),
)
"""There are no plugins, so none of these names one."""


class PluginNotFound(NotFound):
    def __init__(self, name: str) -> None:
        super().__init__(f'plugin "{name}" not found')


async def _no_swarm(call: Call) -> web.StreamResponse:
    raise Unavailable(NO_SWARM)


async def _not_in_swarm(call: Call) -> web.StreamResponse:
    raise Unavailable(NOT_IN_SWARM)


async def _volume_update(call: Call) -> web.StreamResponse:
    raise Unavailable("volume update only valid for cluster volumes, but swarm is unavailable")


async def _no_such_plugin(call: Call) -> web.StreamResponse:
    raise PluginNotFound(call.name)


async def _no_plugins(call: Call) -> web.StreamResponse:
    call.filters()
    return json_reply([])


async def _nothing_cached(call: Call) -> Reply:
    """There is no build cache before there is a builder; ``docker system prune`` asks anyway."""
    call.filters()
    return json_reply({"CachesDeleted": None, "SpaceReclaimed": 0})


def _refusal(entry: Unsupported) -> Handler:
    async def refuse(call: Call) -> web.StreamResponse:
        raise NotImplementedYet(f"{entry.method} {entry.path.replace('{}', '{name}')}: {entry.reason}")

    return refuse


ROUTES: tuple[Route, ...] = (
    *(Route(entry.method, entry.path, _refusal(entry)) for entry in (*LATER, *NEVER)),
    *(Route(method, path, _no_swarm) for method, path in SWARM_PATHS),
    *(Route(method, path, _no_such_plugin) for method, path in PLUGIN_PATHS),
    Route("POST", "/swarm/leave", _not_in_swarm),
    Route("PUT", "/volumes/{}", _volume_update),
    Route("GET", "/plugins", _no_plugins),
    Route("POST", "/build/prune", _nothing_cached),
)


def markdown() -> str:
    """The table of docs/compatibility.md, between its ``endpoints`` marks."""
    groups: dict[tuple[str, str], list[str]] = {}
    for later, entries in (("501, later", LATER), ("501", NEVER)):
        for entry in entries:
            path = entry.path.replace("{}", "{name}")
            groups.setdefault((later, entry.reason), []).append(f"`{entry.method} {path}`")
    lines = ["| endpoints | answer | text |", "|---|---|---|"]
    lines += [f"| {', '.join(paths)} | {status} | {reason} |" for (status, reason), paths in groups.items()]
    return "\n".join(lines)
