"""sampan logs."""

from __future__ import annotations

from sampan.cli.moments import moment_option
from sampan.cli.options import BOOL, STRING, Command, Option, Values
from sampan.cli.session import Session
from sampan.cli.stream import Frames, emit_to_terminal, write_all

_RAW = "application/vnd.docker.raw-stream"
_FRAMED = "application/vnd.docker.multiplexed-stream"


def logs(session: Session, values: Values, words: list[str]) -> int:
    query = [("stdout", "1"), ("stderr", "1")]
    query += [(name, "1") for name in ("follow", "timestamps", "details") if values.flag(name)]
    query += moment_option(values, "since") + moment_option(values, "until")
    query.append(("tail", values.text("tail")))
    response = session.client.request("GET", f"/containers/{words[0]}/logs", query)
    kind = response.headers.get("content-type", "")
    if kind not in (_RAW, _FRAMED):
        container = session.another_client().call("GET", f"/containers/{words[0]}/json")
        kind = _RAW if container["Config"]["Tty"] else _FRAMED
    frames = Frames(emit_to_terminal)
    while data := response.read_some(1 << 20):
        if kind == _RAW:
            write_all(1, data)
        else:
            frames.feed(data)
    return 0


LOGS = Command(
    "logs",
    "[OPTIONS] CONTAINER",
    "Fetch the logs of a container",
    logs,
    (
        Option("details", "", BOOL, "Show the extra attributes given to the log"),
        Option("follow", "f", BOOL, "Follow the log"),
        Option("since", "", STRING, 'From this moment on ("2026-01-02T13:23:37Z", or "42m" ago)'),
        Option("tail", "n", STRING, "Lines from the end of the log", default="all"),
        Option("timestamps", "t", BOOL, "Show timestamps"),
        Option("until", "", STRING, 'Before this moment ("2026-01-02T13:23:37Z", or "42m" ago)'),
    ),
    minimum=1,
    maximum=1,
    complete="container",
)
