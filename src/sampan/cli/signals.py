"""Signals that arrive here, passed on to the container, and changes of the terminal's size.

``_signal`` and a wake-up pipe: the ``signal`` module would bring ``enum`` and ``re``.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import posix
from time import sleep

from sampan.cli import terminal
from sampan.cli.failure import Failure
from sampan.cli.session import Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_NAMES = {
    getattr(_signal, name): name
    for name in (
        *("SIGHUP", "SIGINT", "SIGQUIT", "SIGABRT", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGTERM", "SIGCONT"),
        *("SIGTSTP", "SIGXCPU", "SIGXFSZ", "SIGVTALRM", "SIGPROF", "SIGIO", "SIGPWR"),
    )
}
_IMPATIENT = (_signal.SIGINT, _signal.SIGTERM)
_PATIENCE = 3
_FIRST_TRIES = 10
_RETRY_S = 0.01


def _nothing(number: int, frame: object) -> None:
    """The handler: the byte in the wake-up pipe is what counts."""


class SignalPipe:
    """Signals as readable bytes."""

    def __init__(self) -> None:
        self._read_end, self._write_end = posix.pipe2(posix.O_NONBLOCK | posix.O_CLOEXEC)
        _signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        self._handlers: dict[int, Callable[[int], None]] = {}

    def fileno(self) -> int:
        return self._read_end

    def handle(self, number: int, handler: Callable[[int], None]) -> None:
        self._handlers[number] = handler
        _signal.signal(number, _nothing)

    def ready(self) -> None:
        """Read the pipe and call the handlers."""
        try:
            numbers = posix.read(self._read_end, 64)
        except BlockingIOError:
            return
        for number in numbers:
            if handler := self._handlers.get(number):
                handler(number)

    def close(self) -> None:
        """Back to the defaults, so that Ctrl-C ends what comes after."""
        for number in self._handlers:
            _signal.signal(number, _signal.SIG_DFL)
        _signal.set_wakeup_fd(-1)
        posix.close(self._read_end)
        posix.close(self._write_end)


class SignalProxy:
    """Sends what arrives here to the container; the third SIGINT or SIGTERM ends this command instead."""

    def __init__(self, session: Session, container: str) -> None:
        self._client = session.another_client()
        self._path = f"/containers/{container}/kill"
        self._impatience = 0

    def install(self, pipe: SignalPipe) -> None:
        for number in (*_NAMES, *range(_signal.SIGRTMIN, _signal.SIGRTMAX + 1)):
            pipe.handle(number, self.forward)

    def forward(self, number: int) -> None:
        if number in _IMPATIENT:
            self._impatience += 1
            if self._impatience >= _PATIENCE:
                raise Failure(f"got {_PATIENCE} SIGTERM/SIGINTs, forcefully exiting")
        name = _NAMES.get(number, str(number))
        # A container that has just ended or is not started yet cannot take it; its status is still to come.
        self._client.send("POST", self._path, (("signal", name),)).read()


class SizeFollower:
    """Keeps a container's (or exec's) terminal as large as this one."""

    def __init__(self, session: Session, path: str) -> None:
        self._client = session.another_client()
        self._path = path

    def install(self, pipe: SignalPipe) -> None:
        pipe.handle(_signal.SIGWINCH, self._changed)

    def _changed(self, number: int) -> None:
        self.send()

    def send_first(self) -> None:
        """The size at the start. The process may not be there yet, so a few tries a little later."""
        for attempt in range(1, _FIRST_TRIES + 1):
            if self.send():
                return
            sleep(attempt * _RETRY_S)

    def send(self, larger_by: int = 0) -> bool:
        """Best effort, as the window may change again at any moment. Answers whether it was taken."""
        current = terminal.size()
        if current is None:
            return True
        rows, columns = current
        query = (("h", str(rows + larger_by)), ("w", str(columns + larger_by)))
        response = self._client.send("POST", self._path, query)
        response.read()
        return response.status < 400
