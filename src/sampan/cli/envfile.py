"""Files of environment variables and labels, one ``NAME=value`` per line."""

from __future__ import annotations

_BOM = b"\xef\xbb\xbf"


def read_pairs(path: str, *, look_up: bool) -> list[str]:
    """The lines that are neither empty nor comments. A name without a value takes the environment's when
    ``look_up``, and is left out otherwise. Raises ValueError."""
    from os import environ

    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise ValueError(f"open {path}: {(error.strerror or '').lower()}") from None
    pairs = []
    for number, raw in enumerate(data.removeprefix(_BOM).split(b"\n"), 1):
        try:
            line = raw.removesuffix(b"\r").decode().lstrip()
        except UnicodeDecodeError:
            raise _wrong(path, f"invalid utf8 bytes at line {number}: {list(raw)}") from None
        if not line or line.startswith("#"):
            continue
        name, mark, _ = line.partition("=")
        if not name:
            raise _wrong(path, f"no variable name on line '{line}'")
        if " " in name or "\t" in name:
            raise _wrong(path, f"variable '{name}' contains whitespaces")
        if mark:
            pairs.append(line)
        elif look_up and name in environ:
            pairs.append(f"{name}={environ[name]}")
    return pairs


def _wrong(path: str, reason: str) -> ValueError:
    return ValueError(f"invalid env file ({path}): {reason}")
