"""How one setting is written as flag, file key and environment variable, and how its text is read."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

TRUE = frozenset({"1", "t", "true", "yes", "on"})
FALSE = frozenset({"0", "f", "false", "no", "off"})
_SIZE = re.compile(r"^(\d+(?:\.\d+)?)\s*([kmgtp]?)i?b?$", re.IGNORECASE)
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}


class SettingError(Exception):
    """A flag, key or value that cannot be used. The text is for the person who wrote it."""


@dataclasses.dataclass(frozen=True)
class Option:
    """The spelling of one field of :class:`sampan.daemon.settings.Settings`."""

    help: str
    flag: str = ""
    """Without dashes; empty: settable in files only."""
    short: str = ""
    key: str = ""
    """In daemon.json and sampan.toml; empty: as the flag."""
    kind: str = "text"
    """text, flag, number, size, list or map."""
    effect: bool = True
    """False: accepted so that tools made for dockerd can pass it, without effect."""
    reloadable: bool = False
    read: Callable[[str], Any] | None = None
    """Check and convert one text value; raises SettingError."""

    @property
    def file_key(self) -> str:
        return self.key or self.flag

    @property
    def environment(self) -> str:
        return "SAMPAN_" + self.file_key.upper().replace("-", "_")


def read_flag(text: str) -> bool:
    word = text.strip().lower()
    if word in TRUE:
        return True
    if word in FALSE:
        return False
    raise SettingError(f'invalid boolean value "{text}"')


def read_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise SettingError(f'invalid number "{text}"') from None


_SPAN = re.compile(r"(\d+)\s*([smhdw]?)", re.IGNORECASE)
_SPAN_S = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def read_span_s(text: str) -> int:
    """``30d`` or ``12h`` -> seconds."""
    match = _SPAN.fullmatch(text.strip())
    if match is None:
        raise SettingError(f"invalid time span: '{text}': a number with s, m, h, d or w")
    return int(match[1]) * _SPAN_S[match[2].lower()]


def read_percent(text: str) -> int:
    """``85`` or ``85%``; 0 switches off."""
    number = read_number(text.strip().removesuffix("%"))
    if not 0 <= number <= 100:
        raise SettingError(f"invalid percentage: '{text}'")
    return number


def read_size(text: str) -> int:
    """``64M`` -> bytes."""
    match = _SIZE.match(text.strip())
    if match is None:
        raise SettingError(f"invalid size: '{text}'")
    return int(float(match[1]) * _UNITS[match[2].lower()])


def read_pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise SettingError(f"bad attribute format: {text}")
    return name, value


def from_text(option: Option, text: str) -> Any:
    """One occurrence of a flag, or a variable's value for kinds that are not lists."""
    if option.read is not None:
        return option.read(text)
    if option.kind == "flag":
        return read_flag(text)
    if option.kind == "number":
        return read_number(text)
    if option.kind == "size":
        return read_size(text)
    if option.kind == "map":
        return read_pair(text)
    return text


def combine(option: Option, values: list[Any]) -> Any:
    """All occurrences of a flag as the field's value."""
    if option.kind == "list":
        return tuple(values)
    if option.kind == "map":
        return dict(values)
    return values[-1]


def from_file(option: Option, value: Any, path: str) -> Any:
    """A value of daemon.json or sampan.toml as the field's value."""
    key = option.file_key

    def wrong(expected: str) -> SettingError:
        return SettingError(
            f"unable to configure the Sampan daemon with file {path}: the value of {key} must be {expected}"
        )

    if option.kind == "flag":
        if not isinstance(value, bool):
            raise wrong("true or false")
        return value
    if option.kind in ("number", "size"):
        if isinstance(value, str):
            return from_text(option, value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise wrong("a number")
        return value
    if option.kind == "list":
        if not isinstance(value, list):
            raise wrong("a list")
        return tuple(from_text(option, one) if isinstance(one, str) else one for one in value)
    if option.kind == "map":
        if not isinstance(value, dict):
            raise wrong("a map")
        return {name: _text_of(one) for name, one in value.items()}
    if not isinstance(value, str):
        raise wrong("a text")
    return from_text(option, value)


def _text_of(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, (str, dict)) else str(value)
