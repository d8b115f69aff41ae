"""JSON through the interpreter's C scanner and encoder alone.

``import json`` brings ``re`` and costs more than the whole rest of ``sampan ps`` (7 ms against 0.5), so
the few lines that the package wraps around the accelerator are here, without the options nobody uses.
"""

from __future__ import annotations

from _json import encode_basestring, make_encoder, make_scanner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_WHITESPACE = " \t\r\n"


class _ScannerSettings:
    """What the C scanner reads from its context; the names are json.JSONDecoder's."""

    strict = False
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float
    memo: dict[str, str] = {}


_scan = make_scanner(_ScannerSettings())  # type: ignore[arg-type]  # the stub wants itself


class InvalidJson(ValueError):
    """The text is not one JSON value."""


def loads(text: str | bytes | bytearray) -> Any:
    """The value of one JSON text. Raises InvalidJson."""
    if not isinstance(text, str):
        text = text.decode("utf-8", "surrogatepass")
    text = text.strip(_WHITESPACE)
    try:
        value, end = _scan(text, 0)
    except (StopIteration, ValueError) as error:
        raise InvalidJson(f"not JSON: {text[:80]!r}") from error
    if end != len(text):
        raise InvalidJson(f"extra text after JSON: {text[end : end + 80]!r}")
    return value


def _refuse(value: object) -> None:
    raise TypeError(f"no JSON form: {value!r}")


def dumps(value: object, *, sort_keys: bool = False) -> str:
    """Compact JSON, non-ASCII characters as they are."""
    encode = make_encoder(None, _refuse, encode_basestring, None, ":", ",", sort_keys, False, False)
    return "".join(encode(value, 0))
