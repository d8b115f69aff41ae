"""Mounting: mount(2) and the descriptor-based calls (open_tree, move_mount, fsopen, mount_setattr).

Kernel 5.12 or later. Targets are descriptors, never strings, so that a symbolic link in an image cannot
redirect them.
"""

from __future__ import annotations

import ctypes
import os

from .syscalls import (
    SYS_FSCONFIG,
    SYS_FSMOUNT,
    SYS_FSOPEN,
    SYS_MOUNT_SETATTR,
    SYS_MOVE_MOUNT,
    SYS_OPEN_TREE,
    SYS_PIVOT_ROOT,
    check,
    libc,
    syscall,
)

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_SYNCHRONOUS = 16
MS_REMOUNT = 32
MS_MANDLOCK = 64
MS_DIRSYNC = 128
MS_NOATIME = 1024
MS_NODIRATIME = 2048
MS_BIND = 4096
MS_REC = 16384
MS_SILENT = 1 << 15
MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MS_RELATIME = 1 << 21
MS_I_VERSION = 1 << 23
MS_STRICTATIME = 1 << 24
MS_LAZYTIME = 1 << 25

MNT_DETACH = 2

AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 0x04
MOVE_MOUNT_T_EMPTY_PATH = 0x40

PROC_SUPER_MAGIC = 0x9FA0

MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
MOUNT_ATTR__ATIME = 0x70
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_STRICTATIME = 0x20
MOUNT_ATTR_NODIRATIME = 0x80
MOUNT_ATTR_IDMAP = 0x100000
MOUNT_ATTR_NOSYMFOLLOW = 0x200000

_FSCONFIG_SET_STRING = 1
_FSCONFIG_CMD_CREATE = 6

_mount = libc.mount
_mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]
_umount2 = libc.umount2
_umount2.argtypes = [ctypes.c_char_p, ctypes.c_int]


class _MountAttr(ctypes.Structure):
    _fields_ = [
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    ]


def mount(source: str, target: str, fstype: str, flags: int, data: str = "") -> None:
    """mount(2). Raises OSError that names the target."""
    check(
        _mount(
            os.fsencode(source) if source else None,
            os.fsencode(target),
            fstype.encode() if fstype else None,
            flags,
            os.fsencode(data) if data else None,
        ),
        target,
    )


def file_system_type(fd: int) -> int:
    """f_type of fstatfs(2): which kind of file system an open file is on."""
    buffer = ctypes.create_string_buffer(128)
    check(libc.fstatfs(fd, buffer), f"fd {fd}")
    return int.from_bytes(buffer.raw[:8], "little")


def mount_at(source: str, target_fd: int, fstype: str, flags: int, data: str = "") -> None:
    """mount(2) on an open directory or file."""
    mount(source, f"/proc/self/fd/{target_fd}", fstype, flags, data)


def unmount(target: str, flags: int = MNT_DETACH) -> None:
    """umount2(2)."""
    check(_umount2(os.fsencode(target), flags), target)


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2); ``(".", ".")`` stacks the old root over the new one, to be detached at once."""
    syscall(SYS_PIVOT_ROOT, os.fsencode(new_root), os.fsencode(put_old), what=new_root)


def clone_tree(path: str, recursive: bool, dir_fd: int = -100) -> int:
    """A detached copy of the mount at ``path`` (open_tree(2), OPEN_TREE_CLONE): the source half of a bind."""
    flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (AT_RECURSIVE if recursive else 0)
    if not path:
        flags |= AT_EMPTY_PATH
    return syscall(SYS_OPEN_TREE, dir_fd, os.fsencode(path), flags, what=path or f"fd {dir_fd}")


def attach(tree_fd: int, target_fd: int, name: str = "") -> None:
    """Put a detached mount on an open directory or file, or on ``name`` in that directory (move_mount(2))."""
    syscall(
        SYS_MOVE_MOUNT,
        tree_fd,
        b"",
        target_fd,
        os.fsencode(name),
        MOVE_MOUNT_F_EMPTY_PATH | (0 if name else MOVE_MOUNT_T_EMPTY_PATH),
        what=name or f"fd {target_fd}",
    )


def set_attributes(
    fd: int,
    *,
    add: int = 0,
    clear: int = 0,
    propagation: int = 0,
    recursive: bool = False,
    userns_fd: int = 0,
) -> None:
    """mount_setattr(2) on the mount that ``fd`` stands on."""
    attr = _MountAttr(add, clear, propagation, userns_fd)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    syscall(SYS_MOUNT_SETATTR, fd, b"", flags, ctypes.byref(attr), ctypes.sizeof(attr), what=f"fd {fd}")


def detached(fstype: str, options: list[tuple[str, str]], attributes: int = 0) -> int:
    """A new file system mounted nowhere (fsopen, fsconfig, fsmount): usable through its descriptor only,
    and gone with the descriptor. Raises OSError."""
    context = syscall(SYS_FSOPEN, fstype.encode(), 1, what=fstype)
    try:
        for key, value in options:
            syscall(
                SYS_FSCONFIG,
                context,
                _FSCONFIG_SET_STRING,
                key.encode(),
                os.fsencode(value),
                0,
                what=f"{fstype} {key}={value}",
            )
        syscall(SYS_FSCONFIG, context, _FSCONFIG_CMD_CREATE, 0, 0, 0, what=fstype)
        return syscall(SYS_FSMOUNT, context, 1, attributes, what=fstype)
    finally:
        os.close(context)


def detached_overlay(lower: list[str], upper: str = "", work: str = "") -> int:
    """A descriptor of an overlay of directories, mounted nowhere. ``lower`` is topmost first.

    fsconfig takes at most 256 bytes a value, so before ``lowerdir+`` (kernel 6.7) long lists go in by
    short names: descriptors below /proc/self/fd.
    """
    descriptors: list[int] = []

    def short(path: str) -> str:
        fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        descriptors.append(fd)
        return f"/proc/self/fd/{fd}"

    try:
        lowers = [short(path) for path in lower]
        if upper and len(lowers) == 0:
            raise ValueError("an overlay needs a lower directory")
        if len(lowers) == 1 and not upper:
            # overlayfs refuses a single read-only layer; the directory itself is the same view
            return clone_tree("", False, descriptors[0])
        writable = [("upperdir", short(upper)), ("workdir", short(work))] if upper else []
        joined = ":".join(lowers)
        if len(joined) < 256:
            return detached("overlay", [("lowerdir", joined), *writable])
        return detached("overlay", [("lowerdir+", name) for name in lowers] + writable)
    finally:
        for fd in descriptors:
            os.close(fd)
