"""sampan system df."""

from __future__ import annotations

from sampan.cli import table
from sampan.cli.commands.images import IMAGES, image_rows
from sampan.cli.commands.volumes import VOLUMES
from sampan.cli.containerview import CONTAINERS
from sampan.cli.options import BOOL, Command, Option, Values
from sampan.cli.session import Session
from sampan.cli.table import Column, View
from sampan.cli.units import human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Item = dict[str, Any]

_ACTIVE = ("running", "paused", "restarting")


def _line(kind: str, total: int, active: int, size: int, free: int, *, percent: bool = True) -> Item:
    text = human_size(free)
    if size > 0 and percent:
        text += f" ({free * 100 // size}%)"
    return {"type": kind, "total": total, "active": active, "size": human_size(size), "reclaimable": text}


def _image_line(usage: Item) -> Item:
    images = usage.get("Images") or []
    size = usage.get("LayersSize") or 0
    used = sum(
        image["Size"] - image["SharedSize"]
        for image in images
        if image.get("Containers") and image["Size"] >= 0 and image.get("SharedSize", -1) >= 0
    )
    active = sum(1 for image in images if image.get("Containers", 0) > 0)
    return _line("Images", len(images), active, size, size - used)


def _container_line(usage: Item) -> Item:
    containers = usage.get("Containers") or []
    sizes = [item.get("SizeRw") or 0 for item in containers]
    idle = [item for item in containers if item["State"] not in _ACTIVE]
    free = sum(item.get("SizeRw") or 0 for item in idle)
    return _line("Containers", len(containers), len(containers) - len(idle), sum(sizes), free)


def _volume_line(usage: Item) -> Item:
    volumes = usage.get("Volumes") or []
    data = [volume["UsageData"] for volume in volumes if volume.get("UsageData")]
    active = sum(1 for item in data if item["RefCount"] > 0)
    size = sum(item["Size"] for item in data if item["Size"] >= 0)
    free = sum(item["Size"] for item in data if item["Size"] >= 0 and item["RefCount"] == 0)
    return _line("Local Volumes", len(volumes), active, size, free)


def _cache_line(usage: Item) -> Item:
    records = usage.get("BuildCache") or []
    size = usage.get("BuilderSize") or sum(record["Size"] for record in records)
    busy = sum(record["Size"] for record in records if record["InUse"] and not record["Shared"])
    active = sum(1 for record in records if record["InUse"])
    return _line("Build Cache", len(records), active, size, size - busy, percent=False)


def _cell(name: str) -> Any:
    return lambda item, _: str(item[name])


SUMMARY = View(
    {
        "Type": Column("TYPE", _cell("type")),
        "TotalCount": Column("TOTAL", _cell("total")),
        "Active": Column("ACTIVE", _cell("active")),
        "Size": Column("SIZE", _cell("size")),
        "Reclaimable": Column("RECLAIMABLE", _cell("reclaimable")),
    },
    ("Type", "TotalCount", "Active", "Size", "Reclaimable"),
    quiet="Type",
)
_IMAGE_COLUMNS = (
    *("Repository", "Tag", "ID", "CreatedSince", "Size", "SharedSize", "UniqueSize", "Containers"),
)
_CONTAINER_COLUMNS = ("ID", "Image", "Command", "LocalVolumes", "Size", "RunningFor", "Status", "Names")


def _verbose(usage: Item, source: str) -> int:
    images = image_rows(usage.get("Images") or [], digests=False)
    containers = [{**item, "SizeRootFs": 0} for item in usage.get("Containers") or ()]
    volumes = usage.get("Volumes") or []
    if source:
        record = {
            "Images": [table.Row(IMAGES, item, False) for item in images],
            "Containers": [table.Row(CONTAINERS, item, False) for item in containers],
            "Volumes": [table.Row(VOLUMES, item, False) for item in volumes],
            "BuildCache": [],
        }
        return _verbose_template(record, source)
    print("Images space usage:\n")
    table.write(View(IMAGES.columns, _IMAGE_COLUMNS), images)
    print("\nContainers space usage:\n")
    table.write(View(CONTAINERS.columns, _CONTAINER_COLUMNS), containers)
    print("\nLocal Volumes space usage:\n")
    table.write(View(VOLUMES.columns, ("Name", "Links", "Size")), volumes)
    print(f"\nBuild cache usage: {human_size(usage.get('BuilderSize') or 0)}\n")
    heads = ("CACHE ID", "CACHE TYPE", "SIZE", "CREATED", "LAST USED", "USAGE", "SHARED")
    print(table.align([heads]), end="")
    return 0


def _verbose_template(record: Item, source: str) -> int:
    import json

    from sampan.cli.failure import Failure
    from sampan.cli.template import Template, TemplateError

    if source == "json":
        plain = {name: [row.as_dict() for row in rows] for name, rows in record.items()}
        print(json.dumps(plain, ensure_ascii=False, separators=(",", ":")))
        return 0
    try:
        print(Template(source).render(record))
    except TemplateError as error:
        raise Failure(f"template parsing error: {error}", 64) from None
    return 0


DATA_ROOT = View(
    {
        "Kind": Column("KIND", lambda item, _: str(item["Kind"])),
        "Count": Column("COUNT", lambda item, _: str(item["Count"])),
        "Size": Column("SIZE", lambda item, _: human_size(item["Size"])),
        "Reclaimable": Column("RECLAIMABLE", lambda item, _: human_size(item["Reclaimable"])),
    },
    ("Kind", "Count", "Size", "Reclaimable"),
    quiet="Kind",
)
OBJECTS = View(
    {
        "Kind": Column("KIND", lambda item, _: str(item["Kind"])),
        "ID": Column("ID", lambda item, _: str(item["Id"] or "(directories)")),
        "Size": Column("SIZE", lambda item, _: str(item["Size"])),
        "Owners": Column("OWNERS", lambda item, _: ",".join(item["Owners"])),
        "Reclaimable": Column("RECLAIMABLE", lambda item, _: "true" if item["Reclaimable"] else "false"),
    },
    ("Kind", "ID", "Size", "Owners", "Reclaimable"),
    quiet="ID",
)


def _data_root(session: Session, values: Values, source: str) -> int:
    """What every byte belongs to, instead of what Docker counts."""
    usage = session.client.call("GET", "/sampan/system/df")
    if source or values.flag("verbose"):
        table.write(OBJECTS, usage["Objects"], source)
    else:
        table.write(DATA_ROOT, usage["Kinds"])
        print(f"\nIn all: {human_size(usage['Total'])} below {usage['Path']}")
    return 0


def disk_usage(session: Session, values: Values, words: list[str]) -> int:
    if values.flag("data-root"):
        return _data_root(session, values, table.wanted_format(values.text("format"), values.flag("json")))
    usage = session.client.call("GET", "/system/df")
    source = table.wanted_format(values.text("format"), values.flag("json"))
    if values.flag("verbose"):
        return _verbose(usage, source)
    lines = [_image_line(usage), _container_line(usage), _volume_line(usage), _cache_line(usage)]
    table.write(SUMMARY, lines, source)
    return 0


DF = Command(
    "system df",
    "[OPTIONS]",
    "Show what takes how much of the disk",
    disk_usage,
    (
        Option("data-root", "", BOOL, "Show what every byte below the data root belongs to, as du counts"),
        *table.FORMAT_OPTIONS,
        Option("verbose", "v", BOOL, "Show every object"),
    ),
    maximum=0,
)
