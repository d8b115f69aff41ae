"""Device nodes: what ``--device``, ``--device-cgroup-rule`` and ``--privileged`` mean on this host.

Reads the host's /dev; what it answers is a value that the pure parts take.
"""

from __future__ import annotations

import os
import re
import stat

import msgspec

from sampan.base.errors import FailedPrecondition, InvalidArgument
from sampan.model.container import HostConfig, ThrottleDevice, WeightDevice
from sampan.model.oci import BlockIO, Device, DeviceRule, ThrottleRule, WeightDeviceRule

_RULE = re.compile(r"([acb]) ([0-9]+|\*):([0-9]+|\*) ([rwm]{1,3})")
_NOT_DEVICES = {"pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev", "console"}
"""Entries of /dev that a container has of its own."""


class DeviceNotFound(FailedPrecondition):
    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f'error gathering device information while adding custom device "{path}": {reason}')


class ResolvedDevices(msgspec.Struct, frozen=True, kw_only=True):
    devices: list[Device] = []
    rules: list[DeviceRule] = []
    """To be added after the defaults; for a privileged container the only one."""


NONE = ResolvedDevices()
EVERYTHING = DeviceRule(allow=True, access="rwm")


def resolve(host: HostConfig) -> ResolvedDevices:
    """Raises DeviceNotFound, InvalidArgument."""
    if host.device_requests:
        _refuse_requests(host)
    if host.privileged:
        mapped = [m for m in host.devices or () if m.path_on_host != m.path_in_container]
        devices = _below("/dev", "/dev")
        for mapping in mapped:
            devices += _from_path(mapping.path_on_host, mapping.path_in_container)
        return ResolvedDevices(devices=devices, rules=[EVERYTHING])
    if not host.devices and not host.device_cgroup_rules:
        return NONE
    devices = []
    rules = []
    for mapping in host.devices or ():
        inside = mapping.path_in_container or mapping.path_on_host
        found = _from_path(mapping.path_on_host, inside)
        devices += found
        rules += [_rule_for(device, mapping.cgroup_permissions or "rwm") for device in found]
    rules += [parse_rule(text) for text in host.device_cgroup_rules or ()]
    return ResolvedDevices(devices=devices, rules=rules)


def parse_rule(text: str) -> DeviceRule:
    """``c 1:3 rwm``, ``a *:* rwm``. Raises InvalidArgument."""
    match = _RULE.fullmatch(text)
    if match is None:
        raise InvalidArgument(f"invalid device cgroup rule format: '{text}'")
    kind, major, minor, access = match.groups()
    return DeviceRule(allow=True, type=kind, major=_number(major), minor=_number(minor), access=access)


def _number(text: str) -> int | None:
    return None if text == "*" else int(text)


def _refuse_requests(host: HostConfig) -> None:
    request = (host.device_requests or [])[0]
    wanted = " ".join("[" + " ".join(group) + "]" for group in request.capabilities or [])
    raise FailedPrecondition(
        f'could not select device driver "{request.driver}" with capabilities: [{wanted}]'
    )


def _rule_for(device: Device, access: str) -> DeviceRule:
    return DeviceRule(allow=True, type=device.type, major=device.major, minor=device.minor, access=access)


def _from_path(path: str, inside: str) -> list[Device]:
    """One node, or every node below a directory such as /dev/dri or /dev/snd."""
    try:
        resolved = os.path.realpath(path) if os.path.islink(path) else path
        status = os.stat(resolved)
        if stat.S_ISDIR(status.st_mode):
            devices = _below(resolved, inside)
        else:
            device = _device(status, inside)
            devices = [device] if device else []
    except OSError as error:
        raise DeviceNotFound(path, (error.strerror or str(error)).lower()) from error
    except ValueError as error:  # a zero byte in the path
        raise DeviceNotFound(path, str(error)) from error
    if not devices:
        raise DeviceNotFound(path, "not a device node")
    return devices


def _below(directory: str, inside: str) -> list[Device]:
    devices: list[Device] = []
    with os.scandir(directory) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            target = f"{inside}/{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                if entry.name not in _NOT_DEVICES:
                    devices += _below(entry.path, target)
                continue
            if entry.name == "console":
                continue
            try:
                device = _device(entry.stat(follow_symlinks=False), target)
            except FileNotFoundError:
                continue  # hot-unplugged between the listing and the look
            if device:
                devices.append(device)
    return devices


def _device(status: os.stat_result, inside: str) -> Device | None:
    if stat.S_ISBLK(status.st_mode):
        kind = "b"
    elif stat.S_ISCHR(status.st_mode) and status.st_rdev:
        # 0:0 is overlayfs's whiteout, not a device
        kind = "c"
    else:
        return None
    return Device(
        path=inside,
        type=kind,
        major=os.major(status.st_rdev),
        minor=os.minor(status.st_rdev),
        file_mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
    )


def block_io(host: HostConfig) -> BlockIO | None:
    """``--blkio-weight`` and ``--device-read-bps`` and its kin. Raises FailedPrecondition for a path that is
    not there."""
    if not (
        host.blkio_weight
        or host.blkio_weight_device
        or host.blkio_device_read_bps
        or host.blkio_device_write_bps
        or host.blkio_device_read_iops
        or host.blkio_device_write_iops
    ):
        return None
    return BlockIO(
        weight=host.blkio_weight or None,
        weight_device=[_weight(entry) for entry in host.blkio_weight_device or ()],
        throttle_read_bps_device=_throttles(host.blkio_device_read_bps),
        throttle_write_bps_device=_throttles(host.blkio_device_write_bps),
        throttle_read_iops_device=_throttles(host.blkio_device_read_iops),
        throttle_write_iops_device=_throttles(host.blkio_device_write_iops),
    )


def _weight(entry: WeightDevice) -> WeightDeviceRule:
    major, minor = _numbers(entry.path)
    return WeightDeviceRule(major=major, minor=minor, weight=entry.weight)


def _throttles(entries: list[ThrottleDevice] | None) -> list[ThrottleRule]:
    rules = []
    for entry in entries or ():
        major, minor = _numbers(entry.path)
        rules.append(ThrottleRule(major=major, minor=minor, rate=entry.rate))
    return rules


def _numbers(path: str) -> tuple[int, int]:
    try:
        number = os.stat(path).st_rdev
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise FailedPrecondition(f"stat {path}: {reason.lower()}") from error
    return os.major(number), os.minor(number)
