"""From blocks of json-file records to what a client gets: a pure function of options and bytes."""

from __future__ import annotations

import re
from urllib.parse import quote_plus

import msgspec

from sampan.base.clock import parse_ns
from sampan.formats.stdcopy import STDERR, STDOUT, frame, frame_each


class LogQuery(msgspec.Struct, frozen=True, kw_only=True):
    """What a client asked for."""

    stdout: bool = True
    stderr: bool = True
    since_ns: int = 0
    until_ns: int = 0
    """0: no bound."""
    timestamps: bool = False
    details: bool = False
    framed: bool = True
    merged: bool = False
    """Neighbouring lines of one stream share a frame, for clients that only copy what frames hold."""


class LogRecord(msgspec.Struct, gc=False):
    """A line of the file; anything may be missing in a foreign one."""

    log: str = ""
    stream: str = "stdout"
    time: str = ""
    attrs: dict[str, str] | None = None


_decoder = msgspec.json.Decoder(LogRecord)
_LAST_TIME = re.compile(rb'"time":"([^"\\]*)"')
_FULL_TIME_CHARS = len("2026-01-02T03:04:05.000000000Z")


class Renderer:
    """Holds no more than the last time it parsed, and whether ``until`` was passed."""

    def __init__(self, query: LogQuery) -> None:
        self._query = query
        self._plain = not (query.timestamps or query.details)
        self._time_text = ""
        self._time_ns = 0
        self.finished = False
        """A record after ``until_ns`` was seen: nothing more will come."""

    def render(self, block: bytes) -> bytes:
        """``block`` is whole lines. Lines that are no records are left out."""
        query = self._query
        if query.since_ns and self._ends_before(block, query.since_ns):
            return b""
        records = decode(block)
        if query.since_ns or query.until_ns:
            records = self._in_time(records)
        if not (query.stdout and query.stderr):
            wanted = "stdout" if query.stdout else "stderr"
            records = [record for record in records if record.stream == wanted]
        if not records:
            return b""
        return self._encode(records)

    def _encode(self, records: list[LogRecord]) -> bytes:
        texts = [record.log for record in records] if self._plain else [self._line(r) for r in records]
        if not self._query.framed:
            return "".join(texts).encode()
        streams = [record.stream for record in records]
        one_stream = streams.count(streams[0]) == len(streams)
        if self._query.merged and one_stream:
            return frame(_number(streams[0]), "".join(texts).encode())
        payloads = [text.encode() for text in texts]
        if one_stream:
            return frame_each(_number(streams[0]), payloads)
        return b"".join(
            [
                frame_each(_number(stream), (payload,))
                for stream, payload in zip(streams, payloads, strict=True)
            ]
        )

    def _line(self, record: LogRecord) -> str:
        text = record.log
        if self._query.details:
            text = f"{details_text(record.attrs or {})} {text}"
        if self._query.timestamps:
            text = f"{full_time(record.time)} {text}"
        return text

    def _in_time(self, records: list[LogRecord]) -> list[LogRecord]:
        since_ns, until_ns = self._query.since_ns, self._query.until_ns
        kept = []
        for record in records:
            time_ns = self._parse(record.time)
            if until_ns and time_ns > until_ns:
                self.finished = True
                break
            if time_ns >= since_ns:
                kept.append(record)
        return kept

    def _ends_before(self, block: bytes, since_ns: int) -> bool:
        last = block.rfind(b"\n", 0, len(block) - 1) + 1
        found = _LAST_TIME.findall(block, last)
        return bool(found) and self._parse(found[-1].decode(errors="replace")) < since_ns

    def _parse(self, text: str) -> int:
        if text != self._time_text:
            self._time_text = text
            try:
                self._time_ns = parse_ns(text)
            except ValueError:
                self._time_ns = 0
        return self._time_ns


def decode(block: bytes) -> list[LogRecord]:
    """The records of whole lines; a line torn by a crash of the machine is no reason to lose the rest."""
    try:
        return _decoder.decode_lines(block)
    except msgspec.MsgspecError:
        return [record for line in block.split(b"\n") if (record := _decode_one(line)) is not None]


def _decode_one(line: bytes) -> LogRecord | None:
    try:
        return _decoder.decode(line)
    except msgspec.MsgspecError:
        return None


def details_text(attributes: dict[str, str]) -> str:
    return ",".join(f"{quote_plus(key)}={quote_plus(attributes[key])}" for key in sorted(attributes))


def full_time(text: str) -> str:
    """Docker shows nine digits always; other writers leave out zeros at the end."""
    if len(text) == _FULL_TIME_CHARS or not text.endswith("Z"):
        return text
    seconds, _, fraction = text[:-1].partition(".")
    return f"{seconds}.{fraction.ljust(9, '0')}Z"


def _number(stream: str) -> int:
    return STDERR if stream == "stderr" else STDOUT
