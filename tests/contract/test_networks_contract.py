"""What every implementation of engine.ports.Networks does: the real one in a network namespace of its own
(root), and the double that the engine's tests use."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from tests.fakes.engine import FakeNetworks
from tests.support.net_boxes import own_namespace

from sampan.base.errors import SampanError
from sampan.base.ids import new_id
from sampan.engine.ports import Networks
from sampan.model.container import EndpointConfig, PortBinding
from sampan.model.network import Network
from sampan.net.settings import NetworkSettings
from sampan.net.stack import NetworkStack, default_bridge, plain_network

PORT = {"80/tcp": [PortBinding(host_port="8080")]}


class Subject:
    def __init__(self, networks: Networks, bridge: Network, host: Network) -> None:
        self.networks = networks
        self.bridge = bridge
        self.host = host


@pytest.fixture(params=["fake", "real"])
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    if request.param == "fake":
        fake = FakeNetworks()
        yield Subject(fake, fake.networks["bridge"], fake.networks["host"])
        return
    if os.geteuid() != 0:
        pytest.skip("makes a network namespace")
    with own_namespace():
        stack = NetworkStack(NetworkSettings(bridge="contract0", run_dir="/nonexistent"))
        stack.open()
        bridge = stack.ensure(default_bridge(stack.settings, new_id(), 1))
        host = stack.ensure(plain_network("host", new_id(), 1))
        yield Subject(stack.containers, bridge, host)
        stack.let_go()


def test_a_bridge_gives_an_address_and_a_link(subject: Subject) -> None:
    endpoint, link, bound = subject.networks.connect(subject.bridge, "c1", EndpointConfig(), {}, name="web")
    assert endpoint.network_id == subject.bridge.id
    assert endpoint.ip_address.startswith("172.17.0.")
    assert endpoint.gateway == "172.17.0.1"
    assert link is not None
    assert link.host_name.startswith("veth")
    assert bound == {}


def test_no_two_containers_share_an_address_or_a_link(subject: Subject) -> None:
    made = [subject.networks.connect(subject.bridge, f"c{n}", EndpointConfig(), {}) for n in range(5)]
    assert len({endpoint.ip_address for endpoint, _, _ in made}) == 5
    assert len({link.host_name for _, link, _ in made if link is not None}) == 5


def test_the_hosts_network_has_neither(subject: Subject) -> None:
    endpoint, link, bound = subject.networks.connect(subject.host, "c1", EndpointConfig(), PORT)
    assert (endpoint.network_id, endpoint.ip_address) == (subject.host.id, "")
    assert link is None
    assert bound == {}


def test_a_port_has_one_container_at_a_time(subject: Subject) -> None:
    networks = subject.networks
    _, _, bound = networks.connect(subject.bridge, "c1", EndpointConfig(), PORT)
    assert [binding.host_port for binding in bound["80/tcp"]] == ["8080"]
    with pytest.raises(SampanError, match="8080 failed: port is already allocated"):
        networks.connect(subject.bridge, "c2", EndpointConfig(), PORT)
    networks.disconnect("c1")
    networks.connect(subject.bridge, "c2", EndpointConfig(), PORT)


def test_disconnecting_is_idempotent(subject: Subject) -> None:
    subject.networks.connect(subject.bridge, "c1", EndpointConfig(), PORT)
    subject.networks.disconnect("c1")
    subject.networks.disconnect("c1")
    subject.networks.disconnect("never seen")


def test_what_is_recovered_is_taken(subject: Subject) -> None:
    networks = subject.networks
    endpoint, _, bound = networks.connect(subject.bridge, "c1", EndpointConfig(), PORT)
    networks.disconnect("c1")
    networks.recover("c1", subject.bridge, endpoint, bound)
    with pytest.raises(SampanError, match="port is already allocated"):
        networks.connect(subject.bridge, "c2", EndpointConfig(), PORT)
    other, _, _ = networks.connect(subject.bridge, "c3", EndpointConfig(), {})
    assert other.ip_address != endpoint.ip_address
