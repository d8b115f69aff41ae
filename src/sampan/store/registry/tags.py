"""Rows of tags."""

from __future__ import annotations

from sampan.model.registry import TagInfo
from sampan.store.db import Database


class TagTable:
    def __init__(self, db: Database) -> None:
        self._db = db

    def put(self, repository: int, name: str, manifest: int, now_ns: int) -> None:
        """Make a tag, or move it to another manifest of the repository."""
        self._db.write(
            "INSERT INTO tag (repository, name, manifest, updated_ns) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (repository, name) DO UPDATE SET manifest = excluded.manifest,"
            " updated_ns = excluded.updated_ns",
            (repository, name, manifest, now_ns),
        )

    def find(self, repository: int, name: str) -> str | None:
        """The digest it stands for."""
        rows = self._db.rows(
            "SELECT m.digest FROM tag AS t JOIN manifest AS m ON m.id = t.manifest"
            " WHERE t.repository = ? AND t.name = ?",
            (repository, name),
        )
        return str(rows[0][0]) if rows else None

    def names(self, repository: int, after: str, limit: int) -> list[str]:
        """In ASCII order."""
        rows = self._db.rows(
            "SELECT name FROM tag WHERE repository = ? AND name > ? ORDER BY name LIMIT ?",
            (repository, after, limit),
        )
        return [str(row[0]) for row in rows]

    def of_manifest(self, manifest: int) -> list[str]:
        rows = self._db.rows("SELECT name FROM tag WHERE manifest = ? ORDER BY name", (manifest,))
        return [str(row[0]) for row in rows]

    def ages(self, repository: str, after: str, limit: int) -> list[TagInfo]:
        """As :meth:`details` without sizes, which cost most of it."""
        rows = self._db.rows(
            "SELECT t.name, m.digest, m.media_type, t.updated_ns, m.pulled_ns FROM repository AS r"
            " JOIN tag AS t ON t.repository = r.id AND t.name > ? JOIN manifest AS m ON m.id = t.manifest"
            " WHERE r.name = ? ORDER BY t.name LIMIT ?",
            (after, repository, limit),
        )
        return [
            TagInfo(
                name=str(name),
                digest=str(digest),
                media_type=str(media_type),
                updated_ns=int(updated),
                pulled_ns=int(pulled),
            )
            for name, digest, media_type, updated, pulled in rows
        ]

    def details(self, repository: str, after: str = "", limit: int = 1000) -> list[TagInfo]:
        """With what each stands for, in ASCII order of names. Sizes count what the repository holds."""
        rows = self._db.rows(
            "SELECT t.name, m.digest, m.media_type, m.size_bytes, t.updated_ns, m.pulled_ns,"
            " (SELECT coalesce(sum(b.size_bytes), 0) FROM (WITH RECURSIVE below(digest) AS"
            "   (SELECT digest FROM reference WHERE manifest = m.id UNION SELECT f.digest FROM below"
            "    JOIN manifest AS c ON c.repository = t.repository AND c.digest = below.digest"
            "    JOIN reference AS f ON f.manifest = c.id) SELECT digest FROM below) AS d"
            "  JOIN link AS l ON l.repository = t.repository AND l.digest = d.digest"
            "  JOIN blob AS b ON b.digest = l.digest)"
            " FROM repository AS r JOIN tag AS t ON t.repository = r.id AND t.name > ?"
            " JOIN manifest AS m ON m.id = t.manifest WHERE r.name = ? ORDER BY t.name LIMIT ?",
            (after, repository, limit),
        )
        return [
            TagInfo(
                name=str(name),
                digest=str(digest),
                media_type=str(media_type),
                size_bytes=int(size) + int(below),
                updated_ns=int(updated),
                pulled_ns=int(pulled),
            )
            for name, digest, media_type, size, updated, pulled, below in rows
        ]

    def delete(self, repository: int, name: str) -> bool:
        """Whether there was one. The manifest stays."""
        return self._db.write("DELETE FROM tag WHERE repository = ? AND name = ?", (repository, name)) > 0
