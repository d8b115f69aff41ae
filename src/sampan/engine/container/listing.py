"""``ps``: filters over the registry, as Docker's ``GET /containers/json`` understands them. Takes no lock."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from sampan.base.errors import InvalidArgument
from sampan.engine.filters import Filters, InvalidFilter
from sampan.model.container import Container

from .lifecycle import ALIVE
from .links import aliases
from .publish import with_protocol
from .registry import AmbiguousPrefix, Entry, NoSuchContainer, Registry

ACCEPTED = [
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
]
STATUSES = ("created", "running", "paused", "restarting", "removing", "exited", "dead")
HEALTH_STATUSES = ("none", "starting", "healthy", "unhealthy")

ImageMatcher = Callable[[str], set[str]]
"""An ancestor as the caller names it to the ids of that image and its descendants; empty if unknown."""


class Listing:
    """One listing: its filters, decoded once."""

    def __init__(
        self, registry: Registry, values: Mapping[str, Sequence[str]], ancestors: ImageMatcher, *, all_: bool
    ) -> None:
        """Raises InvalidArgument for unknown filters and unreadable values, NotFound for ``before`` and
        ``since`` of unknown containers."""
        filters = Filters(values)
        filters.require_known(ACCEPTED)
        self._registry = registry
        self._filters = filters
        self._exit_codes = [_exit_code(value) for value in filters.get("exited")]
        _require_among(filters, "status", STATUSES, "invalid value for state (%s): must be one of %s")
        _require_among(filters, "health", HEALTH_STATUSES, "invalid value for health (%s): must be one of %s")
        self._all = all_ or bool(filters.get("status"))
        self._only_tasks = filters.boolean("is-task", default=False)
        self._before = self._named("before")
        self._since = self._named("since")
        self._ids = self._matched_ids()
        self.aliases = aliases(registry) if registry.linking else {}
        """By container id: the names that legacy links give it."""
        self._images = {id_ for ref in filters.get("ancestor") for id_ in ancestors(ref)}
        self._published = _ports(filters, "publish")
        self._exposed = _ports(filters, "expose")

    def select(self, limit: int) -> list[Entry]:
        """Newest first; at most ``limit`` if above zero, which also includes stopped ones."""
        selected: list[Entry] = []
        skipping = self._before is not None
        for entry in self._registry.newest_first():
            if skipping:
                skipping = entry is not self._before
                continue
            if entry is self._since or (limit > 0 and len(selected) == limit):
                break
            if not self._all and limit <= 0 and entry.life.phase not in ALIVE:
                continue
            if self._matches(entry):
                selected.append(entry)
        return selected

    def _named(self, key: str) -> Entry | None:
        found = None
        for ref in self._filters.get(key):
            found = self._registry.find(ref)
            if found is None:
                raise NoSuchContainer(ref)
        return found

    def _matched_ids(self) -> set[str] | None:
        """Ids that the ``id`` filter's values name by prefix; None without one."""
        if not self._filters.get("id"):
            return None
        ids: set[str] = set()
        for prefix in self._filters.get("id"):
            try:
                entry = self._registry.find(prefix)
            except AmbiguousPrefix:
                ids.update(entry.id for entry in self._registry if entry.id.startswith(prefix))
                continue
            if entry is not None and entry.id.startswith(prefix):
                ids.add(entry.id)
        return ids

    def _matches(self, entry: Entry) -> bool:
        filters = self._filters
        if not filters:
            return True
        record = entry.record
        return (
            self._name_matches(entry)
            and (self._ids is None or entry.id in self._ids)
            and not ("is-task" in filters and self._only_tasks)
            and filters.labels("label", record.config.labels)
            and filters.pattern("isolation", record.host.isolation)
            and self._state_matches(entry)
            and self._volume_matches(record)
            and ("ancestor" not in filters or record.image_id in self._images)
            and self._network_matches(entry)
            and self._ports_match(entry)
        )

    def _name_matches(self, entry: Entry) -> bool:
        names = (f"/{entry.name}", entry.name, *self.aliases.get(entry.id, ()))
        return any(self._filters.pattern("name", name) for name in names)

    def _state_matches(self, entry: Entry) -> bool:
        life = entry.life
        if self._exit_codes and not (
            life.phase not in ALIVE and life.exit.started_ns and life.exit.exit_code in self._exit_codes
        ):
            return False
        status = "exited" if life.phase == "starting" and life.exit.started_ns else life.phase
        if not self._filters.pattern("status", "created" if status == "starting" else status):
            return False
        return self._filters.exact("health", entry.health.status if entry.health is not None else "none")

    def _volume_matches(self, record: Container) -> bool:
        wanted = self._filters.get("volume")
        if not wanted:
            return True
        return any(
            value in (mount.destination, mount.name or mount.source)
            for mount in record.mounts
            for value in wanted
        )

    def _network_matches(self, entry: Entry) -> bool:
        wanted = self._filters.get("network")
        if not wanted:
            return True
        live = entry.run.endpoints if entry.run is not None else {}
        return any(
            value in entry.record.networks or any(e.network_id.startswith(value) for e in live.values())
            for value in wanted
        )

    def _ports_match(self, entry: Entry) -> bool:
        if not self._published and not self._exposed:
            return True
        bound = entry.run.ports if entry.run is not None else {}
        public = {
            f"{b.host_port}/{port.partition('/')[2]}" for port, bindings in bound.items() for b in bindings
        }
        exposed = {with_protocol(port) for port in entry.record.config.exposed_ports or ()} | bound.keys()
        return bool(public & self._published or exposed & self._exposed)


def _exit_code(value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise InvalidFilter(
            f"invalid filter 'exited={value}': strconv.Atoi: parsing \"{value}\": invalid syntax"
        ) from None


def _require_among(filters: Filters, key: str, allowed: Sequence[str], text: str) -> None:
    for value in filters.get(key):
        if value not in allowed:
            detail = text % (value, ", ".join(allowed))
            raise InvalidFilter(f"invalid filter '{key}={value}': {detail}")


def _ports(filters: Filters, key: str) -> set[str]:
    """``80``, ``80/udp``, ``8000-8010/tcp`` as a set of ``80/tcp``."""
    ports: set[str] = set()
    for value in filters.get(key):
        if ":" in value:
            raise InvalidArgument(f"filter for '{key}' should not contain ':': {value}")
        numbers, _, protocol = value.partition("/")
        first, dash, last = numbers.partition("-")
        try:
            bounds = int(first), int(last) if dash else int(first)
        except ValueError:
            raise InvalidArgument(f"error while looking up for {key} {value}: invalid port number") from None
        ports.update(f"{number}/{protocol or 'tcp'}" for number in range(bounds[0], bounds[1] + 1))
    return ports
