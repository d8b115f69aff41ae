"""sd_notify(3) and the process id file."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping

from .options import SettingError


def notify(state: str, environ: Mapping[str, str]) -> bool:
    """Tell systemd. False when the service manager has not asked for it."""
    address = environ.get("NOTIFY_SOCKET", "")
    if not address or address[0] not in "/@":
        return False
    if address[0] == "@":
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.sendto(state.encode(), address)
    return True


def write_pidfile(path: str) -> None:
    """Raises SettingError when the file names another daemon that runs."""
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with contextlib.suppress(FileNotFoundError, ValueError):
        with open(path) as file:
            pid = int(file.read().strip() or "0")
        if pid and pid != os.getpid() and _is_daemon(pid):
            raise SettingError(
                f"failed to start daemon, ensure docker is not running or delete {path}: "
                f"process with PID {pid} is still running"
            )
    with open(path, "w") as file:
        file.write(str(os.getpid()))


def _is_daemon(pid: int) -> bool:
    """A recycled id belongs to some other program."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return b"sampan" in file.read()
    except OSError:
        return False


def remove_pidfile(path: str) -> None:
    with contextlib.suppress(FileNotFoundError, ValueError):
        with open(path) as file:
            owner = int(file.read().strip() or "0")
        if owner == os.getpid():
            os.unlink(path)
