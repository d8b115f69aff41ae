"""DNS messages as far as this server has to understand them (RFC 1035, 6891). No I/O.

A question for a name of ours is answered from here in some microseconds, for which a general library for DNS
messages needs a hundred. Everything else is passed on byte by byte; only its TTLs are looked at.

Standard library only.
"""

from __future__ import annotations

import socket
from struct import Struct, error

A = 1
CNAME = 5
SOA = 6
PTR = 12
AAAA = 28
OPT = 41

NO_ERROR = 0
FORMAT_ERROR = 1
SERVER_FAILURE = 2
NO_SUCH_NAME = 3
NOT_IMPLEMENTED = 4
REFUSED = 5

PLAIN_UDP_BYTES = 512
LARGEST_UDP_BYTES = 4096
"""What is offered to, and accepted from, those who announce more."""

_HEADER = Struct(">HHHHHH")
_QUESTION_END = Struct(">HH")
_RECORD = Struct(">HHIH")
_RESPONSE = 0x8000
_OPCODE = 0x7800
_TRUNCATED = 0x0200
_RECURSION_DESIRED = 0x0100
_RECURSION_AVAILABLE = 0x0080
_POINTER = 0xC0
_FAMILIES = {A: socket.AF_INET, AAAA: socket.AF_INET6}
_IN = 1
_ANY_CLASS = 255
_NAME_OF_QUESTION = b"\xc0\x0c"
_OUR_OPTIONS = b"\0" + _RECORD.pack(OPT, LARGEST_UDP_BYTES, 0, 0)

Record = tuple[int, int, bytes]
"""Type, TTL in seconds, data."""


class Malformed(ValueError):
    """Not a message that can be answered."""


class Question:
    """One query. ``name`` is lower case without the last dot, ``text`` the question as it came."""

    __slots__ = ("flags", "id", "kind", "name", "text", "udp_bytes", "wants_edns")

    def __init__(self, id_: int, flags: int, name: str, kind: int, text: bytes) -> None:
        self.id = id_
        self.flags = flags
        self.name = name
        self.kind = kind
        self.text = text
        self.udp_bytes = PLAIN_UDP_BYTES
        self.wants_edns = False


def read_question(data: bytes) -> Question:
    """A query with one question of class IN. Raises Malformed for everything else."""
    try:
        id_, flags, questions, answers, authorities, additional = _HEADER.unpack_from(data)
        if flags & _RESPONSE or questions != 1 or answers or authorities:
            raise Malformed("not a query with one question")
        name, end = _read_plain_name(data, 12)
        kind, class_ = _QUESTION_END.unpack_from(data, end)
    except (error, IndexError) as cause:
        raise Malformed("truncated") from cause
    if class_ not in (_IN, _ANY_CLASS):
        raise Malformed("not of class IN")
    question = Question(id_, flags, name, kind, data[12 : end + 4])
    if additional:
        _read_options(question, data, end + 4)
    return question


def _read_plain_name(data: bytes, position: int) -> tuple[str, int]:
    """A name without compression, which a question has no use for."""
    labels = []
    start = position
    while length := data[position]:
        if length > 63:
            raise Malformed("a compressed name in the question")
        labels.append(data[position + 1 : position + 1 + length])
        position += 1 + length
        if position - start > 254:
            raise Malformed("a name of more than 255 bytes")
    return b".".join(labels).decode("latin-1").lower(), position + 1


def _read_options(question: Question, data: bytes, position: int) -> None:
    """The OPT record where it comes first, which is where every client puts it."""
    if len(data) >= position + 11 and data[position] == 0:
        kind, size, _, _ = _RECORD.unpack_from(data, position + 1)
        if kind == OPT:
            question.wants_edns = True
            question.udp_bytes = min(max(size, PLAIN_UDP_BYTES), LARGEST_UDP_BYTES)


def opcode(question: Question) -> int:
    """0 is a query; nothing else is known here."""
    return (question.flags & _OPCODE) >> 11


def answer(question: Question, records: list[Record], limit_bytes: int, code: int = NO_ERROR) -> bytes:
    """The answer to a question for a name of ours; what does not fit is left out and said so (TC)."""
    flags = _RESPONSE | (question.flags & (_OPCODE | _RECURSION_DESIRED)) | _RECURSION_AVAILABLE | code
    tail = _OUR_OPTIONS if question.wants_edns else b""
    body = [question.text]
    size = 12 + len(question.text) + len(tail)
    count = 0
    for kind, ttl_s, data in records:
        size += 12 + len(data)
        if size > limit_bytes:
            flags |= _TRUNCATED
            break
        body.append(_NAME_OF_QUESTION + _RECORD.pack(kind, _IN, ttl_s, len(data)) + data)
        count += 1
    return _HEADER.pack(question.id, flags, 1, count, 0, 1 if tail else 0) + b"".join(body) + tail


def refuse(data: bytes, code: int = FORMAT_ERROR) -> bytes:
    """An answer to what could not be understood; empty when there is not even a header to answer to."""
    if len(data) < 12:
        return b""
    id_, flags = Struct(">HH").unpack_from(data)
    if flags & _RESPONSE:
        return b""  # answers to answers would go round for ever
    return _HEADER.pack(id_, _RESPONSE | (flags & _RECURSION_DESIRED) | code, 0, 0, 0, 0)


def encode_name(name: str) -> bytes:
    """As PTR data has it. Raises Malformed for labels that DNS cannot carry."""
    parts = []
    for label in name.split("."):
        raw = label.encode("latin-1", "replace")
        if not 0 < len(raw) < 64:
            raise Malformed(f"no name of a host: {name}")
        parts.append(bytes((len(raw),)) + raw)
    return b"".join(parts) + b"\0"


