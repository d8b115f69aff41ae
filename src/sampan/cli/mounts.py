"""``--mount`` (fields as comma-separated values) and ``--volume``."""

from __future__ import annotations

from sampan.cli.options import boolean
from sampan.cli.units import parse_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Mount = dict[str, Any]


def csv_fields(text: str) -> list[str]:
    """One record of comma-separated values (RFC 4180). Raises ValueError."""
    if not text:
        raise ValueError("EOF")
    fields = []
    index = 0
    while True:
        if text[index : index + 1] == '"':
            value, index = _quoted(text, index + 1)
        else:
            end = text.find(",", index)
            end = len(text) if end < 0 else end
            value = text[index:end]
            if '"' in value:
                column = index + value.index('"') + 1
                raise ValueError(f'parse error on line 1, column {column}: bare " in non-quoted-field')
            index = end
        fields.append(value)
        if index >= len(text):
            return fields
        index += 1


def _quoted(text: str, index: int) -> tuple[str, int]:
    parts = []
    while True:
        end = text.find('"', index)
        if end < 0:
            raise ValueError(
                f'parse error on line 1, column {len(text) + 1}: extraneous or missing " in quoted-field'
            )
        parts.append(text[index:end])
        if text[end + 1 : end + 2] == '"':
            parts.append('"')
            index = end + 2
            continue
        if end + 1 < len(text) and text[end + 1] != ",":
            raise ValueError(
                f'parse error on line 1, column {end + 1}: extraneous or missing " in quoted-field'
            )
        return "".join(parts), end + 1


def absolute(path: str) -> str:
    """A source that begins with a dot is relative to where the command runs."""
    if path.startswith("."):
        from os.path import abspath

        return abspath(path)
    return path


class _Builder:
    """One --mount, field by field."""

    def __init__(self) -> None:
        self.mount: Mount = {"Type": "volume"}
        self.options: dict[str, Mount] = {}

    def part(self, name: str) -> Mount:
        if name not in self.options:
            self.options[name] = {}
            if name == "VolumeOptions":
                self.options[name] = {"Labels": {}, "DriverConfig": {}}
        return self.options[name]

    def bare(self, key: str, field: str) -> None:
        if key in ("readonly", "ro"):
            self.mount["ReadOnly"] = True
        elif key == "volume-nocopy":
            self.part("VolumeOptions")["NoCopy"] = True
        elif key == "bind-nonrecursive":
            self.part("BindOptions")["NonRecursive"] = True
        else:
            raise ValueError(f"invalid field '{field}' must be a key=value pair")

    def field(self, key: str, value: str, field: str) -> None:
        setter = _SETTERS.get(key)
        if setter is None:
            raise ValueError(f"unexpected key '{key}' in '{field}'")
        setter(self, key, value)


def _flag(key: str, value: str) -> bool:
    try:
        return boolean(value)
    except ValueError:
        raise ValueError(f"invalid value for {key}: {value}") from None


def _set_recursive(build: _Builder, key: str, value: str) -> None:
    names = {
        "disabled": "NonRecursive",
        "writable": "ReadOnlyNonRecursive",
        "readonly": "ReadOnlyForceRecursive",
    }
    if value in names:
        build.part("BindOptions")[names[value]] = True
    elif value != "enabled":
        raise ValueError(
            f'invalid value for {key}: {value} (must be "enabled", "disabled", "writable", or "readonly")'
        )


def _set_pair(target: dict[str, str], text: str) -> None:
    name, _, value = text.partition("=")
    if name:
        target[name] = value


def _set_size(build: _Builder, key: str, value: str) -> None:
    try:
        build.part("TmpfsOptions")["SizeBytes"] = parse_size(value)
    except ValueError:
        raise ValueError(f"invalid value for {key}: {value}") from None


def _set_mode(build: _Builder, key: str, value: str) -> None:
    if not value or set(value) - set("01234567") or int(value, 8) >= 1 << 32:
        raise ValueError(f"invalid value for {key}: {value}")
    build.part("TmpfsOptions")["Mode"] = int(value, 8)


def _text(name: str, convert: Callable[[str], str] = str) -> Callable[[_Builder, str, str], None]:
    def setter(build: _Builder, key: str, value: str) -> None:
        build.mount[name] = convert(value)

    return setter


