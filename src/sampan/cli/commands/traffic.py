"""sampan network trace and graph."""

from __future__ import annotations

import sys

from sampan.cli import jsontext, table
from sampan.cli.failure import Failure
from sampan.cli.options import BOOL, Command, Option, Values
from sampan.cli.session import Session
from sampan.cli.table import Column, View

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Item = dict[str, Any]

EDGES = View(
    {
        "From": Column("FROM", lambda item, _: item["From"]["Name"]),
        "To": Column("TO", lambda item, _: item["To"]["Name"]),
        "Port": Column("PORT", lambda item, _: f"{item['Port']}/{item['Protocol']}"),
        "Network": Column("NETWORK", lambda item, _: item["Network"]),
        "Connections": Column("CONNECTIONS", lambda item, _: item["Connections"]),
        "FromKind": Column("FROM KIND", lambda item, _: item["From"]["Kind"]),
        "ToKind": Column("TO KIND", lambda item, _: item["To"]["Kind"]),
    },
    ("From", "To", "Port", "Network", "Connections"),
    quiet="From",
)
_SHAPES = {"container": "box", "host": "house", "outside": "ellipse"}


def split_target(text: str) -> tuple[str, str, str]:
    """``db:5432/tcp``, ``[fd00::2]:80``, ``fd00::2``, ``db`` -> host, port, protocol; "" for what is not
    said. Raises Failure."""
    rest, slash, protocol = text.partition("/")
    if rest.startswith("["):
        host, bracket, tail = rest[1:].partition("]")
        port = tail[1:]
        sound = bool(bracket) and tail[:1] in ("", ":")
    elif rest.count(":") > 1:
        host, port, sound = rest, "", True
    else:
        host, colon, port = rest.partition(":")
        sound = bool(port) or not colon
    if not sound or not host or (port and not port.isdigit()) or (slash and not (protocol and port)):
        raise Failure(f"invalid target {text}: use HOST, HOST:PORT or HOST:PORT/PROTOCOL")
    return host, port, protocol


def trace(session: Session, values: Values, words: list[str]) -> int:
    host, port, protocol = split_target(words[1])
    query = [("from", words[0]), ("to", host)]
    query += [(key, text) for key, text in (("port", port), ("protocol", protocol)) if text]
    found = session.client.call("GET", "/sampan/networks/trace", query)
    if values.flag("json"):
        print(jsontext.dumps(found))
    else:
        for step in found["Steps"]:
            print(f"{'ok' if step['Ok'] else 'NO':<3} {step['Subject']:<11} {step['Text']}")
        print(found["Verdict"])
    return 0 if found["Reachable"] else 1


def graph(session: Session, values: Values, words: list[str]) -> int:
    found = session.client.call("GET", "/sampan/networks/graph")
    for warning in found["Warnings"]:
        print(f"WARNING: {warning}", file=sys.stderr)
    if values.text("format") == "dot":
        print(_dot(found))
        return 0
    source = table.wanted_format(values.text("format"), values.flag("json"))
    table.write(EDGES, found["Edges"], source, truncate=False, quiet=False)
    return 0


def _dot(found: Item) -> str:
    """For Graphviz."""
    nodes = {(name, "container") for name in found["Containers"]}
    for edge in found["Edges"]:
        nodes |= {(edge[end]["Name"], edge[end]["Kind"]) for end in ("From", "To")}
    lines = [f"    {_quoted(name)} [shape={_SHAPES[kind]}];" for name, kind in sorted(nodes)]
    for edge in found["Edges"]:
        label = f"{edge['Port']}/{edge['Protocol']}"
        if edge["Connections"] > 1:
            label += f" ({edge['Connections']})"
        ends = f"{_quoted(edge['From']['Name'])} -> {_quoted(edge['To']['Name'])}"
        lines.append(f"    {ends} [label={_quoted(label)}];")
    return "\n".join(["digraph sampan {", "    rankdir=LR;", *lines, "}"])


def _quoted(text: str) -> str:
    """As the DOT language has it: names of containers and addresses need no escapes."""
    return f'"{text}"'


TRACE = Command(
    "network trace",
    "[OPTIONS] CONTAINER HOST[:PORT[/PROTOCOL]]",
    "Tell why a container reaches another one, or an address, or why it does not",
    trace,
    (Option("json", "", BOOL, "Print one JSON object"),),
    minimum=2,
    maximum=2,
    complete="container",
)
GRAPH = Command(
    "network graph",
    "[OPTIONS]",
    "Show who talks to whom",
    graph,
    (
        Option("format", "", "string", 'Output as "dot", "table", "table TEMPLATE", "json" or a Go template'),
        Option("json", "", BOOL, "One JSON object per line"),
    ),
    maximum=0,
)
