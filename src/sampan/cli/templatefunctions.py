"""The functions of ``--format`` templates: Go's own and those that Docker's client adds."""

from __future__ import annotations

from sampan.cli import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class TemplateError(Exception):
    """The template is wrong, or does not fit the value."""


def text_of(value: Any) -> str:
    """As Go's fmt prints it with %v: ``[a b]``, ``map[k:v]``, ``<nil>``."""
    if isinstance(value, str):
        return value
    if value is None:
        return "<no value>"
    if value is True or value is False:
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:g}" if value != int(value) or abs(value) >= 1e21 else str(int(value))
    if isinstance(value, list):
        return "[" + " ".join(map(_inner_text, value)) + "]"
    if isinstance(value, dict):
        return "map[" + " ".join(f"{key}:{_inner_text(value[key])}" for key in sorted(value)) + "]"
    if hasattr(value, "as_dict"):
        return text_of(value.as_dict())
    return str(value)


def _inner_text(value: Any) -> str:
    return "<nil>" if value is None else text_of(value)


def is_true(value: Any) -> bool:
    """Everything but the empty and zero values; an object is true."""
    if isinstance(value, (str, list, dict, int, float)) or value is None:
        return bool(value)
    return True


def _json(value: Any) -> str:
    if hasattr(value, "as_dict"):
        value = value.as_dict()
    # Go writes the keys of a map sorted; the fields of an object stay as the daemon sent them.
    return jsontext.dumps(value)


def _length(value: Any) -> int:
    if value is None:
        return 0
    if isinstance(value, str):
        return len(value.encode("utf-8", "surrogateescape"))
    return len(value)


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if value is None:
            raise TemplateError("index of untyped nil")
        if isinstance(value, dict):
            value = value.get(str(key), "" if all(isinstance(item, str) for item in value.values()) else None)
            continue
        if isinstance(key, bool) or not isinstance(key, int):
            raise TemplateError(f"cannot index a list with {text_of(key)!r}")
        if not 0 <= key < len(value):
            raise TemplateError(f"index out of range: {key}")
        value = value[key]
    return value


def _slice(value: Any, *bounds: int) -> Any:
    start, end = (*bounds, *([0, len(value)][len(bounds) :]))[:2]
    if not 0 <= start <= end <= len(value):
        raise TemplateError(f"slice bounds out of range: {start}:{end}")
    return value[start:end]


def _equal(first: Any, *others: Any) -> bool:
    if not others:
        raise TemplateError("missing argument for comparison")
    return any(type(first) is type(other) and first == other for other in others)


def _ordered(test: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def compare(left: Any, right: Any) -> bool:
        if type(left) is not type(right):
            raise TemplateError("incompatible types for comparison")
        return test(left, right)

    return compare


def _and(*values: Any) -> Any:
    return next((value for value in values if not is_true(value)), values[-1])


def _or(*values: Any) -> Any:
    return next((value for value in values if is_true(value)), values[-1])


def _print(*values: Any) -> str:
    """Go's Sprint: a space between two operands when neither is a string."""
    out = ""
    for index, value in enumerate(values):
        if index and not isinstance(value, str) and not isinstance(values[index - 1], str):
            out += " "
        out += text_of(value)
    return out


def _println(*values: Any) -> str:
    return " ".join(map(text_of, values)) + "\n"


def _printf(form: str, *values: Any) -> str:
    out = []
    rest = list(values)
    index = 0
    while index < len(form):
        if form[index] != "%":
            out.append(form[index])
            index += 1
            continue
        end = index + 1
        while end < len(form) and form[end] in "+-# 0123456789.":
            end += 1
        verb = form[end : end + 1]
        flags = form[index + 1 : end]
        index = end + 1
        if verb == "%":
            out.append("%")
        elif not rest:
            out.append(f"%!{verb}(MISSING)")
        else:
            out.append(_verb(verb, flags, rest.pop(0)))
    if rest:
        out.append("%!(EXTRA " + ", ".join(map(text_of, rest)) + ")")
    return "".join(out)


def _verb(verb: str, flags: str, value: Any) -> str:
    if verb == "q":
        from sampan.cli.units import go_quote

        return ("%" + flags + "s") % go_quote(text_of(value))
    if verb in ("s", "v"):
        return ("%" + flags.replace("#", "").replace("+", "") + "s") % text_of(value)
    if verb == "t" and isinstance(value, bool):
        return text_of(value)
    if verb in "dxXofeg" and verb and isinstance(value, (int, float)) and not isinstance(value, bool):
        return ("%" + flags + verb) % value
    if verb in ("x", "X") and isinstance(value, str):
        return value.encode().hex()
    return f"%!{verb}({text_of(value)})"


def _title(text: str) -> str:
    return "".join(
        char.upper() if index == 0 or text[index - 1].isspace() else char for index, char in enumerate(text)
    )


def _pad(text: str, before: int, after: int) -> str:
    return " " * before + text + " " * after if text else text


def _join(values: Any, separator: str) -> str:
    return separator.join(map(text_of, values or ()))


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "and": _and,
    "or": _or,
    "not": lambda value: not is_true(value),
    "eq": _equal,
    "ne": lambda left, right: not _equal(left, right),
    "lt": _ordered(lambda left, right: left < right),
    "le": _ordered(lambda left, right: left <= right),
    "gt": _ordered(lambda left, right: left > right),
    "ge": _ordered(lambda left, right: left >= right),
    "len": _length,
    "index": _index,
    "slice": _slice,
    "print": _print,
    "printf": _printf,
    "println": _println,
    "json": _json,
    "join": _join,
    "split": lambda text, separator: text.split(separator) if separator else list(text),
    "title": _title,
    "lower": str.lower,
    "upper": str.upper,
    "pad": _pad,
    "truncate": lambda text, length: text[:length],
}
