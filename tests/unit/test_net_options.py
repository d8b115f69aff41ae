from __future__ import annotations

import pytest

from sampan.engine.network.gateways import Gateways, choose_gateways, in_order
from sampan.model.container import EndpointConfig
from sampan.model.network import Network
from sampan.net.errors import InvalidNetworkSetting
from sampan.net.options import interface_name, interface_sysctls, read_bridge_options, read_mac, read_mtu


def network(name: str, **changes: object) -> Network:
    return Network(id=name * 8, name=name, created_ns=1, **({"driver": "bridge"} | changes))  # type: ignore[arg-type]


def test_defaults_of_a_bridge() -> None:
    options = read_bridge_options({}, "br-1", internal=False)
    assert (options.name, options.mtu, options.talking, options.masquerade) == ("br-1", 1500, True, True)
    assert options.gateway_mode4 == options.gateway_mode6 == "nat"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("com.docker.network.bridge.name", "a name"),
        ("com.docker.network.bridge.name", "sixteen-letters!"),
        ("com.docker.network.bridge.enable_icc", "maybe"),
        ("com.docker.network.bridge.gateway_mode_ipv4", "bridge"),
        ("com.docker.network.bridge.gateway_mode_ipv6", "isolated"),
        ("com.docker.network.driver.mtu", "-1"),
    ],
)
def test_an_unusable_option_is_named(key: str, value: str) -> None:
    with pytest.raises(InvalidNetworkSetting, match=key):
        read_bridge_options({key: value}, "br-1", internal=False)


def test_isolated_is_for_internal_networks() -> None:
    options = {"com.docker.network.bridge.gateway_mode_ipv4": "isolated"}
    assert read_bridge_options(options, "br-1", internal=True).gateway_mode(4) == "isolated"


def test_options_of_an_endpoint() -> None:
    assert interface_name({"com.docker.network.endpoint.ifname": "lan0"}) == "lan0"
    assert interface_name(None) == ""
    sysctls = "net.ipv4.conf.IFNAME.log_martians=1,net.ipv6.conf.IFNAME.accept_ra=0"
    assert interface_sysctls({"com.docker.network.endpoint.sysctls": sysctls}, "eth0.5") == [
        ("net.ipv4.conf.eth0/5.log_martians", "1"),
        ("net.ipv6.conf.eth0/5.accept_ra", "0"),
    ]


@pytest.mark.parametrize(
    "text",
    ["net.ipv4.ip_forward=1", "net.ipv4.conf.eth0.rp_filter=1", "net.core.conf.IFNAME.x=1",
     "net.ipv4.conf.IFNAME.log_martians", "net.ipv4.con/f.IFNAME.x=1"],
)  # fmt: skip
def test_other_sysctls_are_refused(text: str) -> None:
    with pytest.raises(InvalidNetworkSetting, match="sysctls"):
        interface_sysctls({"com.docker.network.endpoint.sysctls": text}, "eth0")


def test_mac_and_mtu() -> None:
    assert read_mac("02-42-AC-11-00-02") == "02:42:ac:11:00:02"
    assert read_mac("") == ""
    assert read_mtu({"com.docker.network.driver.mtu": "9000"}) == 9000
    assert read_mtu({"com.docker.network.driver.mtu": "0"}, 1400) == 1400
    with pytest.raises(InvalidNetworkSetting):
        read_mac("02:42")


def test_the_way_out() -> None:
    plain = {name: EndpointConfig() for name in ("a", "b", "c")}
    a, b, c = network("a", internal=True), network("b"), network("c", enable_ipv6=True)
    assert choose_gateways(plain, [a, b, c]) == Gateways(ipv4="c", ipv6="c")
    wished = plain | {"b": EndpointConfig(gw_priority=1)}
    assert choose_gateways(wished, [a, b, c]) == Gateways(ipv4="b", ipv6="c")
    assert choose_gateways(plain, [a]) == Gateways()
    assert choose_gateways(plain, [network("h", driver="host")]) == Gateways()
    assert choose_gateways(plain, [network("z"), network("y")]).ports == "y"


def test_interfaces_are_numbered_in_a_fixed_order() -> None:
    members = {name: EndpointConfig() for name in ("z", "bridge", "m", "a")}
    assert in_order(members, "m") == ["bridge", "m", "a", "z"]
