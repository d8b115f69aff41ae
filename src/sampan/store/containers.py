"""Container records, and beside each a small row that start and exit rewrite."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import msgspec

from sampan.model.container import Container, Endpoint, ExitRecord, PortBinding

from .db import Database


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a running container holds of the host: needed to give it back, also after a restart."""

    cgroup_path: str = ""
    endpoints: dict[str, Endpoint] = {}
    """By network name."""
    ports: dict[str, list[PortBinding]] = {}
    """What was really bound, by ``80/tcp``."""
    changing: str = ""
    """The network that it is joining or leaving: begun and not done yet."""
    sandbox_key: str = ""
    paused: bool = False


class StoredContainer(msgspec.Struct, frozen=True, kw_only=True):
    """One container as the store has it. ``run`` is None unless it runs."""

    container: Container
    exit: ExitRecord
    run: RunRecord | None


_encode = msgspec.json.Encoder().encode
_container = msgspec.json.Decoder(Container)
_exit = msgspec.json.Decoder(ExitRecord)
_run = msgspec.json.Decoder(RunRecord)


class ContainerTable:
    """Rows of containers. The engine's registry is the reader; nothing else reads at run time."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def load(self) -> list[StoredContainer]:
        """Everything, oldest first."""
        rows = self._db.rows(
            "SELECT c.record, r.exit, r.run FROM container c JOIN container_run r USING (id)"
            " ORDER BY c.created_ns, c.id"
        )
        return [
            StoredContainer(
                container=_container.decode(record),
                exit=_exit.decode(exit_),
                run=None if run is None else _run.decode(run),
            )
            for record, exit_, run in rows
        ]

    def insert(self, container: Container, exit_record: ExitRecord) -> None:
        with self._lasting_as(container), self._db.transaction():
            self._db.write(
                "INSERT INTO container (id, name, created_ns, record) VALUES (?, ?, ?, ?)",
                (container.id, container.name, container.created_ns, _encode(container)),
            )
            self._db.write(
                "INSERT INTO container_run (id, exit) VALUES (?, ?)", (container.id, _encode(exit_record))
            )

    def _lasting_as(self, container: Container) -> AbstractContextManager[None]:
        """A power cut ends a ``--rm`` container and with it the container itself: nothing to sync for."""
        return self._db.relaxed() if container.host.auto_remove else nullcontext()

    def replace(self, container: Container) -> None:
        """After rename or update."""
        self._db.write(
            "UPDATE container SET name = ?, record = ? WHERE id = ?",
            (container.name, _encode(container), container.id),
        )

    def set_run(self, container_id: str, exit_record: ExitRecord, run: RunRecord | None) -> None:
        """After start and exit: the two small columns, in one write."""
        with self._db.relaxed():
            self._db.write(
                "UPDATE container_run SET exit = ?, run = ? WHERE id = ?",
                (_encode(exit_record), None if run is None else _encode(run), container_id),
            )

    def delete(self, container: Container) -> None:
        with self._lasting_as(container):
            self._db.write("DELETE FROM container WHERE id = ?", (container.id,))
