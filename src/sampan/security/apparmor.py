"""AppArmor: the profile ``docker-default``, loaded once where kernel and distribution have AppArmor.

Profiles are text that apparmor_parser(8) compiles; the kernel takes only the compiled form. So this is the
one place that starts a program, at the daemon's start and never for a container.
"""

from __future__ import annotations

import os
import shutil
import subprocess

from sampan.base.errors import FailedPrecondition

PROFILE_NAME = "docker-default"
_LOADED = "/sys/kernel/security/apparmor/profiles"

_DENIED = """
  deny mount,
  deny @{PROC}/* w,
  deny @{PROC}/{kcore,kmem,mem,sysrq-trigger} rwklx,
  deny @{PROC}/{acpi,asound,bus,driver,fs,irq,scsi,tty}/** wklx,
  deny @{PROC}/sys/{abi,debug,dev,user,vm}/** wklx,
  deny @{PROC}/sys/fs/{[^m],m[^q]}** wklx,
  deny @{PROC}/sys/kernel/{[^ms],m[^s],s[^eh]}** wklx,
  deny /sys/{block,bus,class,dev,devices,firmware,hypervisor,kernel,module,power}/** wklx,
  deny /sys/{firmware,devices/virtual/powercap,kernel/security}/** rwklx,
  deny /sys/fs/[^c]** wklx,
"""
"""What the mount table and the masks of a container forbid, once more: two locks on one door."""


class AppArmorFailed(FailedPrecondition):
    """The parser refused the profile, or there is no parser."""


def is_enabled() -> bool:
    """The kernel has AppArmor, and it is switched on (/sys/module/apparmor/parameters/enabled is Y)."""
    try:
        with open("/sys/module/apparmor/parameters/enabled") as file:
            return file.read(1) == "Y" and os.path.exists(_LOADED)
    except OSError:
        return False


def is_loaded(name: str = PROFILE_NAME) -> bool:
    try:
        with open(_LOADED) as file:
            return any(line.rpartition(" (")[0] == name for line in file)
    except OSError:
        return False


def profile_text(name: str = PROFILE_NAME, daemon_profile: str = "unconfined") -> str:
    """Signals and ptrace stay among the containers of the profile; the daemon may signal them too."""
    return (
        "#include <tunables/global>\n\n"
        f"profile {name} flags=(attach_disconnected,mediate_deleted) {{\n"
        "  #include <abstractions/base>\n"
        "  network,\n  capability,\n  file,\n  umount,\n"
        f"  signal (receive) peer={daemon_profile},\n"
        f"  signal (send,receive) peer={name},\n"
        f"  ptrace (trace,read,tracedby,readby) peer={name},\n"
        f"{_DENIED}}}\n"
    )


def ensure_default_profile() -> bool:
    """Load ``docker-default`` unless it is there. False: containers run unconfined, because this host has no
    AppArmor or no apparmor_parser. Raises AppArmorFailed when the parser refuses."""
    if not is_enabled():
        return False
    if is_loaded():
        return True
    parser = shutil.which("apparmor_parser", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if parser is None:
        return False
    done = subprocess.run(
        [parser, "-Kr"], input=profile_text(), text=True, capture_output=True, timeout=30, check=False
    )
    if done.returncode:
        raise AppArmorFailed(f"apparmor_parser refused {PROFILE_NAME}: {done.stderr.strip()}")
    return True
