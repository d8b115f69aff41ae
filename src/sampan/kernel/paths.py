"""Paths that others control, resolved without leaving a root (openat2(2), kernel 5.6).

A container's image may hold any symbolic link at any place, and a running process may swap one while we
look; so nothing here joins strings and hopes.
"""

from __future__ import annotations

import ctypes
import errno
import os

from .syscalls import SYS_OPENAT2, syscall

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

_RETRIES = 32
"""openat2 answers EAGAIN when a rename raced with a ``..``; a few rounds always did."""


class _OpenHow(ctypes.Structure):
    _fields_ = [
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    ]


def open_in_root(
    root_fd: int,
    path: str | bytes,
    flags: int = os.O_PATH,
    mode: int = 0,
    resolve: int = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS,
) -> int:
    """A close-on-exec descriptor of ``path`` as a process chrooted to ``root_fd`` would see it.

    Symbolic links are followed inside the root (also absolute ones). Raises OSError.
    """
    name = os.fsencode(path) or b"."
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    for attempt in range(_RETRIES):
        try:
            return syscall(
                SYS_OPENAT2,
                root_fd,
                name,
                ctypes.byref(how),
                ctypes.sizeof(how),
                what=os.fsdecode(name),
            )
        except OSError as error:
            if error.errno != errno.EAGAIN or attempt == _RETRIES - 1:
                raise
    raise AssertionError("unreachable")


def make_directories(root_fd: int, path: str, mode: int = 0o755) -> int:
    """``mkdir -p`` inside a root; an O_PATH descriptor of the directory. Existing parts are left as they are.

    A dangling link on the way has its target created inside the root, as a chrooted mkdir -p would not:
    runc and Docker do the same (securejoin), images rely on it for ``/var/run -> /run``.
    """
    try:
        return open_in_root(root_fd, path, os.O_PATH | os.O_DIRECTORY)
    except FileNotFoundError:
        pass
    current = os.dup(root_fd)
    done = ""
    for part in path.split("/"):
        if part in ("", "."):
            continue
        done = f"{done}/{part}"
        try:
            following = open_in_root(root_fd, done, os.O_PATH | os.O_DIRECTORY)
        except FileNotFoundError:
            _make_one(root_fd, current, part, mode)
            following = open_in_root(root_fd, done, os.O_PATH | os.O_DIRECTORY)
        os.close(current)
        current = following
    return current


def _make_one(root_fd: int, parent_fd: int, name: str, mode: int) -> None:
    try:
        os.mkdir(name, mode, dir_fd=parent_fd)
    except FileExistsError:
        # a dangling symbolic link: make what it points at
        target = os.readlink(name, dir_fd=parent_fd)
        if not target.startswith("/"):
            base = os.readlink(f"/proc/self/fd/{parent_fd}")
            root = os.readlink(f"/proc/self/fd/{root_fd}")
            inside = base[len(root) :] if base.startswith(root) else "/"
            target = f"{inside}/{target}"
        os.close(make_directories(root_fd, target, mode))


def make_file(root_fd: int, path: str, mode: int = 0o644) -> int:
    """An O_PATH descriptor of a file, made empty with its directories when it is not there."""
    try:
        return open_in_root(root_fd, path)
    except FileNotFoundError:
        pass
    directory, _, name = path.rstrip("/").rpartition("/")
    parent = make_directories(root_fd, directory or "/")
    try:
        try:
            os.close(os.open(name, os.O_CREAT | os.O_WRONLY | os.O_EXCL | os.O_CLOEXEC, mode, dir_fd=parent))
        except FileExistsError:
            # a dangling link: create its target where the root's own view puts it
            os.close(open_in_root(root_fd, path, os.O_CREAT | os.O_WRONLY, mode))
    finally:
        os.close(parent)
    return open_in_root(root_fd, path)
