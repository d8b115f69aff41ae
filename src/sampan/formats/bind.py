"""What ``-v``, ``--mount`` and ``--volumes-from`` say, checked and brought into one form, without I/O.

The rules and texts are those of Docker's Linux mount parser (moby daemon/volume/mounts).
"""

from __future__ import annotations

import posixpath

import msgspec

from sampan.base.errors import InvalidArgument
from sampan.model.container import (
    BindOptions,
    Mount,
    MountPoint,
    TmpfsOptions,
    VolumeDriverConfig,
    VolumeOptions,
)

PROPAGATIONS = ("private", "rprivate", "slave", "rslave", "shared", "rshared")
DEFAULT_PROPAGATION = "rprivate"

_KINDS_OF_WORDS = (
    {"rw", "ro"},
    {"z", "Z"},
    set(PROPAGATIONS),
    {"nocopy"},
    {"consistent", "cached", "delegated"},
)
"""Of each kind a mode may name at most one."""

_OPTION_FIELDS = (
    ("bind", "bind_options", "BindOptions"),
    ("volume", "volume_options", "VolumeOptions"),
    ("image", "image_options", "ImageOptions"),
    ("tmpfs", "tmpfs_options", "TmpfsOptions"),
)


class InvalidMount(InvalidArgument):
    """A mount that can never be made as it is asked for."""


class ParsedBind(msgspec.Struct, frozen=True, kw_only=True):
    """One ``-v``: the same as a --mount, plus the mode as it was written."""

    mount: Mount
    mode: str


def clean_path(path: str) -> str:
    """Lexically normal, as Go's path.Clean: POSIX would keep a double slash at the front."""
    cleaned = posixpath.normpath(path)
    return "/" + cleaned.lstrip("/") if cleaned.startswith("//") else cleaned


def valid_mode(mode: str) -> bool:
    if not mode:
        return True
    words = mode.split(",")
    known = [sum(word in kind for word in words) for kind in _KINDS_OF_WORDS]
    return sum(known) == len(words) and max(known) <= 1


def parse_bind(text: str, volume_driver: str = "") -> ParsedBind:
    """``[source:]destination[:mode]``. Raises InvalidMount."""
    parts = text.split(":")
    wrong = f"invalid volume specification: '{text}'"
    if not parts[0] or len(parts) > 3 or (len(parts) == 2 and valid_mode(parts[1])):
        raise InvalidMount(wrong)
    mode = parts[2] if len(parts) == 3 else ""
    if not valid_mode(mode):
        raise InvalidMount(f"invalid mode: {mode}")
    words = mode.split(",")
    source = parts[0] if len(parts) > 1 else ""
    is_bind = source.startswith("/")
    volume_options = None
    if "nocopy" in words or (volume_driver and not is_bind):
        driver = VolumeDriverConfig(name=volume_driver) if volume_driver and not is_bind else None
        volume_options = VolumeOptions(no_copy="nocopy" in words, driver_config=driver)
    propagation = next((word for word in words if word in PROPAGATIONS), "")
    mount = Mount(
        type="bind" if is_bind else "volume",
        source=source,
        target=parts[1] if len(parts) > 1 else parts[0],
        read_only="ro" in words,
        bind_options=BindOptions(propagation=propagation) if propagation else None,
        volume_options=volume_options,
    )
    try:
        validate(mount)
    except InvalidMount as error:
        raise InvalidMount(f"{wrong}: {error.message}") from None
    return ParsedBind(mount=mount, mode=mode)


def parse_volumes_from(text: str) -> tuple[str, bool]:
    """``CONTAINER[:mode]``: the reference, and whether writing is allowed. Raises InvalidMount."""
    if not text:
        raise InvalidMount("volumes-from specification cannot be an empty string")
    reference, _, mode = text.partition(":")
    words = mode.split(",")
    if not valid_mode(mode) or any(word == "nocopy" or word in PROPAGATIONS for word in words):
        raise InvalidMount(f"invalid mode: {mode}")
    return reference, "ro" not in words


def validate(mount: Mount) -> None:
    """All rules that need no look at the host. Raises InvalidMount."""
    problem = _problem(mount)
    if problem:
        raise InvalidMount(f'invalid mount config for type "{mount.type}": {problem}')


