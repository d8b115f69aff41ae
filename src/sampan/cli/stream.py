"""A container's streams on this terminal: a hijacked connection, standard input, signals and whatever else
is to be watched meanwhile, in one poll loop without threads."""

from __future__ import annotations

import posix
import select

from sampan.cli.http import Connection
from sampan.cli.terminal import KeyFilter, RawTerminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_READ_SIZE = 65536
_HEADER_SIZE = 8
_STDERR = 2
_DAEMON_ERROR = 3


def write_all(descriptor: int, data: bytes) -> None:
    """write(2) until everything is out."""
    view = memoryview(data)
    while view:
        try:
            view = view[posix.write(descriptor, view) :]
        except BlockingIOError:  # somebody else's non-blocking terminal
            select.select([], [descriptor], [])


class Frames:
    """Takes Docker's 8-byte framed output apart as it arrives."""

    def __init__(self, emit: Callable[[int, bytes], None]) -> None:
        self._emit = emit
        self._buffer = b""

    def feed(self, data: bytes) -> None:
        """Whole frames go to ``emit(stream, payload)``; a long frame goes in pieces."""
        buffer = self._buffer + data if self._buffer else data
        self._buffer = b""
        position, end = 0, len(buffer)
        # A log of short lines has thousands of frames in one piece: neighbours go out in one write.
        run: list[bytes] = []
        run_kind = 0
        while end - position >= _HEADER_SIZE:
            kind = buffer[position]
            start = position + _HEADER_SIZE
            size = int.from_bytes(buffer[position + 4 : start], "big")
            if kind != run_kind and run:
                self._emit(run_kind, b"".join(run))
                run.clear()
            run_kind = kind
            if start + size > end:
                run.append(buffer[start:])
                # What is missing stays a frame of its own, so the state is bytes alone.
                missing = start + size - end
                self._buffer = buffer[position : position + 4] + missing.to_bytes(4, "big")
                position = end
                break
            run.append(buffer[start : start + size])
            position = start + size
        if payload := b"".join(run):
            self._emit(run_kind, payload)
        if position < end:
            self._buffer = buffer[position:]


def emit_to_terminal(kind: int, payload: bytes) -> None:
    """Framed output to standard output and standard error."""
    write_all(2 if kind in (_STDERR, _DAEMON_ERROR) else 1, payload)


class Streams:
    """Which of the three streams are connected, and how."""

    __slots__ = ("keys", "stderr", "stdin", "stdout", "tty")

    def __init__(self, *, stdin: bool, stdout: bool, stderr: bool, tty: bool, keys: bytes) -> None:
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr
        self.tty = tty
        self.keys = keys


class Pump:
    """Moves bytes between a hijacked connection and this terminal."""

    def __init__(self, connection: Connection, streams: Streams) -> None:
        self._connection = connection
        self._streams = streams
        self._filter = KeyFilter(streams.keys) if streams.tty and streams.stdin else None
        self._frames = Frames(self._emit)
        self._raw = RawTerminal()
        self._outgoing = b""
        self._input_open = streams.stdin
        self._input_polled = False
        self._watched: dict[int, Callable[[], None]] = {}
        self._poll = select.poll()
        self.output_ended = False
        self.detached = False

    def watch(self, descriptor: int, ready: Callable[[], None]) -> None:
        """Call ``ready`` whenever the descriptor is readable."""
        self._watched[descriptor] = ready
        self._poll.register(descriptor, select.POLLIN)

    def forget(self, descriptor: int) -> None:
        del self._watched[descriptor]
        self._poll.unregister(descriptor)

    def run(self, is_done: Callable[[], bool]) -> None:
        """Until ``is_done`` or the detach keys. The terminal is as before afterwards."""
        if self._streams.tty and self._streams.stdin:
            self._raw.enter()
        try:
            self._poll.register(self._connection, select.POLLIN)
            if self._input_open:
                self._listen(wanted=True)
            else:
                self._connection.half_close()
            while not self.detached and not is_done():
                self._turn()
        finally:
            self._raw.restore()

    def _listen(self, *, wanted: bool) -> None:
        """Whether to look at standard input: not at its end, and not while the process is slow to read."""
        if wanted and not self._input_polled:
            self._poll.register(0, select.POLLIN)
        elif self._input_polled and not wanted:
            self._poll.unregister(0)
        self._input_polled = wanted

    def _turn(self) -> None:
        if not self.output_ended and self._connection.has_pending():
            self._read_output()
            return
        for descriptor, events in self._poll.poll():
            if descriptor in self._watched:
                self._watched[descriptor]()
            elif descriptor == 0:
                if self._input_polled:  # what came before in this round may have ended it
                    self._read_input()
            else:
                if events & ~select.POLLOUT:
                    self._read_output()
                if events & select.POLLOUT and not self.output_ended:
                    self._send()

    def _read_output(self) -> None:
        if self.output_ended:
            return
        try:
            data = self._connection.receive()
        except ConnectionError:
            data = b""
        if not data:
            self._end_output()
        elif self._streams.tty:
            write_all(1, data)
        else:
            self._frames.feed(data)

    def _emit(self, kind: int, payload: bytes) -> None:
        if self._streams.stdout if kind == 1 else self._streams.stderr:
            emit_to_terminal(kind, payload)

    def _end_output(self) -> None:
        self.output_ended = True
        self._poll.unregister(self._connection)
        self._input_open = False
        self._listen(wanted=False)
        # Whatever is printed from here on is printed on a normal terminal.
        self._raw.restore()

    def _read_input(self) -> None:
        try:
            data = posix.read(0, _READ_SIZE)
        except OSError:  # closed (EBADF), or the terminal has gone (EIO)
            data = b""
        if not data:
            self._input_open = False
            self._listen(wanted=False)
            self._connection.half_close()
            return
        if self._filter is not None:
            data = self._filter.feed(data)
            self.detached = self._filter.detached
        self._outgoing = data
        if data:
            self._send()

    def _send(self) -> None:
        try:
            self._outgoing = self._outgoing[self._connection.send_some(self._outgoing) :]
        except ConnectionError:
            # The process reads no more; its output and its exit status still count.
            self._outgoing = b""
            self._input_open = False
        waiting = bool(self._outgoing)
        self._poll.modify(self._connection, select.POLLIN | (select.POLLOUT if waiting else 0))
        self._listen(wanted=self._input_open and not waiting)
