"""``WWW-Authenticate`` (RFC 9110, 11.6.1) as registries send it."""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAMETER = re.compile(rf'({_WORD})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|({_WORD}))')
_SCHEME = re.compile(rf"({_WORD})(?:\s+|$|(?=,))")


class Challenge(msgspec.Struct, frozen=True, kw_only=True):
    scheme: str
    """basic or bearer, in lower case."""
    parameters: dict[str, str]


def parse_challenges(values: Iterable[str]) -> list[Challenge]:
    """Every challenge of all headers; what cannot be read is skipped."""
    found = []
    for text in values:
        found += _parse(text)
    return found


def _parse(text: str) -> list[Challenge]:
    found: list[Challenge] = []
    at = 0
    while at < len(text):
        if text[at] in ", \t":
            at += 1
            continue
        parameter = _PARAMETER.match(text, at)
        if parameter is not None and found:
            value = parameter[2] if parameter[2] is not None else parameter[3]
            found[-1].parameters[parameter[1].lower()] = re.sub(r"\\(.)", r"\1", value)
            at = parameter.end()
            continue
        scheme = _SCHEME.match(text, at)
        if scheme is None:
            break
        found.append(Challenge(scheme=scheme[1].lower(), parameters={}))
        at = scheme.end()
    return found
