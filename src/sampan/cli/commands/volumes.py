"""sampan volume create, ls and rm."""

from __future__ import annotations

from sampan.cli import runvalues, table
from sampan.cli.failure import Refused
from sampan.cli.filters import encoded, filter_option
from sampan.cli.options import BOOL, STRING, Command, Option, Values
from sampan.cli.session import Session
from sampan.cli.table import Column, View
from sampan.cli.units import human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Item = dict[str, Any]


def _labels(item: Item, _: bool) -> str:
    return ",".join(f"{key}={value}" for key, value in (item.get("Labels") or {}).items())


def _usage(name: str) -> Any:
    def cell(item: Item, _: bool) -> str:
        usage = item.get("UsageData")
        if not usage:
            return "N/A"
        return human_size(usage["Size"]) if name == "Size" else str(usage["RefCount"])

    return cell


VOLUMES = View(
    {
        "Availability": Column("AVAILABILITY", lambda item, _: "N/A"),
        "Driver": Column("DRIVER", lambda item, _: item["Driver"]),
        "Group": Column("GROUP", lambda item, _: "N/A"),
        "Labels": Column("LABELS", _labels),
        "Links": Column("LINKS", _usage("RefCount")),
        "Mountpoint": Column("MOUNTPOINT", lambda item, _: item["Mountpoint"]),
        "Name": Column("VOLUME NAME", lambda item, _: item["Name"]),
        "Scope": Column("SCOPE", lambda item, _: item["Scope"]),
        "Size": Column("SIZE", _usage("Size")),
        "Status": Column("STATUS", lambda item, _: "N/A"),
    },
    ("Driver", "Name"),
    quiet="Name",
    methods={"Label": lambda item, name: (item.get("Labels") or {}).get(name, "")},
)


def list_volumes(session: Session, values: Values, words: list[str]) -> int:
    filters = encoded(values.many("filter"))
    answer = session.client.call("GET", "/volumes", [("filters", filters)] if filters else [])
    volumes = sorted(answer.get("Volumes") or (), key=lambda item: str(item["Name"]))
    source = table.wanted_format(values.text("format"), values.flag("json"))
    table.write(VOLUMES, volumes, source, quiet=values.flag("quiet"))
    for warning in answer.get("Warnings") or ():
        session.warn(f"WARNING: {warning}")
    return 0


def create(session: Session, values: Values, words: list[str]) -> int:
    body = {
        "Name": words[0] if words else values.text("name"),
        "Driver": values.text("driver"),
        "DriverOpts": runvalues.pair_map(values.many("opt")),
        "Labels": runvalues.pair_map(values.many("label")),
    }
    print(session.client.call("POST", "/volumes/create", (), body)["Name"])
    return 0


def remove(session: Session, values: Values, words: list[str]) -> int:
    query = [("force", "1")] if values.flag("force") else []
    status = 0
    for name in words:
        try:
            session.client.call("DELETE", f"/volumes/{name}", query)
        except Refused as refused:
            session.warn(refused.message)
            status = 1
        else:
            print(name, flush=True)
    return status


LIST = Command(
    "volume ls",
    "[OPTIONS]",
    "List volumes",
    list_volumes,
    (
        filter_option(),
        *table.FORMAT_OPTIONS,
        Option("quiet", "q", BOOL, "Only display volume names"),
    ),
    maximum=0,
)
CREATE = Command(
    "volume create",
    "[OPTIONS] [VOLUME]",
    "Create a volume",
    create,
    (
        Option("driver", "d", STRING, "Driver of the volume", default="local"),
        Option("label", "", "list", "Metadata of the volume", check=runvalues.label),
        Option("name", "", STRING, "Name of the volume", hidden=True),
        Option("opt", "o", "map", "Option of the driver", repeats=True),
    ),
    maximum=1,
)
REMOVE = Command(
    "volume rm",
    "[OPTIONS] VOLUME [VOLUME...]",
    "Remove one or more volumes",
    remove,
    (Option("force", "f", BOOL, "Do not mind volumes that do not exist"),),
    minimum=1,
    complete="volume",
)
