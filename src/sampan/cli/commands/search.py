"""sampan search."""

from __future__ import annotations

from sampan.cli import table
from sampan.cli.commands.registry import auth_headers
from sampan.cli.filters import encoded, filter_option
from sampan.cli.options import BOOL, INT, STRING, Command, Option, Values
from sampan.cli.session import Session
from sampan.cli.table import Column, View
from sampan.cli.units import ellipsis

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Item = dict[str, Any]


def _description(item: Item, short: bool) -> str:
    text = " ".join((item.get("description") or "").splitlines())
    return ellipsis(text, 45) if short else text


RESULTS = View(
    {
        "Name": Column("NAME", lambda item, _: item["name"]),
        "Description": Column("DESCRIPTION", _description),
        "StarCount": Column("STARS", lambda item, _: str(item["star_count"])),
        "IsOfficial": Column("OFFICIAL", lambda item, _: "[OK]" if item["is_official"] else ""),
    },
    ("Name", "Description", "StarCount", "IsOfficial"),
)


def search(session: Session, values: Values, words: list[str]) -> int:
    query = [("term", words[0])]
    limit = values.number("limit")
    if limit:
        query.append(("limit", str(limit)))
    filters = encoded(values.many("filter"))
    if filters:
        query.append(("filters", filters))
    found = session.client.request(
        "GET", "/images/search", query, None, auth_headers(session, words[0])
    ).json()
    source = table.wanted_format(values.text("format"), values.flag("json"))
    table.write(RESULTS, found, source, truncate=not values.flag("no-trunc"))
    return 0


SEARCH = Command(
    "search",
    "[OPTIONS] TERM",
    "Look for images in a registry: the hub, or that of HOST[:PORT]/TERM",
    search,
    (
        filter_option(),
        Option("format", "", STRING, "Go template, table or json"),
        Option("json", "", BOOL, "One JSON object per line"),
        Option("limit", "", INT, "At most so many results"),
        Option("no-trunc", "", BOOL, "Whole descriptions"),
    ),
    minimum=1,
    maximum=1,
)
