"""What the collector looks at: windows over the tables, each as cheap as its limit is small.

Every window is a range of a primary key, so that a registry with nothing to collect is not scanned in one
statement, during which nothing else would be answered.
"""

from __future__ import annotations

from typing import Any

import msgspec

from sampan.store.db import Database


class LinkState(msgspec.Struct, frozen=True, kw_only=True):
    """A blob in a repository, and whether a manifest there needs it."""

    repository: int
    name: str
    digest: str
    size_bytes: int
    touched_ns: int
    needed: bool


class BlobState(msgspec.Struct, frozen=True, kw_only=True):
    """A blob, and whether a repository has it."""

    digest: str
    size_bytes: int
    stored_ns: int
    linked: bool
    deleting: bool


class ManifestState(msgspec.Struct, frozen=True, kw_only=True):
    """A manifest, and what keeps it."""

    number: int
    repository: str
    digest: str
    media_type: str
    size_bytes: int
    pushed_ns: int
    pulled_ns: int
    tagged: bool
    needed: bool
    """By an index of its repository."""
    about: bool
    """It has a subject, which is here."""


class GarbageTable:
    """Marks and removes what the collector has decided on. A decision and its statement stand between two
    steps of the event loop, so that nothing changes in between."""

    def __init__(self, db: Database) -> None:
        self._db = db

    # manifests

    def manifests(self, after: int, limit: int) -> list[ManifestState]:
        """By number, beginning behind ``after``."""
        rows = self._db.rows(
            "SELECT m.id, r.name, m.digest, m.media_type, m.size_bytes, m.pushed_ns, m.pulled_ns,"
            " EXISTS (SELECT 1 FROM tag WHERE manifest = m.id),"
            " EXISTS (SELECT 1 FROM reference AS f"
            "  WHERE f.repository = m.repository AND f.digest = m.digest),"
            " m.subject <> '' AND EXISTS (SELECT 1 FROM manifest AS s"
            "  WHERE s.repository = m.repository AND s.digest = m.subject)"
            " FROM manifest AS m JOIN repository AS r ON r.id = m.repository"
            " WHERE m.id > ? ORDER BY m.id LIMIT ?",
            (after, limit),
        )
        return [_manifest(row) for row in rows]

    def delete_manifests(self, numbers: list[int]) -> None:
        self._db.write(
            "DELETE FROM manifest WHERE id IN (SELECT value FROM json_each(?))",
            (msgspec.json.encode(numbers),),
        )

    # links

    def links(self, after: tuple[int, str], limit: int) -> list[LinkState]:
        """By repository and digest, beginning behind ``after``."""
        rows = self._db.rows(
            "SELECT l.repository, r.name, l.digest, b.size_bytes, l.touched_ns,"
            " EXISTS (SELECT 1 FROM reference AS f"
            "  WHERE f.repository = l.repository AND f.digest = l.digest)"
            " FROM link AS l JOIN repository AS r ON r.id = l.repository"
            " JOIN blob AS b ON b.digest = l.digest"
            " WHERE (l.repository, l.digest) > (?, ?) ORDER BY l.repository, l.digest LIMIT ?",
            (*after, limit),
        )
        return [
            LinkState(
                repository=int(repository),
                name=str(name),
                digest=str(digest),
                size_bytes=int(size),
                touched_ns=int(touched),
                needed=bool(needed),
            )
            for repository, name, digest, size, touched, needed in rows
        ]

    def unlink(self, links: list[LinkState]) -> None:
        for link in links:
            self._db.write(
                "DELETE FROM link WHERE repository = ? AND digest = ?", (link.repository, link.digest)
            )

    # blobs

    def blobs(self, after: str, limit: int) -> list[BlobState]:
        """By digest, beginning behind ``after``."""
        rows = self._db.rows(
            "SELECT b.digest, b.size_bytes, b.stored_ns,"
            " EXISTS (SELECT 1 FROM link WHERE link.digest = b.digest), b.deleting"
            " FROM blob AS b WHERE b.digest > ? ORDER BY b.digest LIMIT ?",
            (after, limit),
        )
        return [
            BlobState(
                digest=str(digest),
                size_bytes=int(size),
                stored_ns=int(stored),
                linked=bool(linked),
                deleting=bool(deleting),
            )
            for digest, size, stored, linked, deleting in rows
        ]

    def mark(self, digests: list[str]) -> None:
        """Nobody sees them any more, and their bytes may go."""
        self._db.write(
            "UPDATE blob SET deleting = 1 WHERE digest IN (SELECT value FROM json_each(?))",
            (msgspec.json.encode(digests),),
        )

    def is_marked(self, digest: str) -> bool:
        """False when it was pushed again since."""
        return bool(self._db.rows("SELECT 1 FROM blob WHERE digest = ? AND deleting = 1", (digest,)))

    def forget(self, digests: list[str]) -> None:
        """Those that are still marked; their bytes are gone."""
        self._db.write(
            "DELETE FROM blob WHERE deleting = 1 AND digest IN (SELECT value FROM json_each(?))",
            (msgspec.json.encode(digests),),
        )

    def unknown(self, digests: list[str]) -> list[str]:
        """Those of ``digests`` that there is no row of."""
        rows = self._db.rows(
            "SELECT value FROM json_each(?) WHERE NOT EXISTS (SELECT 1 FROM blob WHERE digest = value)",
            (msgspec.json.encode(digests),),
        )
        return [str(row[0]) for row in rows]

    def oldest_repository_ns(self) -> int | None:
        """When the first of the repositories was made; None: there is none."""
        ((oldest,),) = self._db.rows("SELECT min(created_ns) FROM repository")
        return None if oldest is None else int(oldest)


def _manifest(row: tuple[Any, ...]) -> ManifestState:
    number, repository, digest, media_type, size, pushed, pulled, tagged, needed, about = row
    return ManifestState(
        number=int(number),
        repository=str(repository),
        digest=str(digest),
        media_type=str(media_type),
        size_bytes=int(size),
        pushed_ns=int(pushed),
        pulled_ns=int(pulled),
        tagged=bool(tagged),
        needed=bool(needed),
        about=bool(about),
    )
