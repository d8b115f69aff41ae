"""A container of ``GET /containers/json`` as ``ps`` shows it."""

from __future__ import annotations

import time

from sampan.cli.table import Column, View
from sampan.cli.units import ellipsis, go_quote, human_size, short_id
from sampan.formats.durations import human_duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Item = dict[str, Any]

_ZONE_MINUTE = 60


def local_time(seconds: int, nanos: int = 0) -> str:
    """As Go prints a time: ``2026-11-23 21:02:00 +0000 UTC``."""
    moment = time.localtime(seconds)
    offset = moment.tm_gmtoff // _ZONE_MINUTE
    sign = "-" if offset < 0 else "+"
    offset = abs(offset)
    fraction = f".{nanos:09d}".rstrip("0") if nanos else ""
    clock = time.strftime("%Y-%m-%d %H:%M:%S", moment)
    return f"{clock}{fraction} {sign}{offset // 60:02d}{offset % 60:02d} {moment.tm_zone}"


def _id(item: Item, short: bool) -> str:
    full: str = item["Id"]
    return short_id(full) if short else full


def _names(item: Item, short: bool) -> str:
    names = [name.removeprefix("/") for name in item.get("Names") or ()]
    if short:
        # A name with a slash is what an old-style link of another container calls this one.
        names = [name for name in names if "/" not in name][:1] or names
    return ",".join(names)


def _image(item: Item, short: bool) -> str:
    image: str = item.get("Image") or "<no image>"
    if not short:
        return image
    if short_id(item.get("ImageID") or "") == short_id(image):
        return short_id(image)
    name, _, digest = image.partition("@")
    return name if digest else image


def _command(item: Item, short: bool) -> str:
    command: str = item.get("Command") or ""
    return go_quote(ellipsis(command, 20) if short else command)


def _running_for(item: Item, _: bool) -> str:
    return human_duration(time.time() - item["Created"]) + " ago"


def _size(item: Item, _: bool) -> str:
    own = human_size(item.get("SizeRw") or 0, 3)
    whole = item.get("SizeRootFs") or 0
    return f"{own} (virtual {human_size(whole, 3)})" if whole > 0 else own


def _labels(item: Item, _: bool) -> str:
    return ",".join(sorted(f"{key}={value}" for key, value in (item.get("Labels") or {}).items()))


def _mounts(item: Item, short: bool) -> str:
    names = [mount.get("Name") or mount.get("Source") or "" for mount in item.get("Mounts") or ()]
    return ",".join(ellipsis(name, 15) if short else name for name in names)


def _local_volumes(item: Item, _: bool) -> str:
    return str(sum(1 for mount in item.get("Mounts") or () if mount.get("Driver") == "local"))


def _networks(item: Item, _: bool) -> str:
    return ",".join((item.get("NetworkSettings") or {}).get("Networks") or ())


def _platform(item: Item, _: bool) -> Any:
    platform = (item.get("ImageManifestDescriptor") or {}).get("platform")
    if not platform:
        return None
    return "/".join(platform[key] for key in ("os", "architecture", "variant") if platform.get(key))


def _join(address: str, port: str) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _group(address: str, kind: str, first: int, last: int) -> str:
    text = str(first) if first == last else f"{first}-{last}"
    return f"{_join(address, text)}->{text}/{kind}" if address else f"{text}/{kind}"


def ports_text(ports: list[Item]) -> str:
    """``0.0.0.0:80->80/tcp, 443/tcp``; neighbouring ports become ranges where nothing is lost."""
    groups: dict[tuple[str, str], tuple[int, int]] = {}
    done: list[str] = []
    mapped: list[str] = []
    entries = sorted(
        (port["PrivatePort"], port.get("IP") or "", port.get("PublicPort") or 0, port["Type"])
        for port in ports
    )
    for private, address, public, kind in entries:
        if address and public != private:
            mapped.append(f"{_join(address, str(public))}->{private}/{kind}")
            continue
        key = (address, kind)
        if key not in groups:
            groups[key] = (private, private)
            continue
        first, last = groups[key]
        if private == last + 1:
            groups[key] = (first, private)
        else:
            done.append(_group(*key, first, last))
            groups[key] = (private, private)
    done += [_group(*key, *span) for key, span in groups.items()]
    return ", ".join(done + mapped)


CONTAINERS = View(
    {
        "ID": Column("CONTAINER ID", _id),
        "Names": Column("NAMES", _names),
        "Image": Column("IMAGE", _image),
        "Command": Column("COMMAND", _command),
        "CreatedAt": Column("CREATED AT", lambda item, _: local_time(item["Created"])),
        "RunningFor": Column("CREATED", _running_for),
        "Ports": Column("PORTS", lambda item, _: ports_text(item.get("Ports") or [])),
        "State": Column("STATE", lambda item, _: item.get("State") or ""),
        "Status": Column("STATUS", lambda item, _: item.get("Status") or ""),
        "Size": Column("SIZE", _size),
        "Labels": Column("LABELS", _labels),
        "Mounts": Column("MOUNTS", _mounts),
        "LocalVolumes": Column("LOCAL VOLUMES", _local_volumes),
        "Networks": Column("NETWORKS", _networks),
        "Platform": Column("PLATFORM", _platform),
    },
    ("ID", "Image", "Command", "RunningFor", "Status", "Ports", "Names"),
    methods={"Label": lambda item, name: (item.get("Labels") or {}).get(name, "")},
)
