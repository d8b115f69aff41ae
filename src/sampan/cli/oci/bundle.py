"""A bundle's config.json: read, completed with what the caller's options say, and checked."""

from __future__ import annotations

import os
import posixpath
from typing import Any

import msgspec

from sampan.kernel.capabilities import NUMBERS
from sampan.model.oci import DeviceRule, Process, Resources, RuntimeSpec

from .errors import InvalidBundle

_NAMESPACES = {"pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time"}


def read(path: str) -> tuple[RuntimeSpec, bytes]:
    """The specification and its text. Raises InvalidBundle."""
    try:
        with open(path, "rb") as file:
            text = file.read()
    except OSError as error:
        raise InvalidBundle(f"cannot read {path}: {error.strerror}") from error
    return parse(text), text


def parse(text: bytes) -> RuntimeSpec:
    try:
        return msgspec.convert(without_nulls(msgspec.json.decode(text)), RuntimeSpec)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise InvalidBundle(f"cannot parse config.json: {error}") from error


def without_nulls(value: Any) -> Any:
    """Go writes null for empty lists; for us absent is the empty form."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    return value


def complete(spec: RuntimeSpec, bundle: str, container_id: str, *, systemd: bool) -> RuntimeSpec:
    """Absolute root, a cgroup, the device rules that every container has. Raises InvalidBundle."""
    if spec.root is None:
        raise InvalidBundle("config.json has no root")
    if spec.process is None:
        raise InvalidBundle("config.json has no process")
    if spec.process.cwd and not spec.process.cwd.startswith("/"):
        raise InvalidBundle(f"cwd {spec.process.cwd!r} is not an absolute path")
    root = msgspec.structs.replace(spec.root, path=os.path.realpath(os.path.join(bundle, spec.root.path)))
    if not os.path.isdir(root.path):
        raise InvalidBundle(f"the root {root.path} is not a directory")
    linux = msgspec.structs.replace(
        spec.linux,
        cgroups_path=_cgroups_path(spec.linux.cgroups_path, container_id, systemd),
        devices=[msgspec.structs.replace(d, path=d.path.rstrip("/")) for d in spec.linux.devices],
        resources=_with_default_devices(spec.linux.resources or Resources()),
    )
    mounts = [
        msgspec.structs.replace(mount, source=os.path.join(bundle, mount.source))
        if ("bind" in mount.options or "rbind" in mount.options or mount.type == "bind")
        and not mount.source.startswith("/")
        else mount
        for mount in spec.mounts
    ]
    check_sysctls(spec)
    sets = spec.process.capabilities
    if sets is not None:
        for names in (sets.bounding, sets.effective, sets.permitted, sets.inheritable, sets.ambient):
            check_capabilities(names)
    process = with_sockets(spec.process)
    return msgspec.structs.replace(spec, root=root, linux=linux, mounts=mounts, process=process)


def with_sockets(process: Process) -> Process:
    """Socket activation (sd_listen_fds(3)): the variables of the caller, for a process that will be 1."""
    count = os.environ.get("LISTEN_FDS", "")
    if not count:
        return process
    given = [f"LISTEN_FDS={count}", "LISTEN_PID=1"]
    if names := os.environ.get("LISTEN_FDNAMES"):
        given.append(f"LISTEN_FDNAMES={names}")
    return msgspec.structs.replace(process, env=[*process.env, *given])


def _cgroups_path(path: str, container_id: str, systemd: bool) -> str:
    """``slice:prefix:name`` is systemd's form; without systemd it names directories all the same."""
    if "\0" in path:
        raise InvalidBundle("the cgroupsPath contains a NUL")
    if path.count(":") == 2 and (systemd or not path.startswith("/")):
        parent, prefix, name = path.split(":")
        scope = f"{prefix}-{name}.scope" if prefix else f"{name}.scope"
        path = f"{parent or 'system.slice'}/{scope}"
    elif not path:
        path = container_id
    return posixpath.normpath("/" + path.lstrip("/"))


DEFAULT_DEVICE_RULES = [
    DeviceRule(allow=True, type="c", access="m"),
    DeviceRule(allow=True, type="b", access="m"),
    *(
        DeviceRule(allow=True, type="c", major=major, minor=minor, access="rwm")
        for major, minor in ((1, 3), (1, 8), (1, 7), (5, 0), (1, 5), (1, 9), (5, 2), (136, None))
    ),
]
"""config-linux.md, "Default Devices": always there, so always allowed."""


def _with_default_devices(resources: Resources) -> Resources:
    if not resources.devices:
        return resources
    return msgspec.structs.replace(resources, devices=[*resources.devices, *DEFAULT_DEVICE_RULES])


def check_capabilities(names: list[str]) -> None:
    """Raises InvalidBundle for a name that is none."""
    for name in names:
        if name.upper() not in NUMBERS:
            raise InvalidBundle(f"unknown capability {name!r}")


_IPC_WORDS = "msgmax msgmnb msgmni sem shmall shmmax shmmni shm_rmid_forced"
_IPC = frozenset("kernel." + word for word in _IPC_WORDS.split())


def check_sysctls(spec: RuntimeSpec) -> None:
    """A setting must belong to a namespace of the container's own. Raises InvalidBundle."""
    kinds = {namespace.type for namespace in spec.linux.namespaces}
    unknown = kinds - _NAMESPACES
    if unknown:
        raise InvalidBundle(f"invalid namespace type {min(unknown)!r}")
    for given in spec.linux.sysctl:
        key = given.replace("/", ".")
        if key in _IPC or key.startswith("fs.mqueue."):
            allowed = "ipc" in kinds
        elif key.startswith("net."):
            allowed = "network" in kinds
        elif key == "kernel.domainname":
            allowed = "uts" in kinds
            if spec.domainname and spec.domainname != spec.linux.sysctl[given]:
                raise InvalidBundle("the sysctl kernel.domainname conflicts with the OCI field domainname")
        elif key == "kernel.hostname":
            raise InvalidBundle("the sysctl kernel.hostname conflicts with the OCI field hostname")
        else:
            raise InvalidBundle(f"the sysctl {given!r} is not namespaced")
        if not allowed:
            raise InvalidBundle(f"the sysctl {given!r} requires a namespace of the container's own")
