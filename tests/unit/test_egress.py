"""What containers may reach: the list's language, its elements, and what is learnt from DNS answers."""

from __future__ import annotations

import ipaddress
import socket
from struct import pack

import dnslib
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.kernel.nflog import Packet, read_packet
from sampan.net.egress.elements import Box, Range, boxes_of, elements_of, name_rules, text_of, without
from sampan.net.egress.policy import ANYWHERE, OPTION_EGRESS, Entry, parse_policy, read_egress
from sampan.net.errors import InvalidNetworkSetting
from sampan.net.resolver.allowance import allowance_of, matches
from sampan.net.resolver.wire import Malformed, addresses_of


def entry(target: str, ports: tuple[int, int] | None = None, protocol: str = "") -> Entry:
    if "example" in target or target == "localhost":
        return Entry(name=target, ports=ports, protocol=protocol)
    return Entry(subnet=ipaddress.ip_network(target), ports=ports, protocol=protocol)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.0/8", [entry("10.0.0.0/8")]),
        ("192.0.2.1:443/tcp", [entry("192.0.2.1", (443, 443), "tcp")]),
        ("[fd00::/8]:53/udp;[2001:db8::1]", [entry("fd00::/8", (53, 53), "udp"), entry("2001:db8::1")]),
        ("API.Example.org.:80-90", [entry("api.example.org", (80, 90))]),
        ("*.example.net/tcp, localhost:1", [entry("*.example.net", None, "tcp"), entry("localhost", (1, 1))]),
        ("192.0.2.1\n192.0.2.1", [entry("192.0.2.1")]),
        ("none", []),
    ],
)
def test_lists(text: str, expected: list[Entry]) -> None:
    assert parse_policy(text) == tuple(expected)


@pytest.mark.parametrize(
    ("text", "word", "why"),
    [
        ("example.org fd00::1:443", "fd00::1:443", "in brackets"),
        ("fd00::/8", "fd00::/8", "in brackets"),
        ("[10.0.0.1]", "[10.0.0.1]", "brackets are for IPv6"),
        ("10.0.0.1/8", "10.0.0.1/8", "host bits set"),
        ("10.0.0.300", "10.0.0.300", "10.0.0.300"),
        ("example.org:0", "example.org:0", "invalid port '0'"),
        ("example.org:90-80", "example.org:90-80", "invalid port '90-80'"),
        ("example.org:65536", "example.org:65536", "invalid port"),
        ("example.org:", "example.org:", "invalid port ''"),
        ("example.org:1-100", "example.org:1-100", "at most 64 ports"),
        ("10.0.0.1:80/sctp", "10.0.0.1:80/sctp", "unknown protocol 'sctp'"),
        ("*", "*", "neither an address"),
        ("a.*.org", "a.*.org", "neither an address"),
        ("-a.org", "-a.org", "neither an address"),
        ("none, 10.0.0.1", "none", "no entry among others"),
        ("10.0.0.1:80:90", "10.0.0.1:80:90", "in brackets"),
        ("[fd00::1", "[fd00::1", "use TARGET"),
    ],
)
def test_what_is_no_list_is_named(text: str, word: str, why: str) -> None:
    with pytest.raises(InvalidNetworkSetting) as raised:
        parse_policy(text)
    assert raised.value.message.startswith(f"sampan.egress: invalid entry {word!r}: ")
    assert why in raised.value.message


def test_a_list_has_an_end() -> None:
    with pytest.raises(InvalidNetworkSetting, match="more than 8192 characters"):
        parse_policy("10.0.0.1 " * 1000)
    with pytest.raises(InvalidNetworkSetting, match="more than 256 entries"):
        parse_policy("a " * 257)


def test_an_endpoint_has_a_list_of_its_own() -> None:
    network, own = {OPTION_EGRESS: "10.0.0.1"}, {OPTION_EGRESS: "10.0.0.2"}
    assert read_egress({}) is None
    assert read_egress({OPTION_EGRESS: "any"}, {}) is None
    assert read_egress(network, {}) == (entry("10.0.0.1"),)
    assert read_egress(network, own) == read_egress({}, own) == (entry("10.0.0.2"),)
    assert read_egress(network, {OPTION_EGRESS: "any"}) == ANYWHERE


