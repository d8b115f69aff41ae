"""Rows of uploads: to which repository each belongs. Their bytes and sizes are the storage's."""

from __future__ import annotations

from sampan.store.db import Database


class UploadTable:
    def __init__(self, db: Database) -> None:
        self._db = db

    def insert(self, upload_id: str, repository: int, now_ns: int) -> None:
        self._db.write(
            "INSERT INTO upload (id, repository, started_ns) VALUES (?, ?, ?)",
            (upload_id, repository, now_ns),
        )

    def find(self, upload_id: str) -> str | None:
        """The name of the repository it is for."""
        rows = self._db.rows(
            "SELECT r.name FROM upload AS u JOIN repository AS r ON r.id = u.repository WHERE u.id = ?",
            (upload_id,),
        )
        return str(rows[0][0]) if rows else None

    def delete(self, upload_id: str) -> None:
        self._db.write("DELETE FROM upload WHERE id = ?", (upload_id,))

    def started_before(self, time_ns: int, limit: int) -> list[str]:
        rows = self._db.rows(
            "SELECT id FROM upload WHERE started_ns < ? ORDER BY started_ns LIMIT ?", (time_ns, limit)
        )
        return [str(row[0]) for row in rows]