def _problem(mount: Mount) -> str:
    for kind, attribute, name in _OPTION_FIELDS:
        if mount.type != kind and getattr(mount, attribute) is not None:
            return f"field {name} must not be specified"
    if not mount.target:
        return "field Target must not be empty"
    problem = target_problem(mount.target)
    if problem:
        return problem
    if mount.type == "bind":
        return _bind_problem(mount)
    if mount.type == "volume":
        return _volume_problem(mount)
    if mount.type == "tmpfs":
        return "field Source must not be specified" if mount.source else _tmpfs_problem(mount.tmpfs_options)
    if mount.type == "image":
        if not mount.source:
            return "field Source must not be empty"
        subpath = mount.image_options.subpath if mount.image_options else ""
        return "" if is_local(subpath) else "subpath must be a relative path within the volume"
    return "mount type unknown"


def target_problem(target: str) -> str:
    """Why nothing can be mounted there, or nothing. Also the rule for ``--tmpfs``."""
    if clean_path(target) == "/":
        return "invalid specification: destination can't be '/'"
    if not target.startswith("/"):
        return f"invalid mount path: '{target}' mount path must be absolute"
    return ""


def _bind_problem(mount: Mount) -> str:
    if not mount.source:
        return "field Source must not be empty"
    options = mount.bind_options or BindOptions()
    if options.propagation and options.propagation not in PROPAGATIONS:
        return f"invalid propagation mode: {options.propagation}"
    if not mount.source.startswith("/"):
        return f"invalid mount path: '{mount.source}' mount path must be absolute"
    return ""


def bind_conflict(mount: Mount) -> str:
    """Contradicting read-only options, which Docker reports when the container starts."""
    options = mount.bind_options or BindOptions()
    if options.read_only_non_recursive and options.read_only_force_recursive:
        return "mount options conflict: ReadOnlyNonRecursive && BindOptions.ReadOnlyForceRecursive"
    if not mount.read_only and options.read_only_non_recursive:
        return "mount options conflict: !ReadOnly && BindOptions.ReadOnlyNonRecursive"
    if not mount.read_only and options.read_only_force_recursive:
        return "mount options conflict: !ReadOnly && BindOptions.ReadOnlyForceRecursive"
    return ""


def _volume_problem(mount: Mount) -> str:
    subpath = mount.volume_options.subpath if mount.volume_options else ""
    if subpath and not mount.source:
        return "must not set Subpath when using anonymous volumes"
    return "" if is_local(subpath) else "subpath must be a relative path within the volume"


def is_local(subpath: str) -> bool:
    """Relative, and lexically inside. What links do to it is decided when it is opened."""
    if not subpath:
        return True
    return not subpath.startswith("/") and clean_path(subpath).split("/")[0] != ".."


def _tmpfs_problem(options: TmpfsOptions | None) -> str:
    for option in (options.options if options else None) or []:
        if not 1 <= len(option) <= 2:
            return "invalid option array length"
        if option[0] not in ("exec", "noexec"):
            return f"invalid option: {option[0]}"
    return ""


def tmpfs_data(options: TmpfsOptions | None, read_only: bool) -> str:
    """The mount data of a ``--mount type=tmpfs``, to be added to nosuid, nodev, noexec."""
    words = ["ro"] if read_only else []
    if options is not None:
        if options.mode:
            words.append(f"mode={options.mode:o}")
        if options.size_bytes:
            words.append(f"size={_short_size(options.size_bytes)}")
        words += ["=".join(option) for option in options.options or []]
    return ",".join(words)


def _short_size(size_bytes: int) -> str:
    for suffix, divisor in (("g", 1 << 30), ("m", 1 << 20), ("k", 1 << 10)):
        if size_bytes % divisor == 0:
            return f"{size_bytes // divisor}{suffix}"
    return str(size_bytes)


def point_of(mount: Mount, mode: str = "") -> MountPoint:
    """The mount point of a valid mount; a volume's source is filled in when the volume is known."""
    if mount.type == "bind":
        propagation = mount.bind_options.propagation if mount.bind_options else ""
        return MountPoint(
            type="bind",
            source=clean_path(mount.source),
            destination=clean_path(mount.target),
            mode=mode,
            rw=not mount.read_only,
            propagation=propagation or DEFAULT_PROPAGATION,
            spec=mount,
        )
    if mount.type == "volume":
        options = mount.volume_options or VolumeOptions()
        return MountPoint(
            type="volume",
            name=mount.source,
            destination=clean_path(mount.target),
            driver=options.driver_config.name if options.driver_config else "",
            mode=mode,
            rw=not mount.read_only,
            spec=mount,
            copy_up=not options.no_copy,
            created_by_mount=not mount.source,
        )
    return MountPoint(
        type=mount.type,
        source=mount.source,
        destination=clean_path(mount.target),
        mode=mode,
        rw=not mount.read_only and mount.type != "image",
        propagation=DEFAULT_PROPAGATION if mount.type == "image" else "",
        spec=mount,
    )
