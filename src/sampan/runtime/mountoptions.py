"""Mount options as the OCI specification lists them (config.md, "Mounts"), decoded once, purely."""

from __future__ import annotations

import msgspec

from sampan.kernel import mount as mnt

FLAGS = {
    "async": (True, mnt.MS_SYNCHRONOUS),
    "atime": (True, mnt.MS_NOATIME),
    "bind": (False, mnt.MS_BIND),
    "defaults": (False, 0),
    "dev": (True, mnt.MS_NODEV),
    "diratime": (True, mnt.MS_NODIRATIME),
    "dirsync": (False, mnt.MS_DIRSYNC),
    "exec": (True, mnt.MS_NOEXEC),
    "iversion": (False, mnt.MS_I_VERSION),
    "lazytime": (False, mnt.MS_LAZYTIME),
    "loud": (True, mnt.MS_SILENT),
    "mand": (False, mnt.MS_MANDLOCK),
    "noatime": (False, mnt.MS_NOATIME),
    "nodev": (False, mnt.MS_NODEV),
    "nodiratime": (False, mnt.MS_NODIRATIME),
    "noexec": (False, mnt.MS_NOEXEC),
    "noiversion": (True, mnt.MS_I_VERSION),
    "nolazytime": (True, mnt.MS_LAZYTIME),
    "nomand": (True, mnt.MS_MANDLOCK),
    "norelatime": (True, mnt.MS_RELATIME),
    "nostrictatime": (True, mnt.MS_STRICTATIME),
    "nosuid": (False, mnt.MS_NOSUID),
    "rbind": (False, mnt.MS_BIND | mnt.MS_REC),
    "relatime": (False, mnt.MS_RELATIME),
    "remount": (False, mnt.MS_REMOUNT),
    "ro": (False, mnt.MS_RDONLY),
    "rw": (True, mnt.MS_RDONLY),
    "silent": (False, mnt.MS_SILENT),
    "strictatime": (False, mnt.MS_STRICTATIME),
    "suid": (True, mnt.MS_NOSUID),
    "sync": (False, mnt.MS_SYNCHRONOUS),
}
"""Option: (does it clear?, flags of mount(2))."""

PROPAGATION = {
    "private": mnt.MS_PRIVATE,
    "rprivate": mnt.MS_PRIVATE | mnt.MS_REC,
    "shared": mnt.MS_SHARED,
    "rshared": mnt.MS_SHARED | mnt.MS_REC,
    "slave": mnt.MS_SLAVE,
    "rslave": mnt.MS_SLAVE | mnt.MS_REC,
    "unbindable": mnt.MS_UNBINDABLE,
    "runbindable": mnt.MS_UNBINDABLE | mnt.MS_REC,
}

_ATTRIBUTES = {
    "ro": (mnt.MOUNT_ATTR_RDONLY, 0),
    "rw": (0, mnt.MOUNT_ATTR_RDONLY),
    "nosuid": (mnt.MOUNT_ATTR_NOSUID, 0),
    "suid": (0, mnt.MOUNT_ATTR_NOSUID),
    "nodev": (mnt.MOUNT_ATTR_NODEV, 0),
    "dev": (0, mnt.MOUNT_ATTR_NODEV),
    "noexec": (mnt.MOUNT_ATTR_NOEXEC, 0),
    "exec": (0, mnt.MOUNT_ATTR_NOEXEC),
    "nodiratime": (mnt.MOUNT_ATTR_NODIRATIME, 0),
    "diratime": (0, mnt.MOUNT_ATTR_NODIRATIME),
    "noatime": (mnt.MOUNT_ATTR_NOATIME, mnt.MOUNT_ATTR__ATIME),
    "strictatime": (mnt.MOUNT_ATTR_STRICTATIME, mnt.MOUNT_ATTR__ATIME),
    "relatime": (0, mnt.MOUNT_ATTR__ATIME),
    "atime": (0, mnt.MOUNT_ATTR__ATIME),
    "norelatime": (mnt.MOUNT_ATTR_STRICTATIME, mnt.MOUNT_ATTR__ATIME),
    "nosymfollow": (mnt.MOUNT_ATTR_NOSYMFOLLOW, 0),
    "symfollow": (0, mnt.MOUNT_ATTR_NOSYMFOLLOW),
}
"""Option: (attributes to set, attributes to clear) of mount_setattr(2), for binds and their r-forms."""


class MountOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Decoded options of one mount."""

    flags: int = 0
    """For mount(2)."""
    spread: int = 0
    """Propagation to set afterwards; 0 leaves it."""
    data: str = ""
    """What the file system itself interprets, comma-separated."""
    add: int = 0
    clear: int = 0
    """For mount_setattr(2), on this mount alone."""
    deep_add: int = 0
    deep_clear: int = 0
    """The same for the mounts below as well (``rro`` and its kin, runtime-spec 1.1)."""
    copy_up: bool = False
    """``tmpcopyup``: the tmpfs starts with what the directory held."""
    idmap: str = ""
    """``idmap`` or ``ridmap``."""

    @property
    def bind(self) -> bool:
        return bool(self.flags & mnt.MS_BIND)


def decode(options: list[str]) -> MountOptions:
    """Later options win over earlier ones, as with mount(8)."""
    flags = spread = add = clear = deep_add = deep_clear = 0
    data: list[str] = []
    copy_up = False
    idmap = ""
    for option in options:
        known = False
        if option in FLAGS:
            clears, bits = FLAGS[option]
            flags = flags & ~bits if clears else flags | bits
            known = True
        if option in _ATTRIBUTES:
            plus, minus = _ATTRIBUTES[option]
            add, clear = add & ~minus | plus, clear & ~plus | minus
            known = True
        elif option.startswith("r") and option[1:] in _ATTRIBUTES:
            plus, minus = _ATTRIBUTES[option[1:]]
            deep_add, deep_clear = deep_add & ~minus | plus, deep_clear & ~plus | minus
            known = True
        if option in PROPAGATION:
            spread |= PROPAGATION[option]
        elif option == "tmpcopyup":
            copy_up = True
        elif option in ("idmap", "ridmap"):
            idmap = option
        elif not known:
            data.append(option)
    return MountOptions(
        flags=flags,
        spread=spread,
        data=",".join(data),
        add=add,
        clear=clear,
        deep_add=deep_add,
        deep_clear=deep_clear,
        copy_up=copy_up,
        idmap=idmap,
    )
