"""What may be asked of a container's place in a network, and the files that name things."""

from __future__ import annotations

from pathlib import Path

import pytest

from sampan.base.errors import InvalidArgument
from sampan.engine.container.layout import Layout
from sampan.engine.container.netfiles import DnsDefaults, NetworkFiles, ResolverSource
from sampan.engine.network.endpoints import require_usable
from sampan.model.container import (
    Container,
    ContainerConfig,
    Endpoint,
    EndpointConfig,
    EndpointIPAMConfig,
    HostConfig,
)


def _config(ipv4: str = "", ipv6: str = "", **rest: object) -> EndpointConfig:
    return EndpointConfig(ipam_config=EndpointIPAMConfig(ipv4_address=ipv4, ipv6_address=ipv6), **rest)  # type: ignore[arg-type]


def test_addresses_and_aliases_need_a_network_of_the_users() -> None:
    require_usable({"front": _config("10.0.0.5", "fd00::5", aliases=["web"]), "bridge": EndpointConfig()})
    with pytest.raises(InvalidArgument) as raised:
        require_usable({"bridge": _config("10.0.0.5", aliases=["web"])})
    assert raised.value.message == (
        "invalid config for network bridge: invalid endpoint settings:\n"
        "user specified IP address is supported on user defined networks only\n"
        "network-scoped alias is supported only for containers in user defined networks"
    )


def test_unreadable_addresses() -> None:
    with pytest.raises(InvalidArgument) as raised:
        require_usable({"front": _config("fd00::1", "10.0.0.1")})
    assert raised.value.message.endswith("\ninvalid IPv4 address: fd00::1\ninvalid IPv6 address: 10.0.0.1")


def _container(mode: str = "bridge", **host: object) -> Container:
    return Container(
        id="c" * 64,
        name="web",
        created_ns=1,
        image_id="",
        image_ref="",
        path="",
        args=[],
        config=ContainerConfig(hostname="web"),
        host=HostConfig(network_mode=mode, **host),  # type: ignore[arg-type]
        networks={},
        mounts=[],
        layer_ids=[],
    )


class Files:
    def __init__(self, folder: Path, dns: DnsDefaults) -> None:
        self.layout = Layout(str(folder / "data"), str(folder / "run"))
        self.files = NetworkFiles(self.layout, lambda: ["172.17.0.1"], dns)
        source = folder / "resolv.conf"
        source.write_text("nameserver 127.0.0.1\nnameserver 10.0.0.1\n")
        self.files._resolver = ResolverSource(str(source))
        (folder / "data" / "containers" / ("c" * 64)).mkdir(parents=True)

    def write(self, record: Container) -> tuple[str, str]:
        """hosts and resolv.conf."""
        endpoints = (
            {"bridge": Endpoint(ip_address="172.17.0.2")} if record.host.network_mode != "host" else {}
        )
        self.files.write(record, endpoints, [])
        return (
            Path(self.layout.hosts(record.id)).read_text(),
            Path(self.layout.resolv_conf(record.id)).read_text(),
        )


def test_the_daemons_dns_settings_are_for_containers_that_say_nothing(tmp_path: Path) -> None:
    files = Files(tmp_path, DnsDefaults(servers=("9.9.9.9",), search=("corp",)))
    _, resolv = files.write(_container())
    assert "nameserver 9.9.9.9\nsearch corp\n" in resolv
    _, resolv = files.write(_container(dns=["1.1.1.1"], dns_search=["own"]))
    assert "nameserver 1.1.1.1\nsearch own\n" in resolv


def test_the_hosts_network_keeps_local_name_servers(tmp_path: Path) -> None:
    files = Files(tmp_path, DnsDefaults())
    hosts, resolv = files.write(_container("host"))
    assert "nameserver 127.0.0.1\nnameserver 10.0.0.1\n" in resolv
    assert hosts == Path("/etc/hosts").read_text()
    hosts, _ = files.write(_container("host", extra_hosts=["up:host-gateway"]))
    assert hosts.startswith("127.0.0.1\tlocalhost\n")
    assert hosts.endswith("172.17.0.1\tup\n")


def test_a_container_on_a_bridge_gets_reachable_name_servers(tmp_path: Path) -> None:
    hosts, resolv = Files(tmp_path, DnsDefaults()).write(_container())
    assert "nameserver 127" not in resolv
    assert "nameserver 10.0.0.1\n" in resolv
    assert hosts.endswith("172.17.0.2\tweb\n")
