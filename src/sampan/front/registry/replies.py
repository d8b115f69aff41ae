"""Answers: small ones whole, blobs by sendfile(2) where the connection is plain and the blob a file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
from aiohttp import web
from multidict import CIMultiDict

from .errors import ErrorBody

JSON = "application/json"
API_VERSION = "registry/2.0"
WARNING_LIMIT_BYTES = 4096
"""Of all Warning headers of an answer (distribution-spec 1.1, "Warnings")."""
encode = msgspec.json.Encoder().encode


def headers(pairs: Iterable[tuple[str, str]] = ()) -> CIMultiDict[str]:
    """Those of every answer, and ``pairs``; a name may come more than once."""
    return CIMultiDict([("Docker-Distribution-Api-Version", API_VERSION), ("Server", "Sampan"), *pairs])


def reply(
    status: int, pairs: Iterable[tuple[str, str]] = (), body: bytes = b"", content_type: str = ""
) -> web.Response:
    fields = headers(pairs)
    if content_type:
        fields["Content-Type"] = content_type
    answer = web.Response(status=status, headers=fields, body=body)
    if not content_type:
        answer.headers.popall("Content-Type", None)
    return answer


def json_reply(value: object, status: int = 200, pairs: Iterable[tuple[str, str]] = ()) -> web.Response:
    return reply(status, pairs, encode(value), JSON)


def head_reply(
    pairs: Iterable[tuple[str, str]], size_bytes: int, content_type: str, *, status: int = 200
) -> web.Response:
    """What a GET would say of ``size_bytes`` of content, without it."""
    fields = headers([*pairs, ("Content-Length", str(size_bytes))])
    fields["Content-Type"] = content_type
    return web.Response(status=status, headers=fields)


def error_reply(status: int, body: ErrorBody, pairs: Iterable[tuple[str, str]] = ()) -> web.Response:
    return json_reply(body, status, pairs)


def warning_pairs(texts: Sequence[str]) -> list[tuple[str, str]]:
    """RFC 7234, 5.5, with code 299 and no date, as the specification wants them."""
    pairs = []
    left = WARNING_LIMIT_BYTES
    for text in texts:
        plain = "".join(char if char.isascii() and char.isprintable() else "?" for char in text)
        value = '299 - "' + plain.replace("\\", "\\\\").replace('"', '\\"') + '"'
        left -= len("Warning: \r\n") + len(value)
        if left < 0:
            break
        pairs.append(("Warning", value))
    return pairs
