"""Profiles in Docker's JSON: the OCI form plus conditions on capabilities, architecture and kernel."""

from __future__ import annotations

import msgspec
from msgspec import field

from sampan.base.errors import InvalidArgument
from sampan.model.oci import Seccomp, SyscallArg, SyscallRule


class InvalidProfile(InvalidArgument):
    """The JSON is not a seccomp profile."""


class Condition(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Every part that is given must hold; of ``caps`` all must be there (in ``excludes``: any)."""

    caps: list[str] | None = None
    arches: list[str] | None = None
    """Names as Go has them: amd64, arm64."""
    min_kernel: str = ""


class ConditionalRule(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    names: list[str] | None = None
    name: str = ""
    """One name, in profiles of Docker 1.10."""
    action: str
    errno_ret: int | None = None
    args: list[SyscallArg] | None = None
    includes: Condition | None = None
    excludes: Condition | None = None


class SubArchitectures(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    architecture: str
    sub_architectures: list[str] | None = None


class Profile(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    default_action: str = ""
    default_errno_ret: int | None = None
    architectures: list[str] | None = None
    arch_map: list[SubArchitectures] | None = field(default=None, name="archMap")
    flags: list[str] | None = None
    listener_path: str = ""
    listener_metadata: str = ""
    syscalls: list[ConditionalRule] | None = None


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """What a profile is resolved for."""

    machine: str
    """As uname -m says: x86_64, aarch64."""
    kernel: tuple[int, int]
    capabilities: frozenset[str]
    """The bounding set."""


NATIVE = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}
_GO_NAMES = {"x86_64": "amd64", "aarch64": "arm64"}


def parse(text: str) -> Profile:
    """Raises InvalidProfile."""
    try:
        return msgspec.json.decode(text, type=Profile)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise InvalidProfile(f"Decoding seccomp profile failed: {error}") from error


def resolve(profile: Profile, target: Target) -> Seccomp | None:
    """The OCI form for one container; None when the profile says nothing at all. Raises InvalidProfile."""
    if not profile.default_action and not profile.syscalls:
        return None
    if profile.architectures and profile.arch_map:
        raise InvalidProfile(
            "both 'architectures' and 'archMap' are specified in the seccomp profile, "
            "use either 'architectures' or 'archMap'"
        )
    architectures = list(profile.architectures or ())
    native = NATIVE.get(target.machine)
    for entry in profile.arch_map or ():
        if entry.architecture == native:
            architectures += [native, *(entry.sub_architectures or ())]
            break
    return Seccomp(
        default_action=profile.default_action,
        default_errno_ret=profile.default_errno_ret,
        architectures=architectures,
        flags=profile.flags or [],
        listener_path=profile.listener_path,
        listener_metadata=profile.listener_metadata,
        syscalls=[_plain(rule) for rule in profile.syscalls or () if _applies(rule, target)],
    )


def _plain(rule: ConditionalRule) -> SyscallRule:
    if rule.name and rule.names:
        raise InvalidProfile(
            "both 'name' and 'names' are specified in the seccomp profile, use either 'name' or 'names'"
        )
    names = rule.names or [rule.name]
    return SyscallRule(names=names, action=rule.action, errno_ret=rule.errno_ret, args=rule.args or [])


def _applies(rule: ConditionalRule, target: Target) -> bool:
    machine = _GO_NAMES.get(target.machine, target.machine)
    excludes, includes = rule.excludes, rule.includes
    if excludes is not None:
        if machine in (excludes.arches or ()):
            return False
        if any(name in target.capabilities for name in excludes.caps or ()):
            return False
        if excludes.min_kernel and target.kernel >= _version(excludes.min_kernel):
            return False
    if includes is not None:
        if includes.arches and machine not in includes.arches:
            return False
        if any(name not in target.capabilities for name in includes.caps or ()):
            return False
        if includes.min_kernel and target.kernel < _version(includes.min_kernel):
            return False
    return True


def _version(text: str) -> tuple[int, int]:
    major, dot, minor = text.partition(".")
    if not (dot and major.isdigit() and minor.isdigit()) or (int(major), int(minor)) == (0, 0):
        raise InvalidProfile(f'invalid kernel version: "{text}", expected "<kernel>.<major>"')
    return int(major), int(minor)
