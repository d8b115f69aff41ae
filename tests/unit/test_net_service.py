"""The service of networks over a stack that touches no kernel."""

from __future__ import annotations

from typing import Any

import pytest

from sampan.base.errors import Conflict, Forbidden, InvalidArgument, NotFound, NotImplementedYet
from sampan.engine.events import Events
from sampan.engine.network.networks import NetworkRequest, Networks
from sampan.model.container import Endpoint, EndpointConfig, PortBinding
from sampan.model.network import IPAMPool
from sampan.net.plain import PlainDriver
from sampan.net.ports import PublishedPort
from sampan.net.publishing import bindings_of, requests_of
from sampan.net.settings import NetworkSettings
from sampan.net.stack import NetworkStack, default_bridge
from sampan.store.db import Database
from sampan.store.networks import NetworkTable


class Service:
    def __init__(self, db: Database) -> None:
        self.table = NetworkTable(db)
        self.stack = NetworkStack(NetworkSettings(bridge="none", firewall="off", run_dir="/nonexistent"))
        self.stack.drivers["bridge"] = PlainDriver("bridge")
        self.events: list[tuple[str, str, dict[str, str]]] = []
        events = Events()
        original = events.publish

        def publish(type_: str, action: str, actor_id: str, attributes: dict[str, str]) -> None:
            self.events.append((action, actor_id, attributes))
            original(type_, action, actor_id, attributes)

        events.publish = publish  # type: ignore[method-assign]
        self.networks = Networks(self.table, self.stack, events)
        self.networks.open()


@pytest.fixture
def db() -> Any:
    with Database(":memory:") as opened:
        yield opened


@pytest.fixture
def service(db: Database) -> Service:
    return Service(db)


async def _names(service: Service, **filters: list[str]) -> list[str]:
    return sorted(view.network.name for view in await service.networks.list(filters))


async def test_predefined_networks_keep_their_ids(db: Database, service: Service) -> None:
    assert await _names(service) == ["host", "none"]
    again = Service(db).networks
    for name in ("host", "none"):
        assert again.require(name).id == service.networks.require(name).id
    assert again.require("none").driver == "null"


async def test_making_and_removing(service: Service) -> None:
    networks = service.networks
    made = await networks.create(NetworkRequest(name="front", labels={"tier": "1"}))
    assert networks.require(made[:10]).name == "front"
    assert [entry.name for entry in service.table.load()] == ["front", "host", "none"]
    with pytest.raises(Conflict, match="network with name front already exists"):
        await networks.create(NetworkRequest(name="front"))
    await networks.remove("front")
    with pytest.raises(NotFound, match="network front not found"):
        await networks.inspect("front")
    assert [(action, attributes["name"]) for action, _, attributes in service.events] == [
        ("create", "front"),
        ("destroy", "front"),
    ]


async def test_members_keep_a_network(service: Service) -> None:
    networks = service.networks
    made = await networks.create(NetworkRequest(name="front"))
    network = networks.require(made)
    endpoint, link, bound = service.stack.containers.connect(network, "c1", EndpointConfig(), {}, name="web")
    assert (link, bound) == (None, {})
    view = await networks.inspect("front")
    assert view.containers["c1"].name == "web"
    assert view.containers["c1"].endpoint_id == endpoint.endpoint_id
    with pytest.raises(Forbidden, match=r'network front has active endpoints \(name:"web" id:"'):
        await networks.remove("front")
    assert (await networks.prune({})).deleted == []
    service.stack.containers.disconnect("c1")
    service.stack.containers.disconnect("c1")
    assert (await networks.prune({"label": ["other"]})).deleted == []
    assert (await networks.prune({})).deleted == ["front"]
    assert await _names(service) == ["host", "none"]


async def test_filters(service: Service) -> None:
    first = await service.networks.create(NetworkRequest(name="front", labels={"tier": "1"}))
    await service.networks.create(NetworkRequest(name="back"))
    service.stack.containers.connect(service.networks.require("back"), "c1", EndpointConfig(), {})
    assert await _names(service, driver=["bridge"]) == ["back", "front"]
    assert await _names(service, driver=["null", "host"]) == ["host", "none"]
    assert await _names(service, name=["fro"]) == ["front"]
    assert await _names(service, id=[first[:12]]) == ["front"]
    assert await _names(service, label=["tier"]) == ["front"]
    assert await _names(service, label=["tier=2"]) == []
    assert await _names(service, scope=["swarm"]) == []
    assert await _names(service, type=["custom"]) == ["back", "front"]
    assert await _names(service, type=["builtin"]) == ["host", "none"]
    assert await _names(service, dangling=["true"]) == ["front"]
    assert await _names(service, dangling=["0"]) == ["back", "host", "none"]
    for bad in ({"type": ["x"]}, {"dangling": ["maybe"]}, {"dangling": ["1", "0"]}, {"color": ["x"]}):
        with pytest.raises(InvalidArgument):
            await service.networks.list(bad)