_SETTERS: dict[str, Callable[[_Builder, str, str], None]] = {
    "type": _text("Type", str.lower),
    "source": _text("Source", absolute),
    "src": _text("Source", absolute),
    "target": _text("Target"),
    "dst": _text("Target"),
    "destination": _text("Target"),
    "consistency": _text("Consistency", str.lower),
    "readonly": lambda build, key, value: build.mount.__setitem__("ReadOnly", _flag(key, value)),
    "ro": lambda build, key, value: build.mount.__setitem__("ReadOnly", _flag(key, value)),
    "bind-propagation": lambda build, key, value: build.part("BindOptions").__setitem__(
        "Propagation", value.lower()
    ),
    "bind-nonrecursive": lambda build, key, value: build.part("BindOptions").__setitem__(
        "NonRecursive", _flag(key, value)
    ),
    "bind-recursive": _set_recursive,
    "volume-subpath": lambda build, key, value: build.part("VolumeOptions").__setitem__("Subpath", value),
    "volume-nocopy": lambda build, key, value: build.part("VolumeOptions").__setitem__(
        "NoCopy", _flag(key, value)
    ),
    "volume-label": lambda build, key, value: _set_pair(build.part("VolumeOptions")["Labels"], value),
    "volume-driver": lambda build, key, value: build.part("VolumeOptions")["DriverConfig"].__setitem__(
        "Name", value
    ),
    "volume-opt": lambda build, key, value: _set_pair(
        build.part("VolumeOptions")["DriverConfig"].setdefault("Options", {}), value
    ),
    "image-subpath": lambda build, key, value: build.part("ImageOptions").__setitem__("Subpath", value),
    "tmpfs-size": _set_size,
    "tmpfs-mode": _set_mode,
}

_BELONGS = {
    "VolumeOptions": "volume",
    "ImageOptions": "image",
    "BindOptions": "bind",
    "TmpfsOptions": "tmpfs",
}


def parse_mount(text: str) -> Mount:
    """A Mount of the API from ``type=bind,src=/a,dst=/b,readonly``. Raises ValueError."""
    build = _Builder()
    for field in csv_fields(text):
        key, mark, value = field.partition("=")
        if mark:
            build.field(key.lower(), value, field)
        else:
            build.bare(key.lower(), field)
    mount = build.mount
    if not mount["Type"]:
        raise ValueError("type is required")
    if not mount.get("Target"):
        raise ValueError("target is required")
    for name, kind in _BELONGS.items():
        if name in build.options and mount["Type"] != kind:
            raise ValueError(f"cannot mix '{kind}-*' options with mount type '{mount['Type']}'")
    _check_recursion(mount, build.options.get("BindOptions", {}))
    # The API's fields have omitempty: a false, empty or zero one is not sent.
    for name, options in build.options.items():
        mount[name] = {key: value for key, value in options.items() if value or key == "DriverConfig"}
    return {key: value for key, value in mount.items() if value or key in _BELONGS}


def _check_recursion(mount: Mount, bind: Mount) -> None:
    for name, word in (("ReadOnlyNonRecursive", "writable"), ("ReadOnlyForceRecursive", "readonly")):
        if bind.get(name) and not mount.get("ReadOnly"):
            raise ValueError(
                f"option 'bind-recursive={word}' requires 'readonly' to be specified in conjunction"
            )
    if bind.get("ReadOnlyForceRecursive") and bind.get("Propagation") != "rprivate":
        raise ValueError(
            "option 'bind-recursive=readonly' requires 'bind-propagation=rprivate' "
            "to be specified in conjunction"
        )


def parse_volume(spec: str) -> tuple[str, str]:
    """``(bind, anonymous target)`` of one ``--volume``; one of them is empty. Raises ValueError."""
    if not spec:
        raise ValueError("invalid empty volume spec")
    if len(spec) <= 2:
        return "", spec
    parts = _volume_parts(spec)
    if not all(parts):
        raise ValueError(f"invalid spec: {spec}: empty section between colons")
    if len(parts) > 3:
        raise ValueError(f"invalid spec: {spec}: too many colons")
    if len(parts) == 1:
        return "", spec
    if parts[0].startswith("."):
        host, _, target = spec.partition(":")
        return f"{absolute(host)}:{target}", ""
    return spec, ""


def _volume_parts(spec: str) -> list[str]:
    """Sections between colons; the colon after a single letter belongs to it, as in Docker's parser."""
    parts = [""]
    for char in spec:
        if char == ":" and not (len(parts[-1]) == 1 and parts[-1].isalpha()):
            parts.append("")
        else:
            parts[-1] += char
    return parts
