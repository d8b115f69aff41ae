from __future__ import annotations

import dnslib
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.net.resolver import wire

LABELS = st.lists(
    st.text("abcdefghijklmnopqrstuvwxyzABCXYZ0123456789-_", min_size=1, max_size=63), min_size=1, max_size=3
)


def query(name: str, kind: str = "A", *, edns: int = 0) -> bytes:
    record = dnslib.DNSRecord.question(name, kind)
    if edns:
        record.add_ar(dnslib.EDNS0(udp_len=edns))
    return bytes(record.pack())


@given(LABELS, st.sampled_from(["A", "AAAA", "PTR", "MX", "TXT"]), st.sampled_from([0, 512, 1232, 65535]))
def test_a_question_is_read_as_a_library_writes_it(labels: list[str], kind: str, edns: int) -> None:
    name = ".".join(labels)
    data = query(name, kind, edns=edns)
    question = wire.read_question(data)
    assert question.name == name.lower()
    assert question.kind == getattr(dnslib.QTYPE, kind)
    assert question.id == int.from_bytes(data[:2], "big")
    assert question.wants_edns == bool(edns)
    assert question.udp_bytes == min(max(edns, 512), wire.LARGEST_UDP_BYTES)


@given(LABELS, st.lists(st.binary(min_size=4, max_size=4), max_size=60), st.booleans())
def test_an_answer_is_what_a_library_reads(labels: list[str], addresses: list[bytes], edns: bool) -> None:
    data = query(".".join(labels), edns=4096 if edns else 0)
    question = wire.read_question(data)
    answer = wire.answer(question, [(wire.A, 5, address) for address in addresses], question.udp_bytes)
    read = dnslib.DNSRecord.parse(answer)
    assert len(answer) <= question.udp_bytes
    assert read.header.id == question.id
    assert (read.header.qr, read.header.ra, read.header.rcode) == (1, 1, 0)
    shown = [bytes(record.rdata.data) for record in read.rr]
    assert shown == addresses[: len(shown)]
    assert read.header.tc == (len(shown) < len(addresses))
    assert str(read.q.qname).rstrip(".") == ".".join(labels)


@given(st.binary(max_size=600))
def test_anything_else_is_malformed_and_nothing_worse(data: bytes) -> None:
    try:
        wire.read_question(data)
    except wire.Malformed:
        refused = wire.refuse(data)
        assert not refused or (refused[:2] == data[:2] and refused[2] & 0x80)
    try:
        wire.read_lifetimes(data)
    except wire.Malformed:
        return


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[:11],
        lambda data: data[:2] + b"\x81\x80" + data[4:],  # an answer
        lambda data: data[:4] + b"\0\2" + data[6:],  # two questions
        lambda data: data[:12] + b"\xc0\x0c\0\1\0\1",  # a name that refers to itself
        lambda data: data[:12] + b"\x3fa" * 200,
        lambda data: data[:-2] + b"\0\3",  # CHAOS
    ],
)
def test_malformed_questions(change) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(wire.Malformed):
        wire.read_question(change(query("web")))


def answered(*lines: str, soa: str = "") -> bytes:
    record = dnslib.DNSRecord.question("example.org").reply()
    for line in lines:
        record.add_answer(*dnslib.RR.fromZone(line))
    if soa:
        record.add_auth(*dnslib.RR.fromZone(soa))
    record.add_ar(dnslib.EDNS0(udp_len=1232))
    return bytes(record.pack())


def test_the_shortest_ttl_counts_and_ages() -> None:
    data = answered("example.org 300 IN CNAME www.example.org", "www.example.org 60 IN A 192.0.2.1")
    life = wire.read_lifetimes(data)
    assert life.keep_s == 60
    older = dnslib.DNSRecord.parse(wire.aged(data, life.positions, 20))
    assert [record.ttl for record in older.rr] == [280, 40]
    assert [record.rtype for record in older.ar] == [dnslib.QTYPE.OPT]
    assert older.ar[0].edns_len == 1232


def test_a_denial_is_kept_as_long_as_its_soa_says() -> None:
    soa = "example.org 900 IN SOA ns.example.org admin.example.org 1 7200 900 1209600 30"
    assert wire.read_lifetimes(answered(soa=soa)).keep_s == 30
    assert wire.read_lifetimes(answered()).keep_s == 0


def test_too_long_an_answer_becomes_the_advice_to_ask_over_tcp() -> None:
    question = wire.read_question(query("example.org"))
    data = answered(*(f"example.org 60 IN A 192.0.2.{number}" for number in range(1, 60)))
    cut = dnslib.DNSRecord.parse(wire.truncated(wire.with_id(data, question.id), question))
    assert (cut.header.tc, cut.header.id, cut.rr) == (1, question.id, [])
