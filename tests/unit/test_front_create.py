"""What clients of each API version mean by the body of a create."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sampan.base.errors import InvalidArgument
from sampan.front.docker.create import ENDPOINT_SYSCTLS, MAC_ADDRESS_MOVED, CreateRequest, decode_create

ADDRESS = "02:42:ac:11:00:09"


def create(version: int, host: Any = None, endpoints: Any = None, **config: Any) -> CreateRequest:
    body = {"Image": "busybox", **config, "HostConfig": host or {}}
    if endpoints is not None:
        body["NetworkingConfig"] = {"EndpointsConfig": endpoints}
    return decode_create(json.dumps(body).encode(), version)


def mount(**fields: Any) -> dict[str, Any]:
    return {"Mounts": [{"Type": "bind", "Source": "/a", "Target": "/b", **fields}]}


def test_the_default_network_is_the_bridge() -> None:
    request = create(51, {"NetworkMode": "default"}, {"default": {"Aliases": ["x"]}})
    assert request.host.network_mode == "bridge"
    assert request.networks["bridge"].aliases == ["x"]


@pytest.mark.parametrize(("version", "expected"), [(24, False), (25, True)])
def test_auto_remove_is_the_engines_since_25(version: int, expected: bool) -> None:
    assert create(version, {"AutoRemove": True}).host.auto_remove is expected


@pytest.mark.parametrize(("version", "ipc", "cgroupns"), [(39, "shareable", "host"), (41, "", "")])
def test_defaults_of_older_clients(version: int, ipc: str, cgroupns: str) -> None:
    host = create(version).host
    assert (host.ipc_mode, host.cgroupns_mode) == (ipc, cgroupns)


def test_fields_are_ignored_before_their_version() -> None:
    host = create(41, {"ConsoleSize": [5, 6], "Annotations": {"a": "b"}}).host
    assert (host.console_size, host.annotations) == ((0, 0), None)
    health = {"Test": ["CMD", "x"], "StartInterval": 5}
    assert create(43, Healthcheck=health).config.healthcheck.start_interval == 0  # type: ignore[union-attr]
    assert create(44, Healthcheck=health).config.healthcheck.start_interval == 5  # type: ignore[union-attr]
    assert create(47, endpoints={"a": {"GwPriority": 7}}).networks["a"].gw_priority == 0


@pytest.mark.parametrize("value", [-1, 0])
def test_unlimited_pids_are_no_limit(value: int) -> None:
    assert create(51, {"PidsLimit": value}).host.pids_limit is None


@pytest.mark.parametrize(
    ("version", "host", "text"),
    [
        (43, mount(BindOptions={"ReadOnlyForceRecursive": True}), "needs API v1.44 or newer"),
        (44, mount(Type="volume", VolumeOptions={"Subpath": "x"}), "needs API v1.45 or newer"),
        (47, mount(Type="image"), 'Mount type "Image" needs API v1.48 or newer'),
        (42, mount(VolumeOptions={}), "VolumeOptions must not be specified on mount type"),
        (
            42,
            mount(Type="volume", BindOptions={}),
            "BindOptions must not be specified on mount type",
        ),
        (42, mount(TmpfsOptions={}), "TmpfsOptions must not be specified on mount type"),
    ],
)
def test_refused_mounts(version: int, host: Any, text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        create(version, host)


def test_mount_options_of_another_kind_were_ignored_before_42() -> None:
    mounts = create(41, mount(VolumeOptions={}, TmpfsOptions={})).host.mounts
    assert mounts is not None
    assert (mounts[0].volume_options, mounts[0].tmpfs_options) == (None, None)


@pytest.mark.parametrize(("version", "expected"), [(43, True), (44, False)])
def test_read_only_binds_became_recursive_in_44(version: int, expected: bool) -> None:
    mounts = create(version, mount(ReadOnly=True)).host.mounts
    assert mounts is not None
    options = mounts[0].bind_options
    assert (options is not None and options.read_only_non_recursive) is expected


def test_one_network_only_before_44() -> None:
    with pytest.raises(InvalidArgument, match="cannot be created with multiple network endpoints: a, b"):
        create(43, endpoints={"a": {}, "b": None})
    assert set(create(44, endpoints={"a": {}, "b": None}).networks) == {"a", "b"}


def test_mac_address_of_an_old_client_goes_to_its_endpoint() -> None:
    request = create(43, MacAddress=ADDRESS)
    assert request.networks["bridge"].mac_address == ADDRESS
    assert request.warnings == []


def test_mac_address_of_an_endpoint_did_not_exist_before_44() -> None:
    assert create(43, endpoints={"bridge": {"MacAddress": ADDRESS}}).networks["bridge"].mac_address == ""


def test_mac_address_of_a_new_client_goes_to_its_endpoint_with_a_warning() -> None:
    request = create(51, MacAddress=ADDRESS)
    assert request.networks["bridge"].mac_address == ADDRESS
    assert request.config.mac_address == ""
    assert request.warnings == [MAC_ADDRESS_MOVED]


def test_two_different_mac_addresses_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="must match the endpoint-specific MAC address"):
        create(51, endpoints={"bridge": {"MacAddress": "02:42:ac:11:00:01"}}, MacAddress=ADDRESS)


def test_mac_address_for_another_network_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="NetworkMode must match"):
        create(51, {"NetworkMode": "mine"}, {"other": {}}, MacAddress=ADDRESS)


def test_sysctls_of_an_interface_move_to_the_endpoint() -> None:
    host = {"Sysctls": {"net.ipv6.conf.eth0.forwarding": "1", "net.core.somaxconn": "5"}}
    request = create(47, host)
    assert request.host.sysctls == {"net.core.somaxconn": "5"}
    options = request.networks["bridge"].driver_opts
    assert options == {ENDPOINT_SYSCTLS: "net.ipv6.conf.IFNAME.forwarding=1"}
    assert request.warnings[0].startswith("Migrated sysctl")


def test_sysctls_of_an_interface_are_refused_from_48() -> None:
    with pytest.raises(InvalidArgument, match="must be supplied using driver option"):
        create(48, {"Sysctls": {"net.ipv6.conf.eth0.forwarding": "1"}})
    with pytest.raises(InvalidArgument, match="unable to determine network endpoint"):
        create(47, {"Sysctls": {"net.ipv6.conf.eth1.forwarding": "1"}})


def test_volume_driver_beside_mounts_warns_from_48() -> None:
    host = {"VolumeDriver": "local", **mount(Type="volume")}
    assert create(47, host).warnings == []
    assert len(create(48, host).warnings) == 1
