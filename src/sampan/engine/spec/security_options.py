"""``--security-opt``, parsed."""

from __future__ import annotations

import msgspec

from sampan.base.errors import InvalidArgument

UNCONFINED = "unconfined"
BUILTIN = "builtin"


class InvalidSecurityOption(InvalidArgument):
    """Docker's text, its numbering included."""

    def __init__(self, option: str, number: int = 2) -> None:
        super().__init__(f'invalid --security-opt {number}: "{option}"')


class SecurityOptions(msgspec.Struct, frozen=True, kw_only=True):
    seccomp: str = ""
    """"" for the default, ``unconfined``, ``builtin``, or the JSON text of a profile."""
    apparmor: str = ""
    """"" for the default, ``unconfined``, or a profile's name."""
    no_new_privileges: bool = False
    writable_cgroups: bool | None = None
    """None: as privileged as the container is."""
    system_paths_unconfined: bool = False
    labels: list[str] = []
    """SELinux; kept for inspect, without effect on hosts without SELinux."""


_TRUE = ("1", "t", "T", "TRUE", "true", "True")
_FALSE = ("0", "f", "F", "FALSE", "false", "False")


def parse(options: list[str] | None, *, no_new_privileges: bool = False) -> SecurityOptions:
    """``no_new_privileges`` is the daemon's default. Raises InvalidSecurityOption.

    ``key:value`` is taken as ``key=value``, as old clients send it.
    """
    if not options:
        return _UNSET if not no_new_privileges else SecurityOptions(no_new_privileges=True)
    fields: dict[str, str | bool] = {"no_new_privileges": no_new_privileges}
    labels: list[str] = []
    for option in options:
        if option == "disable":
            labels.append(option)
            continue
        separator = "=" if "=" in option else ":"
        key, found, value = option.partition(separator)
        if not found and key not in ("no-new-privileges", "writable-cgroups"):
            raise InvalidSecurityOption(option, 1)
        if key == "label":
            labels.append(value)
        elif key in ("seccomp", "apparmor"):
            fields[key] = value
        elif key in ("no-new-privileges", "writable-cgroups"):
            fields[key.replace("-", "_")] = _boolean(value, option) if found else True
        elif key == "systempaths" and value == UNCONFINED:
            fields["system_paths_unconfined"] = True
        else:
            raise InvalidSecurityOption(option)
    return msgspec.convert({**fields, "labels": labels}, SecurityOptions)


def _boolean(value: str, option: str) -> bool:
    if value in _TRUE:
        return True
    if value in _FALSE:
        return False
    raise InvalidSecurityOption(option)


_UNSET = SecurityOptions()
