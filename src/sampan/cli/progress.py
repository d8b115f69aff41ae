"""Progress streams of load, import, bootstrap and pull: on a terminal one line per object, changing in
place; otherwise each new status once, without those that are only a bar, as Docker's client has it."""

from __future__ import annotations

import sys

from sampan.cli import jsontext
from sampan.cli.failure import Refused
from sampan.cli.session import is_terminal
from sampan.cli.terminal import size as terminal_size
from sampan.cli.units import human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TextIO

    from sampan.cli.http import Response

_BAR = 30
_SHORTEST_BAR = 5


def _bar(detail: dict[str, Any], room: int) -> str:
    """How far an object is, in at most ``room`` characters."""
    current, total = detail.get("current") or 0, detail.get("total") or 0
    if not current and not total:
        return ""
    if total <= 0:
        return f" {human_size(current)}"
    sizes = f" {human_size(min(current, total))}/{human_size(total)}"
    width = min(_BAR, room - len(sizes) - len(" []"))
    if width < _SHORTEST_BAR:
        return sizes
    full = min(width, current * width // total)
    head = ">" if full < width else ""
    return f" [{('=' * full + head).ljust(width)}]{sizes}"


class Board:
    """The lines on the terminal, by object."""

    def __init__(self, out: TextIO, *, in_place: bool, size: Callable[[], tuple[int, int] | None]) -> None:
        """``size`` answers rows and columns of the terminal; None when it does not know them."""
        self._out = out
        self._in_place = in_place
        self._size = size
        self._lines: dict[str, int] = {}
        self._below = 0
        """Lines written so far; the cursor is below the last one."""
        self._last: dict[str, str] = {}

    def show(self, message: dict[str, Any]) -> None:
        if "stream" in message:
            self._out.write(message["stream"])
        elif "status" in message:
            self._status(message)
        self._out.flush()

    def _status(self, message: dict[str, Any]) -> None:
        name = message.get("id") or ""
        status = f"{name}: {message['status']}" if name else message["status"]
        detail = message.get("progressDetail") or {}
        if not self._in_place:
            # A log wants to know what began and ended, not every percent of it.
            if detail.get("current") or detail.get("total"):
                return
            if self._last.get(name) != status or not name:
                self._last[name] = status
                self._out.write(status + "\n")
        elif not name:
            self._lines.clear()
            self._below = 0
            self._out.write(status + "\n")
        else:
            self._draw(name, status, detail)

    def _draw(self, name: str, status: str, detail: dict[str, Any]) -> None:
        rows, columns = self._size() or (24, 80)
        # a line that the terminal breaks in two would put all below it out of place
        room = max(columns - 1, 1)
        line = (status + _bar(detail, room - len(status)))[:room]
        up = self._below - self._lines.get(name, self._below)
        if 0 < up < rows:
            self._out.write(f"\x1b[{up}A\r\x1b[2K{line}\x1b[{up}B\r")
            return
        # a new one, or one that has scrolled out of reach
        self._lines[name] = self._below
        self._below += 1
        self._out.write(f"\x1b[2K{line}\n")


def follow(response: Response, *, quiet: bool = False, to_stderr: bool = False) -> list[Any]:
    """Show the messages until the end. Answers their ``aux`` values. Raises Refused for an error in them."""
    out = sys.stderr if to_stderr else sys.stdout
    descriptor = out.fileno()
    board = Board(out, in_place=is_terminal(descriptor), size=lambda: terminal_size(descriptor))
    results = []
    for line in response.lines():
        message = jsontext.loads(line)
        if "error" in message or "errorDetail" in message:
            text = message.get("error") or message["errorDetail"].get("message", "unknown error")
            raise Refused(text, 500)
        if "aux" in message:
            results.append(message["aux"])
        if not quiet:
            board.show(message)
    return results
