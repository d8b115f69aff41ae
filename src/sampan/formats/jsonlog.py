"""Docker's json-file log format, the writing half: ``{"log":"…\\n","stream":"stdout","time":"…"}`` per line.

Standard library only and light: the monitor of every container loads it. Whole chunks are encoded with a
handful of ``bytes`` operations; nothing here runs per line or per byte unless a line is over-long or is
not UTF-8. The result is what Docker's own writer makes of the same bytes: besides what JSON demands,
``<``, ``>``, ``&``, U+2028 and U+2029 are escaped, and each byte that is not UTF-8 becomes U+FFFD.
"""

from __future__ import annotations

import codecs

PARTIAL_BYTES = 16 * 1024
"""A line of at least this many bytes is split into records of this size; only the last ends in a newline."""

_PLAIN = bytes(b for b in range(0x20, 0x80) if b not in b'"\\<>&')
_LINE_SEPARATORS = ((b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"))
_INVALID = "sampan-replace-each"
"""Error handler for what ``surrogateescape`` made of bytes that are not UTF-8: one by one, as Go counts."""


def _replace_each(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "\\ufffd" * (error.end - error.start), error.end


codecs.register_error(_INVALID, _replace_each)


def _escape_table() -> dict[int, bytes]:
    table = {b: b"\\u%04x" % b for b in (*range(0x20), *b"<>&") if b != 0x0A}
    table[0x0D] = b"\\r"
    table[0x22] = b'\\"'
    return table


_ESCAPES = _escape_table()


def encode(chunk: bytes, stream: str, time_text: bytes, attributes: bytes = b"") -> bytes:
    """The records of ``chunk``, one for each line.

    A last line without newline becomes a partial record, as do the full :data:`PARTIAL_BYTES` pieces of a
    longer line. ``time_text`` is RFC 3339 with nanoseconds; ``attributes`` a JSON object's text or nothing.
    """
    if not chunk:
        return b""
    extra = b',"attrs":' + attributes if attributes else b""
    end = b'","stream":"' + stream.encode() + b'"' + extra + b',"time":"' + time_text + b'"}\n'
    if len(chunk) < PARTIAL_BYTES or not _has_long_line(chunk):
        return _encode_lines(chunk, end)
    return b"".join([_encode_lines(piece, end) for piece in _split_long(chunk)])


def _encode_lines(chunk: bytes, end: bytes) -> bytes:
    body = escape(chunk)
    if body.endswith(b"\n"):
        return b'{"log":"' + body[:-1].replace(b"\n", b"\\n" + end + b'{"log":"') + b"\\n" + end
    return b'{"log":"' + body.replace(b"\n", b"\\n" + end + b'{"log":"') + end


def escape(chunk: bytes) -> bytes:
    """``chunk`` as the inside of JSON strings, newlines left alone."""
    special = chunk.translate(None, _PLAIN)
    if special.count(b"\n") == len(special):
        return chunk
    escaped = _escape_valid(chunk, special)
    if special.isascii():
        return escaped
    # Invalid bytes went through the replacements untouched: none of those can match inside a sequence
    # that UTF-8 allows, and the replacement character's own backslash must not be escaped.
    try:
        escaped.decode()
    except UnicodeDecodeError:
        text = escaped.decode(errors="surrogateescape")
        return text.encode(errors=_INVALID)
    return escaped


def _escape_valid(chunk: bytes, special: bytes) -> bytes:
    if b"\\" in special:
        chunk = chunk.replace(b"\\", b"\\\\")
    for byte in set(special):
        replacement = _ESCAPES.get(byte)
        if replacement is not None:
            chunk = chunk.replace(bytes((byte,)), replacement)
    if b"\xe2" in special:
        for separator, replacement in _LINE_SEPARATORS:
            chunk = chunk.replace(separator, replacement)
    return chunk


def _has_long_line(chunk: bytes) -> bool:
    position, size = 0, len(chunk)
    while size - position >= PARTIAL_BYTES:
        newline = chunk.rfind(b"\n", position, position + PARTIAL_BYTES)
        if newline < 0:
            return True
        position = newline + 1
    return False


def _split_long(chunk: bytes) -> list[bytes]:
    """Pieces that are runs of whole short lines, or one partial of exactly :data:`PARTIAL_BYTES`."""
    pieces: list[bytes] = []
    start = position = 0
    size = len(chunk)
    while size - position >= PARTIAL_BYTES:
        newline = chunk.rfind(b"\n", position, position + PARTIAL_BYTES)
        if newline >= 0:
            position = newline + 1
            continue
        if position > start:
            pieces.append(chunk[start:position])
        start = position + PARTIAL_BYTES
        pieces.append(chunk[position:start])
        position = start
    if start < size:
        pieces.append(chunk[start:])
    return pieces
