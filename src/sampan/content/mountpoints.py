"""The places every container has something mounted on, made once for each image.

They are a layer of their own on top of the image's: ``<layers>/<chain id hex>/init``. Without it each
container would make them in its own upper directory at each start, and show them as its changes. What is
there comes from Docker (daemon/initlayer), ``/.dockerenv`` too: programs look for it to learn where they run.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile

from sampan.kernel.fsview import open_layers
from sampan.kernel.paths import open_in_root

_DIRECTORIES = ("dev/pts", "dev/shm", "proc", "sys")
_FILES = (".dockerenv", "dev/console", "etc/hostname", "etc/hosts", "etc/resolv.conf")
_LINKS = (("etc/mtab", "/proc/mounts"),)
_MODE = 0o755


def ensure_mount_points(lower: list[str], target: str) -> None:
    """Make the directory ``target`` with what the image of the layers ``lower`` (topmost first) lacks.

    Idempotent; of two at the same time the first wins. A parent that is a link or a file in the image is left
    alone: the start of the container then resolves it in its own view. Raises OSError.
    """
    if os.path.isdir(target):
        return
    image = open_layers(lower)
    made = tempfile.mkdtemp(prefix=".init-", dir=os.path.dirname(target))
    try:
        os.chmod(made, _MODE)
        _copy_attributes(image, ".", made)
        for path in _DIRECTORIES:
            if _lacks(image, made, path):
                os.mkdir(f"{made}/{path}", _MODE)
        for path in _FILES:
            if _lacks(image, made, path):
                os.close(os.open(f"{made}/{path}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, _MODE))
        for path, link in _LINKS:
            if _lacks(image, made, path):
                os.symlink(link, f"{made}/{path}")
        try:
            os.rename(made, target)
        except OSError:
            if not os.path.isdir(target):
                raise
            shutil.rmtree(made)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    finally:
        os.close(image)


def _lacks(image: int, made: str, path: str) -> bool:
    """Whether ``path`` is to be made, its parent having been made as the image has it."""
    if _kind(image, path):
        return False
    parent = os.path.dirname(path)
    if not parent:
        return True
    kind = _kind(image, parent)
    if kind not in (0, stat.S_IFDIR):
        return False
    if not os.path.isdir(f"{made}/{parent}"):
        os.mkdir(f"{made}/{parent}", _MODE)
        if kind:
            _copy_attributes(image, parent, f"{made}/{parent}")
    return True


def _kind(image: int, path: str) -> int:
    """The type bits of what is at ``path``, links not followed; 0 for nothing."""
    try:
        fd = open_in_root(image, path, os.O_PATH | os.O_NOFOLLOW)
    except (FileNotFoundError, NotADirectoryError):
        return 0
    try:
        return stat.S_IFMT(os.fstat(fd).st_mode)
    finally:
        os.close(fd)


def _copy_attributes(image: int, path: str, target: str) -> None:
    """Owner, mode, times and extended attributes: of merged directories overlayfs shows the topmost."""
    fd = open_in_root(image, path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        status = os.fstat(fd)
        os.chown(target, status.st_uid, status.st_gid)
        os.chmod(target, stat.S_IMODE(status.st_mode))
        for name in os.listxattr(fd):
            if not name.startswith("trusted.overlay."):
                os.setxattr(target, name, os.getxattr(fd, name))
        os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
    finally:
        os.close(fd)
