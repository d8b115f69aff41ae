"""Platforms of images: ``linux/arm64/v8`` as text, OCI's object in descriptors, and what runs where.

The spellings that count as one are those of containerd's ``platforms`` package, which Docker uses.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from sampan.base.errors import InvalidArgument

_OS = {"macos": "darwin"}
_ARCHITECTURES = {
    "x86_64": "amd64",
    "x86-64": "amd64",
    "aarch64": "arm64",
    "i386": "386",
    "armhf": "arm",
    "armel": "arm",
}
_VARIANTS = {("arm", "armhf"): "v7", ("arm", "armel"): "v6"}
_SYSTEMS = frozenset(("linux", "windows", "darwin", "freebsd", "netbsd", "openbsd", "solaris", "wasi"))
_KNOWN_ARCHITECTURES = frozenset(
    ("386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64", "ppc64le",
     "riscv64", "s390x", "wasm")
)  # fmt: skip


class InvalidPlatform(InvalidArgument):
    """The text names no platform."""

    def __init__(self, text: str) -> None:
        super().__init__(f'"{text}" is an invalid platform specifier: use os/architecture/variant')


class Platform(msgspec.Struct, frozen=True, kw_only=True):
    """Normalised: ``aarch64`` is ``arm64``, and what its variant ``v8`` says is understood."""

    os: str = "linux"
    architecture: str = ""
    variant: str = ""
    os_version: str = ""

    @property
    def text(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)

    @property
    def is_known(self) -> bool:
        """False for ``unknown/unknown``, which indexes have for what is no image."""
        return self.os not in ("", "unknown") and self.architecture not in ("", "unknown")


def platform(os: str, architecture: str, variant: str = "", os_version: str = "") -> Platform:
    """With the usual spellings of its parts."""
    os, spelled, variant = os.lower(), architecture.lower(), variant.lower()
    arch = _ARCHITECTURES.get(spelled, spelled)
    variant = _VARIANTS.get((arch, spelled), variant)
    if variant.isdigit():
        variant = f"v{variant}"
    if (arch, variant) in (("arm64", "v8"), ("amd64", "v1")):
        variant = ""
    return Platform(os=_OS.get(os, os), architecture=arch, variant=variant, os_version=os_version)


def parse_platform(text: str, host_architecture: str) -> Platform:
    """``linux/arm64/v8``, or ``arm64`` or ``linux`` with what is left out as usual here. Raises
    InvalidPlatform."""
    parts = [part.lower() for part in text.split("/")]
    if len(parts) > 3 or not all(part and part.replace("_", "").replace("-", "").isalnum() for part in parts):
        raise InvalidPlatform(text)
    if len(parts) > 1:
        return platform(*parts)
    known = platform("linux", parts[0])
    if known.architecture in _KNOWN_ARCHITECTURES:
        return known
    if parts[0] in _SYSTEMS or parts[0] in _OS:
        return platform(parts[0], host_architecture)
    raise InvalidPlatform(text)


def read_platform(raw: Mapping[str, object] | None) -> Platform | None:
    """What a descriptor says; None when it says nothing that could be one."""
    if not raw:
        return None
    parts = [raw.get(key) or "" for key in ("os", "architecture", "variant", "os.version")]
    if not all(isinstance(part, str) for part in parts) or not (parts[0] or parts[1]):
        return None
    return platform(*(str(part) for part in parts))


def is_same(found: Platform, wanted: Platform) -> bool:
    """What ``--platform`` asks for. A variant that one side does not name is not compared."""
    if (found.os or "linux", found.architecture) != (wanted.os, wanted.architecture):
        return False
    return not found.variant or not wanted.variant or found.variant == wanted.variant


def rank(found: Platform | None, wanted: Platform) -> int | None:
    """How well ``found`` suits, more is better; None: it does not run there. An arm of variant v7 also runs
    v6 and v5. What names no platform suits everywhere, but worst."""
    if found is None:
        return 0
    if (found.os, found.architecture) != (wanted.os, wanted.architecture):
        return None
    if found.variant == wanted.variant:
        return 100
    if not found.variant or not wanted.variant:
        # nothing is said on one side: the plainest comes first
        return 50 - _number(found.variant)
    if found.architecture == "arm" and _number(found.variant) < _number(wanted.variant):
        return 10 + _number(found.variant)
    return None


def _number(variant: str) -> int:
    digits = variant.lstrip("v")
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 3 else 0
