"""sampan top, port, diff and events."""

from __future__ import annotations

import sys

from sampan.cli import jsontext, table
from sampan.cli.containerview import local_time
from sampan.cli.failure import Failure
from sampan.cli.filters import encoded, filter_option
from sampan.cli.moments import moment_option
from sampan.cli.options import BOOL, STRING, Command, Option, Values
from sampan.cli.ports import split_protocol
from sampan.cli.session import Session
from sampan.cli.table import Column, View

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_KINDS = ("C", "A", "D")


def top(session: Session, values: Values, words: list[str]) -> int:
    query = [("ps_args", " ".join(words[1:]))] if len(words) > 1 else []
    answer = session.client.call("GET", f"/containers/{words[0]}/top", query)
    sys.stdout.write(_top_table([answer["Titles"], *(answer["Processes"] or ())]))
    return 0


def _top_table(rows: list[list[str]]) -> str:
    widths = [max(20, *(len(row[index]) + 3 for row in rows)) for index in range(len(rows[0]) - 1)]
    return "".join(
        "".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)) + row[-1] + "\n"
        for row in rows
    )


def _bindings(session: Session, name: str) -> dict[str, list[dict[str, str]] | None]:
    container = session.client.call("GET", f"/containers/{name}/json")
    return container["NetworkSettings"].get("Ports") or {}


def port(session: Session, values: Values, words: list[str]) -> int:
    bindings = _bindings(session, words[0])
    lines: list[tuple[tuple[int, str], str]] = []
    wanted = ""
    if len(words) > 1:
        number, protocol = split_protocol(words[1])
        wanted = f"{number}/{protocol}"
    for key, addresses in bindings.items():
        if wanted and key != wanted:
            continue
        number, protocol = split_protocol(key)
        for address in addresses or ():
            ip = address["HostIp"]
            shown = f"[{ip}]:{address['HostPort']}" if ":" in ip else f"{ip}:{address['HostPort']}"
            lines.append(((int(number), protocol), shown if wanted else f"{key} -> {shown}"))
    if wanted and not lines:
        raise Failure(f"Error: No public port '{words[1]}' published for {words[0]}")
    lines.sort(key=lambda line: line[0])
    sys.stdout.write("".join(text + "\n" for _, text in lines))
    return 0


DIFFS = View(
    {
        "Type": Column("CHANGE TYPE", lambda change, _: _KINDS[change["Kind"]]),
        "Path": Column("PATH", lambda change, _: change["Path"]),
    },
    ("Type", "Path"),
)


def diff(session: Session, values: Values, words: list[str]) -> int:
    changes = session.client.call("GET", f"/containers/{words[0]}/changes") or []
    source = table.wanted_format(values.text("format"), values.flag("json"))
    table.write(DIFFS, changes, source or "{{.Type}} {{.Path}}") if source else _plain_diff(changes)
    return 0


def _plain_diff(changes: list[dict[str, Any]]) -> None:
    sys.stdout.write("".join(f"{_KINDS[change['Kind']]} {change['Path']}\n" for change in changes))


def events(session: Session, values: Values, words: list[str]) -> int:
    query = moment_option(values, "since") + moment_option(values, "until")
    if filters := encoded(values.many("filter")):
        query.append(("filters", filters))
    source = table.wanted_format(values.text("format"), values.flag("json"))
    render = _event_renderer(source)
    for line in session.client.request("GET", "/events", query).lines():
        print(render(line), flush=True)
    return 0


def _event_renderer(source: str) -> Any:
    if source == "json":
        return lambda line: line.decode().strip()
    if not source:
        return lambda line: _event_text(jsontext.loads(line))
    from sampan.cli.template import Template, TemplateError

    try:
        template = Template(source)
    except TemplateError as error:
        raise Failure(f"template parsing error: {error}", 64) from None

    def render(line: bytes) -> str:
        try:
            return template.render(jsontext.loads(line))
        except TemplateError as error:
            raise Failure(f"template parsing error: {error}", 64) from None

    return render


def _event_text(event: dict[str, Any]) -> str:
    nanos = event.get("timeNano") or event["time"] * 1_000_000_000
    seconds, fraction = divmod(nanos, 1_000_000_000)
    stamp = local_time(seconds).split(" ")
    when = f"{stamp[0]}T{stamp[1]}.{fraction:09d}{_zone(stamp[2])}"
    actor = event.get("Actor") or {}
    text = f"{when} {event['Type']} {event['Action']} {actor.get('ID', '')}"
    attributes = actor.get("Attributes") or {}
    if attributes:
        text += f" ({', '.join(f'{key}={attributes[key]}' for key in sorted(attributes))})"
    return text


def _zone(offset: str) -> str:
    return "Z" if offset == "+0000" else f"{offset[:3]}:{offset[3:]}"


TOP = Command(
    "top",
    "CONTAINER [ps OPTIONS]",
    "Display the running processes of a container",
    top,
    minimum=1,
    interspersed=False,
    complete="container",
)
PORT = Command(
    "port",
    "CONTAINER [PRIVATE_PORT[/PROTO]]",
    "List the published ports of a container",
    port,
    minimum=1,
    maximum=2,
    complete="container",
)
DIFF = Command(
    "diff",
    "CONTAINER",
    "Show what has changed in a container's file system",
    diff,
    table.FORMAT_OPTIONS,
    minimum=1,
    maximum=1,
    complete="container",
)
EVENTS = Command(
    "events",
    "[OPTIONS]",
    "Watch what happens, as it happens",
    events,
    (
        filter_option(),
        Option("format", "", STRING, 'Output as "json" or a Go template'),
        Option("json", "", BOOL, "One JSON object per line"),
        Option("since", "", STRING, "Events since this moment (time or duration ago)"),
        Option("until", "", STRING, "Events until this moment, then end"),
    ),
    maximum=0,
)