TARGETS = st.one_of(
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(lambda one: f"[{one}]"),
    st.builds(
        lambda one, size: str(ipaddress.ip_network((one, size), strict=False)),
        st.ip_addresses(v=4),
        st.integers(0, 31),
    ),
    st.from_regex(r"(\*\.)?[a-z][a-z0-9]{0,8}(\.[a-z]{2,5}){1,2}", fullmatch=True),
)
PORTS = st.tuples(st.integers(1, 65000), st.integers(0, 60)).map(lambda two: f":{two[0]}-{two[0] + two[1]}")
ENTRIES = st.builds(
    lambda *parts: "".join(parts),
    TARGETS,
    st.one_of(st.just(""), PORTS),
    st.sampled_from(["", "/tcp", "/udp"]),
)


@given(st.lists(ENTRIES, min_size=1, max_size=8), st.sampled_from([" ", ",", "; ", "\t,\n"]))
def test_what_is_shown_of_a_list_is_the_list(words: list[str], separator: str) -> None:
    policy = parse_policy(separator.join(words))
    assert parse_policy(" ".join(map(str, policy))) == policy
    assert 1 <= len(policy) <= len(words)


@given(st.text(max_size=60))
def test_any_text_is_a_list_or_refused(text: str) -> None:
    try:
        policy = parse_policy(text)
    except InvalidNetworkSetting:
        return
    assert parse_policy(" ".join(map(str, policy)) or "none") == policy


SMALL = st.tuples(st.integers(0, 6), st.integers(0, 6)).map(lambda two: Range(min(two), max(two)))
BOXES = st.tuples(SMALL, SMALL, SMALL)


def points(boxes: list[Box]) -> list[tuple[int, int, int]]:
    return [
        (a, b, c)
        for x, y, z in boxes
        for a in range(x.first, x.last + 1)
        for b in range(y.first, y.last + 1)
        for c in range(z.first, z.last + 1)
    ]


@given(BOXES, BOXES)
def test_a_box_without_another(box: Box, hole: Box) -> None:
    left = points(without(box, hole))
    assert len(left) == len(set(left)), "its parts overlap"
    assert set(left) == set(points([box])) - set(points([hole]))


SUBNETS = st.builds(
    lambda last, size: ipaddress.ip_network((0x0A000000 + last, size), strict=False),
    st.integers(0, 15),
    st.integers(28, 32),
)
SUBNET_ENTRIES = st.builds(
    lambda subnet, first, more, protocol: Entry(
        subnet=subnet, ports=(first, first + more) if first else None, protocol=protocol
    ),
    SUBNETS,
    st.integers(0, 5),
    st.integers(0, 3),
    st.sampled_from(["", "tcp", "udp"]),
)


def allows(one: Entry, address: ipaddress.IPv4Address, protocol: int, port: int) -> bool:
    if one.subnet is None or address not in one.subnet:
        return False
    if one.protocol or one.ports:
        names = [one.protocol] if one.protocol else ["tcp", "udp"]
        first, last = one.ports or (0, 65535)
        return {6: "tcp", 17: "udp"}.get(protocol) in names and first <= port <= last
    return True


@given(
    st.lists(SUBNET_ENTRIES, max_size=5), st.integers(0, 15), st.sampled_from([1, 6, 17]), st.integers(1, 9)
)
def test_subnets_allow_what_they_say_once(policy: list[Entry], last: int, protocol: int, port: int) -> None:
    address = ipaddress.IPv4Address(0x0A000000 + last)
    wanted = any(allows(one, address, protocol, port) for one in policy)
    point = int(address), protocol, port
    holding = [
        box
        for box in boxes_of(tuple(policy), 4)
        if all(side.first <= place <= side.last for side, place in zip(box, point, strict=True))
    ]
    assert len(holding) == (1 if wanted else 0)


