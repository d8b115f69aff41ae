"""Which capabilities a container gets: the default set, ``--cap-add``, ``--cap-drop``, ``--privileged``."""

from __future__ import annotations

from functools import lru_cache

from sampan.base.errors import InvalidArgument
from sampan.kernel.capabilities import NAMES, NUMBERS, last_capability, mask, own_bounding_set

__all__ = ["DEFAULT", "available", "effective_set", "last_capability", "mask", "normalize"]

ALL = "ALL"

_DEFAULT_WORDS = (
    "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE"
    " SYS_CHROOT KILL AUDIT_WRITE"
)
DEFAULT = tuple("CAP_" + word for word in _DEFAULT_WORDS.split())
"""The fourteen of every container that asks for nothing else."""


class UnknownCapability(InvalidArgument):
    """Docker's two texts."""


@lru_cache(maxsize=1)
def available() -> tuple[str, ...]:
    """What this daemon can hand out: known to the kernel and within its own bounding set."""
    bounding = own_bounding_set()
    last = last_capability()
    return tuple(name for number, name in enumerate(NAMES) if number <= last and bounding >> number & 1)


def normalize(names: list[str] | None) -> list[str]:
    """Upper-case with ``CAP_``; ``ALL`` stays. Raises UnknownCapability."""
    result = []
    for given in names or ():
        name = given.upper()
        if name == ALL:
            result.append(name)
            continue
        if not name.startswith("CAP_"):
            name = "CAP_" + name
        if name not in NUMBERS:
            raise UnknownCapability(f'unknown capability: "{name}"')
        if name not in available():
            raise UnknownCapability(
                "capability not supported by your kernel or not available in the current environment: "
                f'"{name}"'
            )
        result.append(name)
    return result


def effective_set(add: list[str] | None, drop: list[str] | None, *, privileged: bool) -> list[str]:
    """The set of a container, without duplicates. Raises UnknownCapability.

    With ALL added, what is dropped is taken away from everything; with ALL dropped, only what is added
    remains; otherwise drops come before adds.
    """
    if privileged:
        return list(available())
    if not add and not drop:
        return list(DEFAULT)
    added, dropped = normalize(add), normalize(drop)
    if ALL in added:
        return [name for name in available() if name not in dropped]
    if ALL in dropped:
        return list(dict.fromkeys(added))
    return list(dict.fromkeys([*(name for name in DEFAULT if name not in dropped), *added]))
