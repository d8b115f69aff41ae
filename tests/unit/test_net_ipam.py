"""Address pools and port tables: pure."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.net.errors import AddressInUse, AddressOutOfRange, InvalidNetworkSetting, PoolExhausted
from sampan.net.ipam import AddressPool, IPNetwork, choose_subnet, parse_network
from sampan.net.ports import PortRequest, PortTable, read_dynamic_ports


def test_addresses_rise_and_come_round() -> None:
    pool = AddressPool("10.0.0.0/29", reserved=["10.0.0.1"])
    assert [pool.allocate() for _ in range(5)] == [f"10.0.0.{n}" for n in range(2, 7)]
    with pytest.raises(PoolExhausted):
        pool.allocate()
    pool.release("10.0.0.4")
    assert pool.allocate() == "10.0.0.4"


def test_a_released_address_rests_while_others_are_free() -> None:
    pool = AddressPool("10.0.0.0/24", reserved=["10.0.0.1"])
    first = pool.allocate()
    pool.release(first)
    assert pool.allocate() != first


def test_choosing_an_address() -> None:
    pool = AddressPool("10.0.0.0/24", range_="10.0.0.128/25", reserved=["10.0.0.1"])
    assert pool.allocate() == "10.0.0.128"
    assert pool.claim("10.0.0.7") == "10.0.0.7"  # outside the range, inside the subnet
    for taken in ("10.0.0.1", "10.0.0.7", "10.0.0.128"):
        with pytest.raises(AddressInUse):
            pool.claim(taken)
    for outside in ("10.0.1.1", "fd00::1", "x"):
        with pytest.raises(AddressOutOfRange):
            pool.claim(outside)


def test_small_and_ipv6_subnets() -> None:
    assert AddressPool("10.0.0.8/32").allocate() == "10.0.0.8"
    pair = AddressPool("10.0.0.0/31")
    assert [pair.allocate(), pair.allocate()] == ["10.0.0.0", "10.0.0.1"]
    six = AddressPool("fd00::/64", reserved=["fd00::1"])
    assert [six.allocate(), six.allocate()] == ["fd00::2", "fd00::3"]
    with pytest.raises(InvalidNetworkSetting):
        AddressPool("10.0.0.0/24", range_="10.1.0.0/24")
    with pytest.raises(InvalidNetworkSetting):
        AddressPool("10.0.0.0/240")


def test_adopting_what_containers_have() -> None:
    pool = AddressPool("10.0.0.0/24", reserved=["10.0.0.1"])
    pool.adopt("10.0.0.5")
    pool.adopt("10.0.0.5")
    pool.adopt("192.168.0.5")  # from other settings
    assert pool.taken == 1
    assert pool.allocate() == "10.0.0.6"


_STEPS = st.lists(
    st.one_of(
        st.just(("allocate", 0)),
        st.tuples(st.sampled_from(["claim", "release", "adopt"]), st.integers(0, 31)),
    ),
    max_size=80,
)


@given(_STEPS)
def test_no_address_is_ever_given_twice(steps: list[tuple[str, int]]) -> None:
    pool = AddressPool("10.0.0.0/27", range_="10.0.0.8/29", reserved=["10.0.0.9"])
    held: set[str] = set()
    for verb, number in steps:
        address = f"10.0.0.{number}"
        if verb == "release":
            pool.release(address)
            held.discard(address)
        elif verb == "adopt":
            pool.adopt(address)
            held.add(address)
        elif verb == "claim":
            free = address not in held and address != "10.0.0.9"
            try:
                pool.claim(address)
            except AddressInUse:
                assert not free
            else:
                assert free
                held.add(address)
        else:
            candidates = {f"10.0.0.{n}" for n in range(8, 16)} - held - {"10.0.0.9"}
            try:
                given_ = pool.allocate()
            except PoolExhausted:
                assert not candidates
            else:
                assert given_ in candidates
                held.add(given_)
        assert pool.taken == len(held)


@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(8, 32)), max_size=8))
def test_a_chosen_subnet_overlaps_nothing(routes: list[tuple[int, int]]) -> None:
    taken = [ipaddress.IPv4Network((address, prefix), strict=False) for address, prefix in routes]
    try:
        chosen = choose_subnet(taken)
    except PoolExhausted:
        return
    assert not any(chosen.overlaps(other) for other in taken)


def test_the_first_pool_is_dockers() -> None:
    assert str(choose_subnet([])) == "172.17.0.0/16"
    assert str(choose_subnet([parse_network("172.16.0.0/12")])) == "192.168.0.0/20"


def _request(port: int, last: int = 0, host: str = "0.0.0.0") -> PortRequest:
    return PortRequest("tcp", 80, port, last or port, ((host, "10.0.0.2"),))


def test_ports_conflict_by_address() -> None:
    table = PortTable()
    table.take("tcp", ["127.0.0.1"], 80)
    assert table.conflict("tcp", ["127.0.0.1"], 80) == "127.0.0.1"
    assert table.conflict("tcp", ["0.0.0.0"], 80) == "0.0.0.0"
    assert table.conflict("tcp", ["10.0.0.1"], 80) is None
    assert table.conflict("tcp", ["::"], 80) is None
    assert table.conflict("udp", ["127.0.0.1"], 80) is None
    table.take("tcp", ["::"], 80)
    assert table.conflict("tcp", ["10.0.0.1", "fd00::1"], 80) == "fd00::1"
    table.free("tcp", "127.0.0.1", 80)
    table.free("tcp", "127.0.0.1", 80)
    assert table.conflict("tcp", ["0.0.0.0"], 80) is None
    assert len(table) == 1


def test_automatic_ports_go_round_and_keep_off_reserved_ones() -> None:
    table = PortTable((100, 103), frozenset({101}))
    assert list(table.candidates(_request(0))) == [100, 102, 103]
    table.take("tcp", ["0.0.0.0"], 102)
    assert list(table.candidates(_request(0))) == [103, 100, 102]
    assert list(table.candidates(_request(8000, 8002))) == [8000, 8001, 8002]


def test_the_kernels_range() -> None:
    files = {"ip_local_port_range": "32768\t60999\n", "ip_local_reserved_ports": "40000,50000-50002\n"}
    assert read_dynamic_ports(files.__getitem__) == ((32768, 60999), frozenset({40000, 50000, 50001, 50002}))
    files["ip_local_reserved_ports"] = "\n"
    assert read_dynamic_ports(files.__getitem__) == ((32768, 60999), frozenset())
    files["ip_local_port_range"] = "?"
    assert read_dynamic_ports(files.__getitem__) == ((49153, 65535), frozenset())


SUBNETS = st.builds(
    lambda address, length: ipaddress.ip_network((address, length), strict=False),
    st.ip_addresses(v=4, network="10.0.0.0/8"),
    st.integers(9, 30),
)


@given(st.lists(SUBNETS, max_size=30), st.integers(20, 28))
def test_a_chosen_subnet_meets_nothing_and_is_the_first_such(
    taken: list[ipaddress.IPv4Network], prefix: int
) -> None:
    pool = ipaddress.IPv4Network("10.64.0.0/18")
    free = [one for one in pool.subnets(new_prefix=prefix) if not any(one.overlaps(other) for other in taken)]
    if free:
        assert choose_subnet(taken, [(pool, prefix)]) == free[0]
    else:
        with pytest.raises(PoolExhausted):
            choose_subnet(taken, [(pool, prefix)])


def test_there_is_a_subnet_for_each_of_five_hundred_networks() -> None:
    taken: list[IPNetwork] = []
    for _ in range(500):
        taken.append(choose_subnet(taken))
    assert str(taken[30]) == "192.168.240.0/20"
    assert str(taken[31]) == "10.89.0.0/24"
    assert len(set(taken)) == 500
