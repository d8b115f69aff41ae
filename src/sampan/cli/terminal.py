"""The terminal that the command runs on: raw mode, size, detach keys."""

from __future__ import annotations

import posix

from sampan.cli.failure import Failure
from sampan.cli.session import is_terminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DEFAULT_KEYS = b"\x10\x11"  # ctrl-p ctrl-q
_NAMED_KEYS = {"@": 0, "[": 27, "\\": 28, "]": 29, "^": 30, "_": 31}


class RawTerminal:
    """Standard input without echo, line editing and signals (cfmakeraw in termios(3)) until restored."""

    def __init__(self, descriptor: int = 0) -> None:
        self._descriptor = descriptor
        self._saved: list[Any] | None = None

    def enter(self) -> None:
        import termios

        saved = termios.tcgetattr(self._descriptor)
        raw = list(saved)
        raw[0] &= ~(termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP)
        raw[0] &= ~(termios.INLCR | termios.IGNCR | termios.ICRNL | termios.IXON)
        raw[1] &= ~termios.OPOST
        raw[2] = (raw[2] & ~(termios.CSIZE | termios.PARENB)) | termios.CS8
        raw[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
        raw[6] = list(raw[6])
        raw[6][termios.VMIN], raw[6][termios.VTIME] = 1, 0
        termios.tcsetattr(self._descriptor, termios.TCSANOW, raw)
        self._saved = saved

    def restore(self) -> None:
        """Idempotent."""
        if self._saved is not None:
            import termios

            saved, self._saved = self._saved, None
            termios.tcsetattr(self._descriptor, termios.TCSANOW, saved)


def size(descriptor: int = 1) -> tuple[int, int] | None:
    """Rows and columns of the terminal, on standard output or another descriptor, if it is one."""
    try:
        columns, rows = posix.get_terminal_size(descriptor)
    except OSError:
        return None
    return (rows, columns) if rows or columns else None


def require_input_terminal(stdin: bool, tty: bool) -> None:
    """A program that wants a terminal's input needs one here. Raises Failure."""
    if stdin and tty and not is_terminal(0):
        raise Failure("the input device is not a TTY")


def parse_keys(text: str) -> bytes:
    """``ctrl-p,ctrl-q`` or plain characters between commas. Raises Failure."""
    if not text:
        return DEFAULT_KEYS
    keys = bytearray()
    for key in text.split(","):
        name = key.removeprefix("ctrl-")
        if len(key) == 1:
            keys.append(ord(key) & 0xFF)
        elif key == "DEL":
            keys.append(127)
        elif key.startswith("ctrl-") and len(name) == 1 and name.isalpha() and name.isascii():
            keys.append(ord(name.lower()) - ord("a") + 1)
        elif key.startswith("ctrl-") and name in _NAMED_KEYS:
            keys.append(_NAMED_KEYS[name])
        else:
            raise Failure(f"invalid detach keys {text!r}: unknown character: '{key}'", 125)
    return bytes(keys)


class KeyFilter:
    """Finds the detach keys in what is typed and holds back what may be their beginning."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._held = 0
        self.detached = False

    def feed(self, data: bytes) -> bytes:
        """What is to be sent on. After the keys were complete nothing more is."""
        out = bytearray()
        for byte in data:
            if byte == self._keys[self._held]:
                self._held += 1
                if self._held == len(self._keys):
                    self.detached = True
                    return bytes(out)
                continue
            if self._held:
                out += self._keys[: self._held]
                self._held = 0
                if byte == self._keys[0]:
                    self._held = 1
                    continue
            out.append(byte)
        return bytes(out)
