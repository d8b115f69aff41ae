"""sampan image gc."""

from __future__ import annotations

import re

from sampan.cli import table
from sampan.cli.failure import Failure
from sampan.cli.options import BOOL, STRING, Command, Option, Values
from sampan.cli.session import Session
from sampan.cli.table import Column, View
from sampan.cli.units import human_size
from sampan.formats.durations import human_duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Item = dict[str, Any]

_SPAN = re.compile(r"(\d+)([smhdw]?)")
_SPAN_S = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def _unused(item: Item, _: bool) -> str:
    import time

    return human_duration(max(time.time() - item["LastUsed"], 0)) + " ago"


def _id(item: Item, full: bool) -> str:
    return str(item["Id"]) if full else str(item["Id"]).partition(":")[2][:12]


COLLECTED = View(
    {
        "ID": Column("IMAGE ID", _id),
        "Names": Column("NAMES", lambda item, _: ", ".join(item["Names"]) or "<none>"),
        "LastUsed": Column("LAST USED", _unused),
        "Reason": Column("REASON", lambda item, _: str(item["Reason"])),
        "Size": Column("SIZE", lambda item, _: human_size(item["Size"])),
    },
    ("ID", "Names", "LastUsed", "Reason", "Size"),
    quiet="ID",
)


def _seconds(text: str) -> int:
    match = _SPAN.fullmatch(text)
    if match is None:
        raise Failure(f"invalid time span {text!r}: a number with s, m, h, d or w")
    return int(match[1]) * _SPAN_S[match[2]]


def _percent(text: str) -> str:
    number = text.removesuffix("%")
    if not (number.isascii() and number.isdigit() and int(number) <= 100):
        raise Failure(f"invalid percentage {text!r}")
    return number


def collect(session: Session, values: Values, words: list[str]) -> int:
    query: list[tuple[str, str]] = []
    dry = values.flag("dry-run")
    if dry:
        query.append(("dry-run", "1"))
    if values.text("unused-for"):
        query.append(("unused-for", str(_seconds(values.text("unused-for")))))
    limits = [name for name in ("disk-high", "disk-low") if values.text(name)]
    query += [(name, _percent(values.text(name))) for name in limits]
    done = session.client.call("POST", "/sampan/images/gc", query)
    source = table.wanted_format(values.text("format"), values.flag("json"))
    table.write(COLLECTED, done["Images"], source)
    if not source:
        word = "Would free" if dry else "Total reclaimed space"
        print(f"\n{word}: {human_size(done['SpaceReclaimed'])}")
    return 0


GC = Command(
    "image gc",
    "[OPTIONS]",
    "Remove images by age and by how full the disk is, those used least recently first",
    collect,
    (
        Option("disk-high", "", STRING, "When the disk is fuller than this (percent)"),
        Option("disk-low", "", STRING, "Until it is no fuller than this (percent)"),
        Option("dry-run", "", BOOL, "Show what would go"),
        *table.FORMAT_OPTIONS,
        Option("unused-for", "", STRING, "Images that nobody used for so long (30d, 12h)"),
    ),
    maximum=0,
    examples=("sampan image gc --unused-for 30d --dry-run", "sampan image gc --disk-high 85 --disk-low 70"),
)
