"""sampan ps: the command whose start-up time is promised, so it imports nothing it does not use."""

from __future__ import annotations

from sampan.cli import table
from sampan.cli.containerview import CONTAINERS
from sampan.cli.filters import encoded, filter_option
from sampan.cli.options import BOOL, INT, Command, Option, Values
from sampan.cli.session import Session
from sampan.cli.table import Column, View


def list_containers(session: Session, values: Values) -> int:
    source = table.wanted_format(values.text("format"), values.flag("json"))
    quiet = values.flag("quiet")
    if quiet and source and not source.startswith("table"):
        session.warn("WARNING: Ignoring custom format, because both --format and --quiet are set.")
        source = ""
    needs_size = ".Size" in source or "json ." in source
    size = values.flag("size") or (needs_size and not quiet and not values.given("size"))
    query = []
    if values.flag("all"):
        query.append(("all", "1"))
    limit = values.number("last")
    if values.flag("latest") and limit < 0:
        limit = 1
    if limit > 0:
        query.append(("limit", str(limit)))
    if size:
        query.append(("size", "1"))
    if filters := encoded(values.many("filter")):
        query.append(("filters", filters))
    containers = session.client.call("GET", "/containers/json", query)
    view = CONTAINERS
    if size and source in ("", "table"):
        view = View(view.columns, (*view.default, "Size"))
    if session.colours and source in ("", "table") and not quiet:
        view = _coloured(view)
    table.write(view, containers, source, truncate=not values.flag("no-trunc"), quiet=quiet)
    return 0


def _coloured(view: View) -> View:
    """The status in colour: attention for what has failed or hangs, calm for what is healthy."""
    plain = view.columns["Status"]

    def status(item: dict[str, object], short: bool) -> str:
        text: str = plain.cell(item, short)
        colour = ""
        failed = text.startswith(("Exited", "Dead")) and not text.startswith("Exited (0)")
        if failed or "(unhealthy)" in text:
            colour = "31"
        elif text.endswith("(Paused)") or text.startswith("Restarting"):
            colour = "33"
        elif text.startswith("Up"):
            colour = "32"
        return f"\x1b[{colour}m{text}\x1b[0m" if colour else text

    return View({**view.columns, "Status": Column(plain.header, status)}, view.default)


PS = Command(
    "ps",
    "[OPTIONS]",
    "List containers",
    lambda session, values, words: list_containers(session, values),
    (
        Option("all", "a", BOOL, "Show all containers (default shows just running)"),
        filter_option(),
        *table.FORMAT_OPTIONS,
        Option("last", "n", INT, "Show n last created containers (includes all states)", default=-1),
        Option("latest", "l", BOOL, "Show the latest created container (includes all states)"),
        table.NO_TRUNC,
        Option("quiet", "q", BOOL, "Only display container IDs"),
        Option("size", "s", BOOL, "Display total file sizes"),
    ),
    maximum=0,
)
