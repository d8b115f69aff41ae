"""The local driver's options ``type``, ``device`` and ``o``: checked, and turned into mount(2) arguments."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Mapping

import msgspec

from sampan.formats.size import parse_binary
from sampan.kernel import mount as kernel_mount

from .errors import InvalidVolume, VolumeNotMounted

_REQUIRED = {"device": ("type",), "type": ("device",), "o": ("device", "type")}

_SET = {
    "bind": kernel_mount.MS_BIND,
    "rbind": kernel_mount.MS_BIND | kernel_mount.MS_REC,
    "ro": kernel_mount.MS_RDONLY,
    "nosuid": kernel_mount.MS_NOSUID,
    "nodev": kernel_mount.MS_NODEV,
    "noexec": kernel_mount.MS_NOEXEC,
    "sync": kernel_mount.MS_SYNCHRONOUS,
    "dirsync": kernel_mount.MS_DIRSYNC,
    "mand": kernel_mount.MS_MANDLOCK,
    "noatime": kernel_mount.MS_NOATIME,
    "nodiratime": kernel_mount.MS_NODIRATIME,
    "relatime": kernel_mount.MS_RELATIME,
    "strictatime": kernel_mount.MS_STRICTATIME,
}
_CLEAR = {
    "rw": kernel_mount.MS_RDONLY,
    "suid": kernel_mount.MS_NOSUID,
    "dev": kernel_mount.MS_NODEV,
    "exec": kernel_mount.MS_NOEXEC,
    "async": kernel_mount.MS_SYNCHRONOUS,
    "nomand": kernel_mount.MS_MANDLOCK,
    "atime": kernel_mount.MS_NOATIME,
    "diratime": kernel_mount.MS_NODIRATIME,
    "norelatime": kernel_mount.MS_RELATIME,
    "nostrictatime": kernel_mount.MS_STRICTATIME,
    "defaults": 0,
}


class MountArguments(msgspec.Struct, frozen=True, kw_only=True):
    device: str
    type: str
    flags: int
    data: str


def validate_options(options: Mapping[str, str]) -> None:
    """Raises InvalidVolume with Docker's texts."""
    for name in options:
        if name not in ("type", "o", "device", "size"):
            raise InvalidVolume(f'invalid option: "{name}"')
    if "size" in options:
        try:
            size_bytes = parse_binary(options["size"])
        except ValueError as error:
            raise InvalidVolume(str(error)) from None
        if size_bytes:
            raise InvalidVolume("quota size requested but no quota support")
    for name, required in _REQUIRED.items():
        for other in required:
            if name in options and other not in options:
                raise InvalidVolume(f'missing required option: "{other}"')


def needs_mount(options: Mapping[str, str] | None) -> bool:
    return bool(options and (options.get("device") or options.get("type")))


def mount_arguments(
    options: Mapping[str, str], resolve: Callable[[str], str] | None = None
) -> MountArguments:
    """Flags and data from ``o``. ``resolve`` turns the host name of an ``addr=`` into an address, which the
    kernel's NFS and SMB clients insist on. Raises VolumeNotMounted."""
    device, kind = options.get("device", ""), options.get("type", "")
    if not device:
        raise VolumeNotMounted("missing device in volume options")
    flags = 0
    data: list[str] = []
    for word in options.get("o", "").split(","):
        if word in _SET:
            flags |= _SET[word]
        elif word in _CLEAR:
            flags &= ~_CLEAR[word]
        elif word.startswith("addr=") and kind in ("nfs", "nfs4", "cifs"):
            data.append(f"addr={_address(word[5:], resolve or _look_up)}")
        elif word:
            data.append(word)
    return MountArguments(device=device, type=kind, flags=flags, data=",".join(data))


def _address(name: str, resolve: Callable[[str], str]) -> str:
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return resolve(name)


def _look_up(name: str) -> str:
    try:
        return str(socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError as error:
        raise VolumeNotMounted(
            f"error resolving passed in network volume address: lookup {name}: {error.strerror}"
        ) from error


def without_password(options: Mapping[str, str], text: str) -> str:
    """``text`` with the password of a CIFS volume blotted out."""
    for word in options.get("o", "").split(","):
        if word.startswith("password=") and len(word) > len("password="):
            text = text.replace(word, "password=********")
    return text
