"""Progress streams of load, import, bootstrap and pull: on a terminal one line per object, changing in
place; otherwise each new status once, without those that are only a bar, as Docker's client has it."""

from __future__ import annotations

import sys

from sampan.cli import jsontext
from sampan.cli.failure import Refused
from sampan.cli.session import is_terminal
from sampan.cli.units import human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TextIO

    from sampan.cli.http import Response

_BAR = 30


def _bar(detail: dict[str, Any]) -> str:
    current, total = detail.get("current") or 0, detail.get("total") or 0
    if not current and not total:
        return ""
    if total <= 0:
        return f" {human_size(current)}"
    full = min(_BAR, current * _BAR // total)
    head = ">" if full < _BAR else ""
    bar = ("=" * full + head).ljust(_BAR)
    return f" [{bar}] {human_size(min(current, total))}/{human_size(total)}"


class Board:
    """The lines on the terminal, by object."""

    def __init__(self, out: TextIO, *, in_place: bool) -> None:
        self._out = out
        self._in_place = in_place
        self._lines: dict[str, int] = {}
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
        bar = _bar(message.get("progressDetail") or {})
        if not self._in_place:
            # A log wants to know what began and ended, not every percent of it.
            if bar:
                return
            if self._last.get(name) != status or not name:
                self._last[name] = status
                self._out.write(status + "\n")
        elif not name:
            self._lines.clear()
            self._out.write(status + "\n")
        elif name in self._lines:
            up = len(self._lines) - self._lines[name]
            self._out.write(f"\x1b[{up}A\r\x1b[2K{status}{bar}\x1b[{up}B\r")
        else:
            self._lines[name] = len(self._lines)
            self._out.write(f"\x1b[2K{status}{bar}\n")


def follow(response: Response, *, quiet: bool = False, to_stderr: bool = False) -> list[Any]:
    """Show the messages until the end. Answers their ``aux`` values. Raises Refused for an error in them."""
    out = sys.stderr if to_stderr else sys.stdout
    board = Board(out, in_place=is_terminal(out.fileno()))
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
