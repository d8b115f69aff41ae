"""Routes of networks."""

from __future__ import annotations

from typing import Any

import msgspec

from sampan.base.clock import format_ns
from sampan.base.errors import InvalidArgument
from sampan.engine.network.networks import NetworkRequest, NetworkView
from sampan.model.container import EndpointConfig
from sampan.model.network import IPAMPool

from .call import Call
from .replies import Reply, empty, json_reply
from .routing import Route


class IPAM(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    driver: str = ""
    options: dict[str, str] | None = None
    config: list[IPAMPool] | None = None


class ConfigReference(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    network: str = ""


class CreateBody(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    name: str = ""
    driver: str = ""
    scope: str = ""
    enable_ipv4: bool | None = msgspec.field(default=None, name="EnableIPv4")
    enable_ipv6: bool | None = msgspec.field(default=None, name="EnableIPv6")
    ipam: IPAM | None = msgspec.field(default=None, name="IPAM")
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    config_only: bool = False
    config_from: ConfigReference | None = None
    options: dict[str, str] | None = None
    labels: dict[str, str] | None = None


class ConnectBody(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    container: str = ""
    endpoint_config: EndpointConfig | None = None


class DisconnectBody(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    container: str = ""
    force: bool = False


def render_network(view: NetworkView, *, containers: bool) -> dict[str, Any]:
    """``containers``: lists leave them out since 1.28."""
    network = view.network
    members = view.containers.items() if containers else ()
    return {
        "Name": network.name,
        "Id": network.id,
        "Created": format_ns(network.created_ns),
        "Scope": network.scope,
        "Driver": network.driver,
        "EnableIPv4": network.enable_ipv4,
        "EnableIPv6": network.enable_ipv6,
        "IPAM": {
            "Driver": "default",
            "Options": network.ipam_options,
            "Config": _pools(network.pools, none=network.driver != "bridge"),
        },
        "Internal": network.internal,
        "Attachable": network.attachable,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": {
            container_id: {
                "Name": member.name,
                "EndpointID": member.endpoint_id,
                "MacAddress": member.mac_address,
                "IPv4Address": member.ipv4_address,
                "IPv6Address": member.ipv6_address,
            }
            for container_id, member in members
        },
        "Options": network.options,
        "Labels": network.labels,
    }


def _pools(pools: list[IPAMPool], *, none: bool) -> list[dict[str, Any]] | None:
    """The plain networks show null, as Docker's do."""
    return None if none and not pools else [msgspec.to_builtins(pool) for pool in pools]


async def list_(call: Call) -> Reply:
    views = await call.engine.networks.list(call.filters())
    return json_reply([render_network(view, containers=call.version < 28) for view in views])


async def inspect(call: Call) -> Reply:
    verbose = call.text("verbose")
    if verbose and verbose.lower() not in ("1", "t", "true", "0", "f", "false"):
        raise InvalidArgument(
            f'invalid value for verbose: {verbose}: strconv.ParseBool: parsing "{verbose}": invalid syntax'
        )
    return json_reply(render_network(await call.engine.networks.inspect(call.name), containers=True))


async def create(call: Call) -> Reply:
    body = await call.decode(CreateBody, CreateBody())
    ipam = body.ipam or IPAM()
    request = NetworkRequest(
        name=body.name,
        driver=body.driver,
        scope=body.scope,
        internal=body.internal,
        attachable=body.attachable,
        ingress=body.ingress,
        config_only=body.config_only,
        config_from=body.config_from.network if body.config_from is not None else "",
        enable_ipv4=body.enable_ipv4 if call.version >= 48 else None,
        enable_ipv6=body.enable_ipv6,
        ipam_driver=ipam.driver,
        pools=ipam.config or [],
        ipam_options=ipam.options,
        options=body.options or {},
        labels=body.labels or {},
    )
    network_id = await call.engine.networks.create(request)
    return json_reply({"Id": network_id, "Warning": ""}, 201)


async def connect(call: Call) -> Reply:
    body = await call.decode(ConnectBody, ConnectBody())
    config = body.endpoint_config or EndpointConfig()
    await call.engine.networks.connect(call.name, body.container, config)
    return Reply(200)


async def disconnect(call: Call) -> Reply:
    body = await call.decode(DisconnectBody, DisconnectBody())
    await call.engine.networks.disconnect(call.name, body.container, body.force)
    return Reply(200)


async def remove(call: Call) -> Reply:
    await call.engine.networks.remove(call.name)
    return empty()


async def prune(call: Call) -> Reply:
    result = await call.engine.networks.prune(call.filters())
    return json_reply({"NetworksDeleted": result.deleted or None})


ROUTES = (
    Route("GET", "/networks", list_),
    Route("POST", "/networks/create", create),
    Route("POST", "/networks/prune", prune),
    Route("GET", "/networks/{}", inspect),
    Route("DELETE", "/networks/{}", remove),
    Route("POST", "/networks/{}/connect", connect),
    Route("POST", "/networks/{}/disconnect", disconnect),
)
