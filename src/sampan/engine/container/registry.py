"""Every container in memory, by id, name and id prefix.

Loaded from the store once; 1,000 entries are a few megabytes. Records are frozen, an :class:`Entry` only
points at the current ones, so readers never see half a change and need no lock.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

from sampan.base.errors import InvalidArgument, NotFound
from sampan.engine.ports import Supervised
from sampan.model.container import Container, Endpoint, EndpointConfig, HealthState
from sampan.store.containers import RunRecord, StoredContainer

from .layout import Layout
from .lifecycle import Life, Rules, initial, state_view
from .views import ContainerView, EndpointView

_revisions = count(1)
_NO_ENDPOINT = Endpoint()


class NoSuchContainer(NotFound):
    def __init__(self, ref: str) -> None:
        super().__init__(f"No such container: {ref}")


class AmbiguousPrefix(InvalidArgument):
    def __init__(self, prefix: str) -> None:
        super().__init__(f"Multiple IDs found with provided prefix: {prefix}")


class Entry:
    """One container: the current frozen values, and the handle of its live process."""

    generation = 1
    """Of all of them together: another number after each change that a view of one could show."""

    __slots__ = (
        "_view",
        "exec_ids",
        "health",
        "image_size_bytes",
        "life",
        "manifest_digest",
        "process",
        "record",
        "rules",
        "run",
    )

    def __init__(self, record: Container, life: Life, run: RunRecord | None) -> None:
        self.record = record
        self.rules = rules_of(record)
        self.life = life
        self.run = run
        self.process: Supervised | None = None
        self.health: HealthState | None = None
        self.exec_ids: tuple[str, ...] = ()
        self.manifest_digest = ""
        self.image_size_bytes = 0
        self._view: ContainerView | None = None

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def name(self) -> str:
        return self.record.name

    def replace_record(self, record: Container) -> None:
        self.record = record
        self.rules = rules_of(record)
        self.changed()

    def changed(self) -> None:
        """Something that a view shows is different now."""
        self._view = None
        Entry.generation += 1

    def view(self, layout: Layout) -> ContainerView:
        """The same object until the next change."""
        if self._view is None:
            self._view = _make_view(self, layout)
        return self._view


def rules_of(record: Container) -> Rules:
    return Rules(
        id=record.id,
        name=record.name,
        restart_policy=record.host.restart_policy,
        auto_remove=record.host.auto_remove,
    )


def _make_view(entry: Entry, layout: Layout) -> ContainerView:
    record, run = entry.record, entry.run
    id_ = record.id
    live = run.endpoints if run is not None else {}
    configs: dict[str, EndpointConfig] = record.networks
    merged = f"{layout.container(id_)}/merged"
    return ContainerView(
        record=record,
        state=state_view(entry.life, entry.health),
        endpoints={
            name: EndpointView(config=config, live=live.get(name, _NO_ENDPOINT))
            for name, config in configs.items()
        },
        ports=run.ports if run is not None else {},
        restart_count=entry.life.exit.restart_count,
        exec_ids=list(entry.exec_ids),
        log_path=layout.log(id_),
        hostname_path=layout.hostname(id_),
        hosts_path=layout.hosts(id_),
        resolv_conf_path=layout.resolv_conf(id_),
        sandbox_key=run.sandbox_key if run is not None else "",
        graph={
            "LowerDir": ":".join(layout.lower(record.layer_ids)),
            "MergedDir": merged,
            "UpperDir": layout.upper(id_),
            "WorkDir": layout.work(id_),
        },
        image_manifest_digest=entry.manifest_digest,
        revision=next(_revisions),
    )


class Registry:
    """Finds containers. Insertion order is creation order."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._ids: dict[str, str] = {}
        self.linking: dict[str, Entry] = {}
        """By id those that were made with legacy links, which are few: listings look for what they link."""

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        """Oldest first; a stable copy, so that the loop may wait between entries."""
        return iter(tuple(self._entries.values()))

    def newest_first(self) -> list[Entry]:
        return list(reversed(self._entries.values()))

    def load(self, stored: list[StoredContainer]) -> None:
        for row in stored:
            self.insert(Entry(row.container, initial(row.exit, row.run is not None), row.run))

    def insert(self, entry: Entry) -> None:
        entry.changed()
        self._entries[entry.id] = entry
        self._ids[entry.name] = entry.id
        if entry.record.host.links:
            self.linking[entry.id] = entry

    def delete(self, entry: Entry) -> None:
        entry.changed()
        self._entries.pop(entry.id, None)
        self.linking.pop(entry.id, None)
        if self._ids.get(entry.name) == entry.id:
            del self._ids[entry.name]

    def rename(self, entry: Entry, record: Container) -> None:
        del self._ids[entry.name]
        entry.replace_record(record)
        self._ids[record.name] = record.id

    def find_id(self, container_id: str) -> Entry | None:
        return self._entries.get(container_id)

    def find_name(self, name: str) -> Entry | None:
        """``name`` without leading slash."""
        id_ = self._ids.get(name)
        return self._entries[id_] if id_ is not None else None

    def find(self, ref: str) -> Entry | None:
        """By full id, name (with or without slash) or unique id prefix. Raises AmbiguousPrefix."""
        entry = self._entries.get(ref)
        if entry is None:
            entry = self.find_name(ref.removeprefix("/"))
        if entry is None and ref:
            matches = [e for id_, e in self._entries.items() if id_.startswith(ref)]
            if len(matches) > 1:
                raise AmbiguousPrefix(ref)
            entry = matches[0] if matches else None
        return entry

    def require(self, ref: str) -> Entry:
        """Raises NoSuchContainer, AmbiguousPrefix, or InvalidArgument for an empty reference."""
        if not ref:
            raise InvalidArgument("invalid container name or ID: value is empty")
        entry = self.find(ref)
        if entry is None:
            raise NoSuchContainer(ref)
        return entry
