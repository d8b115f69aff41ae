"""JSON bodies as Go's decoder reads them: unknown fields ignored, null leaves the default, names in any case.

The strict and fast decode comes first; what it refuses is read again leniently, guided by the type. The
docker client never needs the second reading, docker-py (which sends null for what is unset) always does.
"""

from __future__ import annotations

import re
import types
import typing
from functools import lru_cache
from typing import Any, TypeVar

import msgspec

from sampan.base.errors import InvalidArgument

T = TypeVar("T")

STRING_OR_LIST = frozenset({"Cmd", "Entrypoint", "Shell", "CapAdd", "CapDrop"})
"""Fields where Docker takes a bare string for a list of one (moby: strslice.StrSlice)."""


class InvalidBody(InvalidArgument):
    def __init__(self, reason: str) -> None:
        super().__init__(f"invalid JSON: {reason}")


_LONG_NUMBER = re.compile(rb"[0-9]{19}")
"""Go's int64 ends at 9223372036854775807; most bodies have no number that long."""

_decoders: dict[Any, msgspec.json.Decoder[Any]] = {}


def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.json.Decoder(kind)
    return decoder


@lru_cache(maxsize=64)
def _fields(kind: type[msgspec.Struct]) -> dict[str, tuple[str, Any]]:
    """Lower-case wire name -> (wire name, type)."""
    return {item.encode_name.lower(): (item.encode_name, item.type) for item in msgspec.structs.fields(kind)}


def decode_body(body: bytes, kind: type[T]) -> T:
    """``body`` as ``kind``. Raises InvalidBody with Docker's prefix."""
    if not body:
        raise InvalidBody("got EOF while reading request body")
    if _LONG_NUMBER.search(body):
        return _decode_leniently(body, kind)
    try:
        return _decoder(kind).decode(body)  # type: ignore[no-any-return]
    except msgspec.ValidationError:
        return _decode_leniently(body, kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidBody(_reason(error)) from None


def _decode_leniently(body: bytes, kind: type[T]) -> T:
    try:
        value = msgspec.json.decode(body)
        return msgspec.convert(_fitted(value, kind), kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidBody(_reason(error)) from None


def decode_any_case(body: bytes, kind: type[T]) -> T:
    """As :func:`decode_body`, for callers who found a field missing that must be there."""
    return _decode_leniently(body, kind)


def _reason(error: BaseException) -> str:
    text = str(error)
    if text == "Input data was truncated":
        return "unexpected EOF"
    return f"json: cannot unmarshal: {text}" if isinstance(error, msgspec.ValidationError) else text


def _fitted(value: Any, kind: Any) -> Any:
    """``value`` with nulls dropped and names corrected where ``kind`` is or contains a struct."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return _fitted_struct(value, kind) if isinstance(value, dict) else value
    if kind is int and isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise InvalidBody(f"json: cannot unmarshal number {value} into Go value of type int64")
    origin = typing.get_origin(kind)
    if origin is typing.Union or origin is types.UnionType:
        if value is None:
            return None
        inner = [arm for arm in typing.get_args(kind) if arm is not type(None)]
        return _fitted(value, inner[0]) if len(inner) == 1 else value
    if origin is list and isinstance(value, list):
        item = typing.get_args(kind)[0]
        return [_fitted(one, item) for one in value if one is not None or _accepts_none(item)]
    if origin is dict and isinstance(value, dict):
        item = typing.get_args(kind)[1]
        if item is str:
            return {key: "" if one is None else one for key, one in value.items()}
        return {key: _fitted(one, item) for key, one in value.items()}
    return value


def _fitted_struct(value: dict[str, Any], kind: type[msgspec.Struct]) -> dict[str, Any]:
    known = _fields(kind)
    result = {}
    for key, one in value.items():
        if one is None:
            continue
        match = known.get(key.lower())
        if match is None:
            continue
        name, wanted = match
        if isinstance(one, str) and name in STRING_OR_LIST:
            one = [one] if one else []
        result[name] = _fitted(one, wanted)
    return result


def _accepts_none(kind: Any) -> bool:
    return kind is Any or type(None) in typing.get_args(kind)
