"""Messages to the kernel as bytes, and its answers read back."""

from __future__ import annotations

import errno
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.kernel.netlink import (
    MessageReader,
    address_request,
    attribute,
    attribute_text,
    attribute_u32,
    error_of,
    link_body,
    nested,
    no_link_local_request,
    parse_attributes,
    route_request,
    split_address,
)
from sampan.kernel.nftables import Element
from sampan.net.elements import element_of, elements_of
from sampan.net.ports import PublishedPort
from sampan.net.ruleset import BridgeRules, render_quiet, render_rules


def test_attributes_are_padded_and_read_back() -> None:
    data = (
        attribute(1, b"abc") + attribute_text(2, "x") + attribute_u32(3, 7) + nested(4, attribute_u32(1, 9))
    )
    assert len(data) % 4 == 0
    assert attribute(1, b"abc") == b"\x07\0\x01\0abc\0"
    found = parse_attributes(data)
    assert found[1] == b"abc"
    assert found[2] == b"x\0"
    assert found[3] == struct.pack("=I", 7)
    assert parse_attributes(found[4]) == {1: struct.pack("=I", 9)}


@pytest.mark.parametrize("data", [b"", b"\x01", b"\x03\0\x01\0", b"\xff\xff\x01\0ab"])
def test_cut_off_attributes_do_no_harm(data: bytes) -> None:
    assert set(parse_attributes(data)) <= {1}


def test_addresses() -> None:
    assert split_address("172.17.0.2/16") == (socket.AF_INET, b"\xac\x11\0\x02", 16)
    assert split_address("fd00::2")[2] == 128
    for bad in ("172.17.0/16", "", "x/8", "fd00::g/64"):
        with pytest.raises(ValueError):
            split_address(bad)


def test_ipv4_address_has_a_broadcast_address() -> None:
    what, kind, _, body = address_request("eth0", 2, "172.17.0.2/16")
    assert what == "add address 172.17.0.2/16 to eth0"
    assert kind == 20
    assert body[:8] == struct.pack("=BBBBI", socket.AF_INET, 16, 0, 0, 2)
    assert parse_attributes(body[8:])[4] == socket.inet_aton("172.17.255.255")


def test_ipv6_address_is_usable_at_once() -> None:
    body = address_request("eth0", 2, "fd00::2/64")[3]
    assert struct.unpack("=I", parse_attributes(body[8:])[8])[0] & 0x02  # IFA_F_NODAD
    assert 4 not in parse_attributes(body[8:])


def test_default_route() -> None:
    body = route_request("x", "", "172.17.0.1", 2)[3]
    assert body[:2] == bytes([socket.AF_INET, 0])
    assert parse_attributes(body[12:]) == {5: socket.inet_aton("172.17.0.1"), 4: struct.pack("=I", 2)}
    assert parse_attributes(route_request("x", "10.0.0.0/8", "172.17.0.1", 2)[3][12:])[1] == b"\x0a\0\0\0"


def test_link_local_addresses_are_switched_off_by_name() -> None:
    body = no_link_local_request("eth0")[3]
    assert attribute_text(3, "eth0") in body
    assert body.startswith(link_body())


def _error_message(code: int, text: str = "") -> bytes:
    inner = struct.pack("=IHHII", 16, 16, 0, 5, 0)
    tail = attribute_text(1, text) if text else b""
    flags = 0x300 if text else 0x100
    return struct.pack("=IHHII", 36 + len(tail), 2, flags, 5, 0) + struct.pack("=i", -code) + inner + tail


def test_the_kernels_words_are_in_the_error() -> None:
    assert error_of(_error_message(0), "x") is None
    plain = error_of(_error_message(errno.EEXIST), "create veth pair v0")
    assert plain is not None
    assert (plain.errno, plain.strerror) == (errno.EEXIST, "create veth pair v0: File exists")
    told = error_of(_error_message(errno.EINVAL, "Invalid prefix"), "add route")
    assert told is not None
    assert told.strerror == "add route: Invalid argument (Invalid prefix)"


def test_messages_are_split_and_an_empty_queue_ends_them() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        first = struct.pack("=IHHII", 17, 16, 0, 1, 0) + b"x\0\0\0"
        second = struct.pack("=IHHII", 16, 3, 0, 2, 0)
        theirs.send(first + second)
        theirs.send(second)
        read = list(MessageReader(ours, socket.MSG_DONTWAIT))
    assert [(kind, sequence) for kind, sequence, _ in read] == [(16, 1), (3, 2), (3, 2)]
    assert read[0][2] == first[:17]


def test_elements_of_the_port_maps() -> None:
    anywhere = PublishedPort("tcp", "0.0.0.0", 8080, "10.0.0.2", 80)
    assert element_of(anywhere) == Element(
        "publish4",
        b"\x06\0\0\0" + b"\x1f\x90\0\0",
        b"\x0a\0\0\x02" + b"\0\x50\0\0",
    )
    here = PublishedPort("udp", "fd00::9", 53, "fd00::2", 5353)
    name, key, data = element_of(here)[:3]
    assert name == "publish6_at"
    assert key == socket.inet_pton(socket.AF_INET6, "fd00::9") + b"\x11\0\0\0" + b"\0\x35\0\0"
    assert data == socket.inet_pton(socket.AF_INET6, "fd00::2") + b"\x14\xe9\0\0"


@given(st.sets(st.tuples(st.integers(1, 40), st.integers(0, 1)), max_size=30))
def test_ranges_are_found_whatever_the_order(wanted: set[tuple[int, int]]) -> None:
    """Every port is in exactly one element, and one that keeps its number is in as long a range as can be."""
    published = [
        PublishedPort("tcp", "0.0.0.0", port, "10.0.0.2", port if not shift else port + 100)
        for port, shift in dict(wanted).items()
    ]
    elements = elements_of(published)
    assert elements == elements_of(reversed(published))
    covered: list[int] = []
    for element in elements:
        first = int.from_bytes(element.key[4:6], "big")
        last = int.from_bytes(element.key_end[4:6], "big") if element.key_end else first
        covered += range(first, last + 1)
        assert bool(element.key_end) == (element.name == "range4")
    assert sorted(covered) == sorted(entry.host_port for entry in published)
    plain = {entry.host_port for entry in published if entry.port == entry.host_port}
    assert len([e for e in elements if e.name == "range4"]) == sum(
        1 for port in plain if port - 1 not in plain and port + 1 in plain
    )


def test_rules_name_each_bridge_where_it_belongs() -> None:
    text = render_rules(
        "sampan-x",
        [
            BridgeRules("br0", subnets=("10.0.0.0/24", "fd00::/64")),
            BridgeRules("br1", masquerade4=False, masquerade6=False, talking=False, internal=True),
        ],
    )
    assert 'set bridges { type ifname; elements = { "br0", "br1" }; }' in text
    assert 'set masqueraded4 { type ifname; elements = { "br0" }; }' in text
    assert 'set internal { type ifname; elements = { "br1" }; }' in text
    assert 'set talking { type ifname . ifname; elements = { "br0" . "br0" }; }' in text
    assert "set subnets4 { type ipv4_addr; flags interval; elements = { 10.0.0.0/24 }; }" in text
    assert "set subnets6 { type ipv6_addr; flags interval; elements = { fd00::/64 }; }" in text
    assert "table bridge sampan-x {" in render_quiet("sampan-x", [BridgeRules("br1", talking=False)])
    assert "table bridge sampan-x {" not in render_quiet("sampan-x", [BridgeRules("br0")])
    assert "ip6 daddr ::1 return" in render_rules("sampan-x", [], loopback6=False)
