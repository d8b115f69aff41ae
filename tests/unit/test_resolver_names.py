from __future__ import annotations

import ipaddress
import socket

import dnslib
from hypothesis import given
from hypothesis import strategies as st

from sampan.net.resolver.cache import AnswerCache
from sampan.net.resolver.names import Directory, View, in_turn, member, reversed_address, view_of
from sampan.net.resolver.wire import AAAA, PTR, A


def directory() -> Directory:
    made = Directory()
    front, back = made.network("f", "Front"), made.network("b", "back")
    front.join("e1", member(["web", "www", "0123456789ab"], "10.0.0.2", "fd00::2"))
    front.join("e2", member(["web2", "www"], "10.0.0.3", ""))
    back.join("e3", member(["db"], "10.1.0.2", ""))
    back.join("e4", member(["web"], "10.1.0.3", ""))
    return made


def view(*networks: str, **aliases: str) -> View:
    return view_of(networks, aliases, ["192.0.2.53"], own_servers=False, forwards=True)


def addresses(made: Directory, asking: View, name: str, kind: int = A) -> list[str] | None:
    records = made.answer(asking, name, kind)
    family = socket.AF_INET if kind == A else socket.AF_INET6
    return None if records is None else [socket.inet_ntop(family, data) for _, _, data in records]


def test_names_are_those_of_the_networks_one_is_on() -> None:
    made = directory()
    assert addresses(made, view("f"), "db") is None
    assert addresses(made, view("f", "b"), "db") == ["10.1.0.2"]
    assert addresses(made, view("f", "b"), "web") == ["10.0.0.2"]
    assert addresses(made, view("b", "f"), "web") == ["10.1.0.3"]
    assert addresses(made, view("b", "f"), "web.front") == ["10.0.0.2"]
    assert addresses(made, view("f"), "0123456789ab") == ["10.0.0.2"]
    assert addresses(made, view("f"), "web.back") is None
    assert addresses(made, view("gone"), "web") is None


def test_a_name_without_an_address_of_that_family_has_none_but_exists() -> None:
    made = directory()
    assert addresses(made, view("f"), "web2", AAAA) == []
    assert addresses(made, view("f"), "web", AAAA) == ["fd00::2"]
    assert addresses(made, view("f"), "web", 15) == []


def test_an_alias_of_several_is_shared_and_everybody_comes_first() -> None:
    made = directory()
    first = {addresses(made, view("f"), "www")[0] for _ in range(2)}  # type: ignore[index]
    assert first == {"10.0.0.2", "10.0.0.3"}


def test_the_unhealthy_come_last() -> None:
    made = directory()
    made.network("f").join("e1", member(["www"], "10.0.0.2", "", healthy=False))
    assert [addresses(made, view("f"), "www") for _ in range(3)] == [["10.0.0.3", "10.0.0.2"]] * 3


def test_links_are_names_of_one_container_alone() -> None:
    made = directory()
    assert addresses(made, view("f", database="web2"), "database") == ["10.0.0.3"]
    assert addresses(made, view("f"), "database") is None


def test_reverse_names() -> None:
    made = directory()
    asked = "2.0.0.10.in-addr.arpa"
    assert made.answer(view("f"), asked, PTR) == [(PTR, 5, b"\x03web\x05front\x00")]
    six = ipaddress.ip_address("fd00::2").reverse_pointer
    assert made.answer(view("f"), six, PTR) == [(PTR, 5, b"\x03web\x05front\x00")]
    assert made.answer(view("b"), asked, PTR) is None
    assert made.answer(view("f"), "web", PTR) is None


@given(st.ip_addresses())
def test_any_address_is_read_back_from_its_reverse_name(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    assert reversed_address(address.reverse_pointer) == address.packed


@given(st.text(max_size=80))
def test_other_names_are_no_addresses(text: str) -> None:
    assert reversed_address(text + ".in-addr.arpa") is None or text.count(".") == 3
    assert reversed_address(text + ".ip6.arpa") is None or text.count(".") == 31


def test_who_leaves_is_not_found_any_more() -> None:
    made = directory()
    network = made.network("f")
    network.leave("e1")
    network.leave("e1")
    assert addresses(made, view("f"), "web") is None
    assert addresses(made, view("f"), "www") == ["10.0.0.3"]
    assert made.answer(view("f"), "2.0.0.10.in-addr.arpa", PTR) is None


@given(st.lists(st.booleans(), min_size=1, max_size=6), st.integers(0, 100))
def test_turns_keep_everybody(health: list[bool], turn: int) -> None:
    members = [member([f"m{n}"], f"10.0.0.{n}", "", healthy) for n, healthy in enumerate(health)]
    shown = in_turn(members, turn)
    assert {id(one) for one in shown} == {id(one) for one in members}
    assert [one.healthy for one in shown] == sorted(health, reverse=True)


def answer(ttl_s: int, name: str = "example.org") -> bytes:
    record = dnslib.DNSRecord.question(name).reply()
    record.add_answer(*dnslib.RR.fromZone(f"{name} {ttl_s} IN A 192.0.2.1"))
    return bytes(record.pack())


def test_an_answer_is_kept_as_long_as_it_says() -> None:
    cache = AnswerCache()
    cache.keep(("a",), answer(10), 100.0)
    kept = cache.find(("a",), 104.0)
    assert kept is not None
    assert dnslib.DNSRecord.parse(kept).rr[0].ttl == 6
    assert cache.find(("a",), 110.0) is None
    assert cache.find(("b",), 104.0) is None


def test_what_may_not_be_kept_is_not() -> None:
    cache = AnswerCache()
    cache.keep(("zero",), answer(0), 0.0)
    cache.keep(("failed",), answer(10)[:3] + b"\x82" + answer(10)[4:], 0.0)
    cache.keep(("broken",), answer(10)[:20], 0.0)
    assert [cache.find((key,), 0.0) for key in ("zero", "failed", "broken")] == [None] * 3


def test_the_cache_is_bounded_and_forgets_what_nobody_asks_for() -> None:
    cache = AnswerCache(most=2)
    cache.keep((1,), answer(100), 0.0)
    cache.keep((2,), answer(100), 0.0)
    assert cache.find((1,), 1.0) is not None
    cache.keep((3,), answer(100), 1.0)
    assert cache.find((2,), 1.0) is None
    assert cache.find((1,), 1.0) is not None