@pytest.mark.parametrize(
    ("request_", "error", "text"),
    [
        (NetworkRequest(name="bridge"), Forbidden, "operation is not permitted on predefined bridge network"),
        (NetworkRequest(name="x", driver="host"), Forbidden, 'only one instance of "host" network'),
        (NetworkRequest(name="x", driver="weave"), NotFound, 'could not find plugin "weave"'),
        (NetworkRequest(name="x", driver="overlay"), NotImplementedYet, "several machines"),
        (NetworkRequest(name=" "), InvalidArgument, "name is empty"),
        (
            NetworkRequest(name="x", pools=[IPAMPool(subnet="10.1.1.1/24")]),
            InvalidArgument,
            "invalid subnet 10.1.1.1/24: it should be 10.1.1.0/24",
        ),
        (
            NetworkRequest(name="x", pools=[IPAMPool(subnet="10.1.1.0/24", gateway="10.2.0.1")]),
            InvalidArgument,
            "invalid gateway 10.2.0.1",
        ),
    ],
)
async def test_what_cannot_be_made(
    service: Service, request_: NetworkRequest, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        await service.networks.create(request_)
    assert await _names(service) == ["host", "none"]


async def test_predefined_networks_stay(service: Service) -> None:
    with pytest.raises(Forbidden, match="none is a pre-defined network and cannot be removed"):
        await service.networks.remove("none")
    with pytest.raises(NotFound):
        await service.networks.connect("nowhere", "c1", EndpointConfig())
    with pytest.raises(NotImplementedYet):
        await service.networks.disconnect("host", "c1")


def test_the_default_bridge_has_dockers_options() -> None:
    settings = NetworkSettings(
        bip="10.5.0.1/24", fixed_cidr="10.5.0.128/25", default_gateway="10.5.0.9", run_dir="/nonexistent"
    )
    network = default_bridge(settings, "id", 1)
    assert network.options == {
        "com.docker.network.bridge.default_bridge": "true",
        "com.docker.network.bridge.enable_icc": "true",
        "com.docker.network.bridge.enable_ip_masquerade": "true",
        "com.docker.network.bridge.host_binding_ipv4": "0.0.0.0",
        "com.docker.network.bridge.name": "sampan0",
        "com.docker.network.driver.mtu": "1500",
    }
    assert network.pools == [
        IPAMPool(
            subnet="10.5.0.0/24",
            ip_range="10.5.0.128/25",
            gateway="10.5.0.1",
            auxiliary_addresses={"DefaultGatewayIPv4": "10.5.0.9"},
        )
    ]


def test_ports_that_differ_in_address_alone_share_a_port() -> None:
    endpoint = Endpoint(ip_address="10.0.0.2", global_ipv6_address="fd00::2")
    ports = {
        "80/tcp": [PortBinding(), PortBinding(host_ip="127.0.0.1", host_port="8080")],
        "81/tcp": [
            PortBinding(host_ip="127.0.0.1", host_port="9000-9010"),
            PortBinding(host_ip="::1", host_port="9000-9010"),
            PortBinding(host_ip="127.0.0.1", host_port="9000-9010"),
        ],
    }
    shown = [
        (request.port, request.first, request.last, [host for host, _ in request.targets])
        for request in requests_of(endpoint, ports, "0.0.0.0")
    ]
    assert shown == [
        (80, 8080, 8080, ["127.0.0.1"]),
        (81, 9000, 9010, ["127.0.0.1", "::1"]),
        (81, 9000, 9010, ["127.0.0.1"]),
        (80, 0, 0, ["0.0.0.0", "::"]),
    ]
    assert [
        request.targets for request in requests_of(endpoint, {"80/tcp": [PortBinding()]}, "10.0.0.9")
    ] == [(("10.0.0.9", "10.0.0.2"),)]


def test_bindings_are_shown_by_port() -> None:
    published = [
        PublishedPort("tcp", "0.0.0.0", 8080, "10.0.0.2", 80),
        PublishedPort("tcp", "::", 8080, "fd00::2", 80),
    ]
    assert bindings_of(published) == {
        "80/tcp": [
            PortBinding(host_ip="0.0.0.0", host_port="8080"),
            PortBinding(host_ip="::", host_port="8080"),
        ]
    }
    assert str(published[1]) == "[::]:8080:[fd00::2]:80/tcp"
