"""The json-file encoder against a line-by-line rendering of the rules, on arbitrary bytes."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from sampan.formats.jsonlog import PARTIAL_BYTES, encode

TIME = b"2026-11-23T21:00:00.000000001Z"


def one_by_one(record: bytes) -> str:
    """Go's rules: every byte that starts no valid UTF-8 sequence counts alone."""
    text, position = "", 0
    while position < len(record):
        for size in (1, 2, 3, 4):
            try:
                text += record[position : position + size].decode()
            except UnicodeDecodeError:
                continue
            position += size
            break
        else:
            text += "\ufffd"
            position += 1
    return text


def pieces(chunk: bytes) -> list[bytes]:
    found = []
    for line in _split(chunk):
        while len(line) > PARTIAL_BYTES or (len(line) == PARTIAL_BYTES and not line.endswith(b"\n")):
            found.append(line[:PARTIAL_BYTES])
            line = line[PARTIAL_BYTES:]
        if line:
            found.append(line)
    return found


def _split(chunk: bytes) -> list[bytes]:
    parts = chunk.split(b"\n")
    return [part + b"\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])


CONTROLS = [b"\n", b'"', b"\\", b"<", b"&", b"\r", b"\t", b"\x1b[0m", b"\x00", b"\x7f"]
SEQUENCES = [
    b"\xe2\x80\xa8",
    b"\xe2",
    b"\x80",
    b"\xff",
    b"\xed\xa0\x80",
    b"text",
    b"\xc3\xa9",
    b"\xf0\x9f\x98\x80",
]
MESSY = st.lists(st.sampled_from([*CONTROLS, *SEQUENCES]), max_size=40).map(b"".join)


@given(st.one_of(st.binary(max_size=300), MESSY))
def test_every_record_is_json_with_the_bytes_of_its_line(chunk: bytes) -> None:
    encoded = encode(chunk, "stderr", TIME)
    records = [json.loads(line) for line in encoded.split(b"\n")[:-1]]
    expected = [one_by_one(piece) for piece in _split(chunk)]
    assert [record["log"] for record in records] == expected
    assert all(list(record) == ["log", "stream", "time"] for record in records)
    assert all(record["stream"] == "stderr" and record["time"] == TIME.decode() for record in records)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0, 1, 10, PARTIAL_BYTES - 2, PARTIAL_BYTES - 1, PARTIAL_BYTES]), st.booleans()
        ),
        max_size=6,
    )
)
def test_long_lines_are_split_where_docker_splits_them(shape: list[tuple[int, bool]]) -> None:
    chunk = b"".join(b"a" * size + (b"\n" if ended else b"") for size, ended in shape)
    records = [json.loads(line)["log"].encode() for line in encode(chunk, "stdout", TIME).splitlines()]
    assert records == pieces(chunk)


def test_the_escapes_are_those_of_docker() -> None:
    encoded = encode(b'a"\\<>&\r\t\x01\xe2\x80\xa8\xff\x7f\n', "stdout", TIME)
    assert encoded == (
        rb'{"log":"a\"\\\u003c\u003e\u0026\r\u0009\u0001\u2028\ufffd' + b"\x7f" + rb'\n","stream":"stdout",'
        rb'"time":"2026-11-23T21:00:00.000000001Z"}' + b"\n"
    )


def test_attributes_come_before_the_time() -> None:
    assert encode(b"x\n", "stdout", TIME, b'{"tag":"t"}') == (
        b'{"log":"x\\n","stream":"stdout","attrs":{"tag":"t"},"time":"2026-11-23T21:00:00.000000001Z"}\n'
    )


def test_nothing_gives_nothing() -> None:
    assert encode(b"", "stdout", TIME) == b""