def test_elements_in_words() -> None:
    policy = parse_policy("192.0.2.0/24:443/tcp [fd00::1] example.org:53")
    inside = [ipaddress.ip_network("172.30.0.0/24"), ipaddress.ip_network("fd30::/64")]
    shown = {one.name: text_of(one) for one in elements_of("172.30.0.2", policy, inside)}
    assert shown == {
        "restricted4": "172.30.0.2",
        "allowed4": "172.30.0.2 . 192.0.2.0-192.0.2.255 . 6-6 . 443-443",
        "inside4": "172.30.0.2 . 172.30.0.0-172.30.0.255",
    }
    shown = {one.name: text_of(one) for one in elements_of("fd30::2", policy, inside)}
    assert shown["allowed6"] == "fd30::2 . fd00::1-fd00::1 . 0-255 . 0-65535"
    assert name_rules(policy) == [("example.org", [6, 17], [53, 53])]


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("example.org", "example.org", True),
        ("example.org", "www.example.org", False),
        ("*.example.org", "www.example.org", True),
        ("*.example.org", "a.b.example.org", True),
        ("*.example.org", "example.org", False),
        ("*.example.org", "badexample.org", False),
        ("*.example.org", ".example.org", False),
    ],
)
def test_names_below_another(pattern: str, name: str, expected: bool) -> None:
    assert matches(pattern, name) is expected


def test_ways_to_a_name() -> None:
    names = [["example.org", [6], [80, 81]], ["*.example.org", [], []]]
    allowance = allowance_of({"table": "t", "address4": "10.0.0.2", "address6": "", "names": names})
    assert allowance.ways("example.org", socket.AF_INET) == {(6, 80), (6, 81)}
    assert allowance.ways("www.example.org", socket.AF_INET) == {(6, 0), (17, 0), (1, 0)}
    assert allowance.ways("example.com", socket.AF_INET) == set()


def answer(*records: str) -> bytes:
    made = dnslib.DNSRecord.question("www.example.org").reply()
    for record in records:
        made.add_answer(*dnslib.RR.fromZone(record))
    return bytes(made.pack())


def test_addresses_are_those_of_the_name_that_was_asked_for() -> None:
    data = answer(
        "www.EXAMPLE.org 300 IN CNAME cdn.example.net",
        "cdn.example.net 90 IN CNAME edge.example.net",
        "edge.example.net 100 IN A 192.0.2.1",
        "edge.example.net 30 IN AAAA 2001:db8::1",
        "other.example.net 100 IN A 192.0.2.66",
    )
    assert addresses_of(data, "www.example.org") == [
        (socket.AF_INET, bytes((192, 0, 2, 1)), 90),
        (socket.AF_INET6, socket.inet_pton(socket.AF_INET6, "2001:db8::1"), 30),
    ]
    circle = answer("www.example.org 1 IN CNAME b.org", "b.org 1 IN CNAME www.example.org")
    assert addresses_of(circle, "www.example.org") == []


@given(st.binary(max_size=80), st.integers(0, 90))
def test_broken_answers(noise: bytes, cut: int) -> None:
    whole = answer("www.example.org 300 IN CNAME a.example.org", "a.example.org 3 IN A 192.0.2.1")
    for data in (whole[:cut], whole[:12] + noise, whole[:cut] + noise):
        try:
            found = addresses_of(data, "www.example.org")
        except Malformed:
            continue
        assert all(len(packed) in (4, 16) for _, packed, _ in found)


def test_headers_of_logged_packets() -> None:
    ends = socket.inet_aton("172.30.0.2") + socket.inet_aton("192.0.2.1")
    head4 = bytes((0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0)) + ends
    assert read_packet(head4 + pack(">HH", 40000, 443)) == Packet("172.30.0.2", "192.0.2.1", 6, 443)
    assert read_packet(head4) == Packet("172.30.0.2", "192.0.2.1", 6, 0)
    source, target = (socket.inet_pton(socket.AF_INET6, text) for text in ("fd00::2", "2001:db8::1"))
    head6 = bytes((0x60, 0, 0, 0, 0, 8, 17, 64)) + source + target
    assert read_packet(head6 + pack(">HH", 5, 53)) == Packet("fd00::2", "2001:db8::1", 17, 53)


@given(st.binary(max_size=64))
def test_any_bytes_are_a_packet_or_none(data: bytes) -> None:
    packet = read_packet(data)
    assert packet is None or data[0] >> 4 in (4, 6)
