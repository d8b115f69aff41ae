"""Rows of repositories: names in order, what each holds."""

from __future__ import annotations

from typing import Any

from sampan.model.registry import RepositoryUsage
from sampan.store.db import Database

_USAGE = """
    SELECT r.name,
           (SELECT count(*) FROM tag WHERE repository = r.id),
           (SELECT count(*) FROM manifest WHERE repository = r.id),
           (SELECT count(*) FROM link WHERE repository = r.id),
           (SELECT coalesce(sum(b.size_bytes), 0) FROM link AS l JOIN blob AS b ON b.digest = l.digest
             WHERE l.repository = r.id)
           + (SELECT coalesce(sum(size_bytes), 0) FROM manifest WHERE repository = r.id),
           r.updated_ns
      FROM repository AS r"""


class RepositoryTable:
    """Repositories are made by the first push to them and go with the last thing in them."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def find(self, name: str) -> int | None:
        """The row's number."""
        rows = self._db.rows("SELECT id FROM repository WHERE name = ?", (name,))
        return int(rows[0][0]) if rows else None

    def ensure(self, name: str, now_ns: int) -> int:
        self._db.write(
            "INSERT INTO repository (name, created_ns, updated_ns) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
            (name, now_ns, now_ns),
        )
        found = self.find(name)
        assert found is not None
        return found

    def set_updated(self, repository: int, now_ns: int) -> None:
        self._db.write("UPDATE repository SET updated_ns = ? WHERE id = ?", (now_ns, repository))

    def names(self, after: str, limit: int) -> list[str]:
        """In ASCII order; only those that have a manifest: an upload alone is nothing to pull yet."""
        rows = self._db.rows(
            "SELECT name FROM repository WHERE name > ?"
            " AND EXISTS (SELECT 1 FROM manifest WHERE repository = repository.id)"
            " ORDER BY name LIMIT ?",
            (after, limit),
        )
        return [str(row[0]) for row in rows]

    def usage(self, name: str) -> RepositoryUsage | None:
        rows = self._db.rows(f"{_USAGE} WHERE r.name = ?", (name,))
        return _usage(rows[0]) if rows else None

    def usages(self, after: str = "", limit: int = 1000) -> list[RepositoryUsage]:
        """In ASCII order of names, beginning behind ``after``."""
        rows = self._db.rows(
            f"{_USAGE} WHERE r.name > ? ORDER BY r.name LIMIT ?",
            (after, limit),
        )
        return [_usage(row) for row in rows]

    def totals(self) -> tuple[int, int, int]:
        """How many repositories, tags and manifests there are."""
        ((repositories, tags, manifests),) = self._db.rows(
            "SELECT (SELECT count(*) FROM repository), (SELECT count(*) FROM tag),"
            " (SELECT count(*) FROM manifest)"
        )
        return int(repositories), int(tags), int(manifests)

    def delete_empty(self, older_than_ns: int) -> int:
        """Remove repositories in which nothing is left and nothing was pushed since; how many."""
        return self._db.write(
            "DELETE FROM repository WHERE updated_ns < ?"
            " AND NOT EXISTS (SELECT 1 FROM manifest WHERE repository = repository.id)"
            " AND NOT EXISTS (SELECT 1 FROM link WHERE repository = repository.id)"
            " AND NOT EXISTS (SELECT 1 FROM upload WHERE repository = repository.id)",
            (older_than_ns,),
        )


def _usage(row: tuple[Any, ...]) -> RepositoryUsage:
    name, tags, manifests, blobs, size, updated = row
    return RepositoryUsage(
        repository=str(name),
        tags=int(tags),
        manifests=int(manifests),
        blobs=int(blobs),
        size_bytes=int(size),
        updated_ns=int(updated),
    )
