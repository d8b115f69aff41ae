"""Terminals: handed to a console socket, or carried between the caller's own terminal and the container."""

from __future__ import annotations

import array
import errno
import fcntl
import os
import select
import signal
import socket
import sys
import termios
import tty


def send_to_console(path: str, master_fd: int) -> None:
    """The master, as SCM_RIGHTS, to the caller's socket (runc's docs/terminals.md)."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(path)
        name = b"/dev/ptmx"
        payload = array.array("i", [master_fd])
        connection.sendmsg([name], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, payload)])


class Proxy:
    """Carries bytes between descriptors 0 and 1 and the master until the container's end."""

    def __init__(self, master_fd: int) -> None:
        self._master = master_fd
        self._saved = termios.tcgetattr(0) if os.isatty(0) else None

    def __enter__(self) -> Proxy:
        if self._saved is not None:
            tty.setraw(0)
            self._copy_size()
            signal.signal(signal.SIGWINCH, lambda *_: self._copy_size())
        return self

    def __exit__(self, *_: object) -> None:
        if self._saved is not None:
            termios.tcsetattr(0, termios.TCSADRAIN, self._saved)
        os.close(self._master)

    def _copy_size(self) -> None:
        size = fcntl.ioctl(0, termios.TIOCGWINSZ, b"\0" * 8)
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, size)

    def run(self, pidfd: int) -> None:
        """Until the last slave is closed, or the process ends and its output is read."""
        poll = select.poll()
        for fd in (0, self._master, pidfd):
            poll.register(fd, select.POLLIN)
        ended = False
        while True:
            ready = dict(poll.poll(0 if ended else None))
            if self._master in ready and not self._forward():
                return
            if 0 in ready:
                data = os.read(0, 65536)
                if data:
                    os.write(self._master, data)
                else:
                    poll.unregister(0)
            if ended and self._master not in ready:
                return
            if pidfd in ready:
                poll.unregister(pidfd)
                ended = True

    def _forward(self) -> bool:
        try:
            data = os.read(self._master, 65536)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return False
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return bool(data)