def is_truncated(data: bytes) -> bool:
    """Whether an answer says that it did not fit."""
    return bool(data[2] & 0x02)


def with_id(data: bytes, id_: int) -> bytes:
    return id_.to_bytes(2, "big") + data[2:]


def truncated(data: bytes, question: Question) -> bytes:
    """An answer that is too long for its client, as the advice to ask again over TCP."""
    flags = int.from_bytes(data[2:4], "big") | _TRUNCATED
    return _HEADER.pack(question.id, flags, 1, 0, 0, 0) + question.text


class Lifetimes:
    """Where the TTLs of an answer are, and how long all of it may be kept."""

    __slots__ = ("code", "keep_s", "positions")

    def __init__(self, code: int, keep_s: int, positions: tuple[int, ...]) -> None:
        self.code = code
        self.keep_s = keep_s
        self.positions = positions


def read_lifetimes(data: bytes) -> Lifetimes:
    """Raises Malformed. An answer without records may be kept as long as its SOA says (RFC 2308, 5)."""
    try:
        _, flags, questions, answers, authorities, additional = _HEADER.unpack_from(data)
        position = 12
        for _ in range(questions):
            position = _skip_name(data, position) + 4
        positions = []
        keep_s = -1
        for number in range(answers + authorities + additional):
            position = _skip_name(data, position)
            kind, _, ttl_s, length = _RECORD.unpack_from(data, position)
            if position + 10 + length > len(data):
                raise Malformed("truncated")
            if kind != OPT:
                positions.append(position + 4)
                if kind == SOA and not answers:
                    end = position + 10 + length  # its last field is MINIMUM
                    ttl_s = min(ttl_s, int.from_bytes(data[end - 4 : end], "big"))
                if number < answers or not answers:
                    keep_s = ttl_s if keep_s < 0 else min(keep_s, ttl_s)
            position += 10 + length
    except (error, IndexError) as cause:
        raise Malformed("truncated") from cause
    return Lifetimes(flags & 0xF, max(keep_s, 0), tuple(positions))


def make_query(id_: int, name: str, kind: int) -> bytes:
    """A question of our own, to be answered by a server that asks others. Raises Malformed."""
    question = encode_name(name.rstrip(".")) + _QUESTION_END.pack(kind, _IN)
    return _HEADER.pack(id_, _RECURSION_DESIRED, 1, 0, 0, 0) + question


def code_of(data: bytes) -> int:
    """Of an answer: NO_ERROR, NO_SUCH_NAME, ... Raises Malformed."""
    if len(data) < 12:
        raise Malformed("truncated")
    return data[3] & 0xF


def addresses_of(data: bytes, name: str) -> list[tuple[int, bytes, int]]:
    """Family, packed address and TTL in seconds of every address that an answer gives to ``name`` (lower
    case), be it by other names that its CNAMEs lead to; the TTL is the lowest on the way. Records of names
    that nobody was asked about do not count. Raises Malformed."""
    aliases: dict[str, tuple[str, int]] = {}
    found: list[tuple[str, int, bytes, int]] = []
    try:
        _, _, questions, answers, _, _ = _HEADER.unpack_from(data)
        position = 12
        for _ in range(questions):
            position = _skip_name(data, position) + 4
        for _ in range(answers):
            owner, position = _read_name(data, position)
            kind, _, ttl_s, length = _RECORD.unpack_from(data, position)
            position += 10
            if position + length > len(data):
                raise Malformed("truncated")
            if kind == CNAME:
                aliases[owner] = _read_name(data, position)[0], ttl_s
            elif kind in _FAMILIES and length == (4 if kind == A else 16):
                found.append((owner, _FAMILIES[kind], data[position : position + length], ttl_s))
            position += length
    except (error, IndexError) as cause:
        raise Malformed("truncated") from cause
    lives = {name: 0xFFFFFFFF}
    while (step := aliases.get(name)) is not None and step[0] not in lives:
        lives[step[0]] = min(lives[name], step[1])
        name = step[0]
    return [
        (family, packed, min(ttl_s, lives[owner])) for owner, family, packed, ttl_s in found if owner in lives
    ]


def _read_name(data: bytes, position: int) -> tuple[str, int]:
    """Lower case, and where it ends; compressed ones point backwards only (RFC 1035, 4.1.4)."""
    labels: list[bytes] = []
    end = -1
    size = 0
    while length := data[position]:
        if length >= _POINTER:
            target = (length & 0x3F) << 8 | data[position + 1]
            end = position + 2 if end < 0 else end
            if target >= position:
                raise Malformed("a name that points forwards")
            position = target
            continue
        if length > 63 or (size := size + length + 1) > 254:
            raise Malformed("a name that is too long")
        labels.append(data[position + 1 : position + 1 + length])
        position += 1 + length
    return b".".join(labels).decode("latin-1").lower(), position + 1 if end < 0 else end


def _skip_name(data: bytes, position: int) -> int:
    while length := data[position]:
        if length >= _POINTER:
            return position + 2
        position += 1 + length
    return position + 1


def aged(data: bytes, positions: tuple[int, ...], elapsed_s: int) -> bytes:
    """The answer with its TTLs that much lower."""
    changed = bytearray(data)
    for position in positions:
        ttl_s = int.from_bytes(changed[position : position + 4], "big")
        changed[position : position + 4] = max(ttl_s - elapsed_s, 0).to_bytes(4, "big")
    return bytes(changed)
