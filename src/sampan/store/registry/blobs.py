"""Rows of blobs and of their links to repositories.

A blob's bytes are of use to nobody without a link, and a link is what protects them: the collector marks only
blobs without links, and nothing links a marked one.
"""

from __future__ import annotations

import msgspec

from sampan.model.registry import BlobInfo
from sampan.store.db import Database


class BlobLink(msgspec.Struct, frozen=True, kw_only=True):
    """A blob as a repository has it."""

    repository: str
    digest: str
    size_bytes: int
    touched_ns: int
    """When somebody last pushed, pulled or asked for it, to the minute."""


class BlobTable:
    def __init__(self, db: Database) -> None:
        self._db = db

    # blobs

    def put(self, digest: str, size_bytes: int, now_ns: int) -> None:
        """The storage has it. One that was about to be deleted is not any more."""
        self._db.write(
            "INSERT INTO blob (digest, size_bytes, stored_ns) VALUES (?, ?, ?)"
            " ON CONFLICT (digest) DO UPDATE SET deleting = 0, damaged = 0,"
            " size_bytes = excluded.size_bytes",
            (digest, size_bytes, now_ns),
        )

    def find(self, digest: str) -> BlobInfo | None:
        """None also when it is damaged or being deleted."""
        rows = self._db.rows(
            "SELECT size_bytes, stored_ns FROM blob WHERE digest = ? AND deleting = 0 AND damaged = 0",
            (digest,),
        )
        if not rows:
            return None
        size, stored = rows[0]
        return BlobInfo(digest=digest, size_bytes=int(size), stored_ns=int(stored))

    def page(self, after: str, limit: int) -> list[BlobInfo]:
        """All blobs that are not damaged or being deleted, by digest."""
        return [
            BlobInfo(digest=str(digest), size_bytes=int(size), stored_ns=int(stored))
            for digest, size, stored in self._db.rows(
                "SELECT digest, size_bytes, stored_ns FROM blob"
                " WHERE digest > ? AND deleting = 0 AND damaged = 0 ORDER BY digest LIMIT ?",
                (after, limit),
            )
        ]

    def set_damaged(self, digest: str) -> None:
        self._db.write("UPDATE blob SET damaged = 1 WHERE digest = ?", (digest,))

    def totals(self) -> tuple[int, int]:
        """How many blobs there are and their bytes, each counted once."""
        ((count, size),) = self._db.rows("SELECT count(*), coalesce(sum(size_bytes), 0) FROM blob")
        return int(count), int(size)

    # links

    def link(self, repository: int, digest: str, now_ns: int) -> None:
        """Make a blob visible in a repository, or say that it was asked for."""
        self._db.write(
            "INSERT INTO link (repository, digest, touched_ns) VALUES (?, ?, ?)"
            " ON CONFLICT (repository, digest) DO UPDATE SET touched_ns = excluded.touched_ns",
            (repository, digest, now_ns),
        )

    def find_link(self, repository: str, digest: str) -> tuple[int, BlobLink] | None:
        """The repository's number and the link."""
        rows = self._db.rows(
            "SELECT l.repository, b.size_bytes, l.touched_ns FROM repository AS r"
            " JOIN link AS l ON l.repository = r.id AND l.digest = ? JOIN blob AS b ON b.digest = l.digest"
            " WHERE r.name = ? AND b.damaged = 0",
            (digest, repository),
        )
        if not rows:
            return None
        number, size, touched = rows[0]
        link = BlobLink(
            repository=repository,
            digest=digest,
            size_bytes=int(size),
            touched_ns=int(touched),
        )
        return int(number), link

    def repositories_with(self, digest: str) -> list[str]:
        rows = self._db.rows(
            "SELECT r.name FROM link AS l JOIN repository AS r ON r.id = l.repository"
            " WHERE l.digest = ? ORDER BY r.name",
            (digest,),
        )
        return [str(row[0]) for row in rows]

    def unlink(self, repository: int, digest: str) -> None:
        self._db.write("DELETE FROM link WHERE repository = ? AND digest = ?", (repository, digest))

    def sizes_in(self, repository: int, digests: list[str]) -> dict[str, int]:
        """Of those of ``digests`` that the repository has."""
        rows = self._db.rows(
            "SELECT l.digest, b.size_bytes FROM json_each(?) AS wanted"
            " JOIN link AS l ON l.repository = ? AND l.digest = wanted.value"
            " JOIN blob AS b ON b.digest = l.digest AND b.damaged = 0",
            (msgspec.json.encode(digests), repository),
        )
        return {str(digest): int(size) for digest, size in rows}

    def touch(self, repository: int, digests: list[str], now_ns: int) -> None:
        self._db.write(
            "UPDATE link SET touched_ns = ? WHERE repository = ?"
            " AND digest IN (SELECT value FROM json_each(?))",
            (now_ns, repository, msgspec.json.encode(digests)),
        )
