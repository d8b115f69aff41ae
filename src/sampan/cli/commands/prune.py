"""The prune commands: remove what is not used, after asking."""

from __future__ import annotations

import sys

from sampan.cli.failure import Failure
from sampan.cli.filters import encoded, filter_option
from sampan.cli.options import BOOL, Command, Option, Values
from sampan.cli.session import Session
from sampan.cli.units import human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Pairs = list[tuple[str, str]]


def _confirm(question: str) -> None:
    """Raises Failure unless the answer is yes. End of input is no."""
    print(f"WARNING! {question}\nAre you sure you want to continue? [y/N] ", end="", flush=True)
    answer = sys.stdin.readline()
    if answer.strip().lower() not in ("y", "yes"):
        raise Failure("" if answer else "\nnothing was removed")


def _post(session: Session, kind: str, filters: Pairs) -> dict[str, Any]:
    query = [("filters", encoded(filters))] if filters else []
    answer: dict[str, Any] = session.client.call("POST", f"/{kind}/prune", query)
    return answer


def _list(title: str, names: list[str]) -> None:
    if names:
        print(f"{title}:\n" + "\n".join(names) + "\n")


def _containers(session: Session, filters: Pairs) -> int:
    answer = _post(session, "containers", filters)
    _list("Deleted Containers", answer.get("ContainersDeleted") or [])
    return answer.get("SpaceReclaimed") or 0


def _networks(session: Session, filters: Pairs) -> int:
    answer = _post(session, "networks", filters)
    _list("Deleted Networks", answer.get("NetworksDeleted") or [])
    return 0


def _volumes(session: Session, filters: Pairs) -> int:
    answer = _post(session, "volumes", filters)
    _list("Deleted Volumes", answer.get("VolumesDeleted") or [])
    return answer.get("SpaceReclaimed") or 0


def _images(session: Session, filters: Pairs) -> int:
    answer = _post(session, "images", filters)
    lines = []
    for change in answer.get("ImagesDeleted") or ():
        for key, word in (("Untagged", "untagged"), ("Deleted", "deleted")):
            if change.get(key):
                lines.append(f"{word}: {change[key]}")
    _list("Deleted Images", lines)
    return answer.get("SpaceReclaimed") or 0


def _reclaimed(size_bytes: int) -> int:
    print(f"Total reclaimed space: {human_size(size_bytes)}")
    return 0


def prune_containers(session: Session, values: Values, words: list[str]) -> int:
    if not values.flag("force"):
        _confirm("This will remove all stopped containers.")
    return _reclaimed(_containers(session, values.many("filter")))


def prune_images(session: Session, values: Values, words: list[str]) -> int:
    everything = values.flag("all")
    if not values.flag("force"):
        which = "without at least one container associated to them" if everything else ""
        _confirm(f"This will remove all {'images ' + which if everything else 'dangling images'}.")
    filters = [*values.many("filter"), ("dangling", "false" if everything else "true")]
    return _reclaimed(_images(session, filters))


def prune_networks(session: Session, values: Values, words: list[str]) -> int:
    if not values.flag("force"):
        _confirm("This will remove all custom networks not used by at least one container.")
    _networks(session, values.many("filter"))
    return 0


def prune_volumes(session: Session, values: Values, words: list[str]) -> int:
    filters = values.many("filter")
    if values.flag("all"):
        filters.append(("all", "true"))
    if not values.flag("force"):
        kind = "all" if values.flag("all") else "anonymous"
        _confirm(f"This will remove {kind} local volumes not used by at least one container.")
    return _reclaimed(_volumes(session, filters))


def prune_system(session: Session, values: Values, words: list[str]) -> int:
    filters = values.many("filter")
    if not values.flag("force"):
        steps = ["all stopped containers", "all networks not used by at least one container"]
        if values.flag("volumes"):
            steps.append("all anonymous volumes not used by at least one container")
        images = "all images without at least one container associated to them"
        steps.append(images if values.flag("all") else "all dangling images")
        _confirm("This will remove:\n" + "\n".join(f"  - {step}" for step in steps) + "\n")
    total = _containers(session, filters)
    _networks(session, filters)
    if values.flag("volumes"):
        total += _volumes(session, [pair for pair in filters if pair[0] != "until"])
    total += _images(session, [*filters, ("dangling", "false" if values.flag("all") else "true")])
    return _reclaimed(total)


_FORCE = Option("force", "f", BOOL, "Do not ask")
_FILTER = filter_option('Only what fits (such as "until=24h")', "")

CONTAINERS = Command(
    "container prune",
    "[OPTIONS]",
    "Remove all stopped containers",
    prune_containers,
    (_FILTER, _FORCE),
    maximum=0,
)
IMAGES = Command(
    "image prune",
    "[OPTIONS]",
    "Remove unused images",
    prune_images,
    (Option("all", "a", BOOL, "All unused images, not just dangling ones"), _FILTER, _FORCE),
    maximum=0,
)
NETWORKS = Command(
    "network prune", "[OPTIONS]", "Remove all unused networks", prune_networks, (_FILTER, _FORCE), maximum=0
)
VOLUMES = Command(
    "volume prune",
    "[OPTIONS]",
    "Remove unused volumes",
    prune_volumes,
    (Option("all", "a", BOOL, "All unused volumes, not just anonymous ones"), _FILTER, _FORCE),
    maximum=0,
)
SYSTEM = Command(
    "system prune",
    "[OPTIONS]",
    "Remove everything that is not used",
    prune_system,
    (
        Option("all", "a", BOOL, "All unused images, not just dangling ones"),
        _FILTER,
        _FORCE,
        Option("volumes", "", BOOL, "Anonymous volumes too"),
    ),
    maximum=0,
)
