"""Rows of manifests, of what they refer to, and of who refers to them."""

from __future__ import annotations

from typing import Any

import msgspec

from sampan.model.registry import StoredManifest
from sampan.store.db import Database

_COLUMNS = "m.digest, m.media_type, m.artifact_type, m.subject, m.annotations, m.pushed_ns, m.body"
_annotations = msgspec.json.Decoder(dict[str, str])


class ManifestRow(msgspec.Struct, frozen=True, kw_only=True):
    """A manifest without its bytes."""

    number: int
    repository: str
    digest: str
    media_type: str
    artifact_type: str
    size_bytes: int
    pushed_ns: int
    pulled_ns: int
    """To the minute; 0: never."""
    annotations: dict[str, str] | None = None
    """Only with those that have a subject."""


class ManifestTable:
    def __init__(self, db: Database) -> None:
        self._db = db

    def put(self, repository: int, manifest: StoredManifest, references: list[str]) -> int:
        """Insert, or say that it was pushed again; the row's number. ``references``: digests it needs."""
        annotations = manifest.annotations if manifest.subject else None
        rows = self._db.rows(
            "INSERT INTO manifest (repository, digest, media_type, artifact_type, subject, annotations,"
            " size_bytes, pushed_ns, body) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (repository, digest) DO UPDATE SET pushed_ns = excluded.pushed_ns,"
            " media_type = excluded.media_type RETURNING id",
            (
                repository,
                manifest.digest,
                manifest.media_type,
                manifest.artifact_type,
                manifest.subject,
                msgspec.json.encode(annotations) if annotations else None,
                manifest.size_bytes,
                manifest.pushed_ns,
                manifest.body,
            ),
        )
        number = int(rows[0][0])
        self._db.write(
            "INSERT INTO reference (repository, digest, manifest) SELECT ?, value, ? FROM json_each(?)"
            " WHERE true ON CONFLICT DO NOTHING",
            (repository, number, msgspec.json.encode(references)),
        )
        return number

    def find(self, repository: str, digest: str) -> tuple[ManifestRow, StoredManifest] | None:
        return self._one(
            f"SELECT m.id, m.size_bytes, m.pulled_ns, {_COLUMNS} FROM repository AS r"  # noqa: S608
            " JOIN manifest AS m ON m.repository = r.id AND m.digest = ? WHERE r.name = ?",
            repository,
            digest,
        )

    def find_tagged(self, repository: str, tag: str) -> tuple[ManifestRow, StoredManifest] | None:
        return self._one(
            f"SELECT m.id, m.size_bytes, m.pulled_ns, {_COLUMNS} FROM repository AS r"  # noqa: S608
            " JOIN tag AS t ON t.repository = r.id AND t.name = ? JOIN manifest AS m ON m.id = t.manifest"
            " WHERE r.name = ?",
            repository,
            tag,
        )

    def _one(
        self, statement: str, repository: str, reference: str
    ) -> tuple[ManifestRow, StoredManifest] | None:
        rows = self._db.rows(statement, (reference, repository))
        if not rows:
            return None
        number, size, pulled, digest, media_type, artifact_type, subject, annotations, pushed, body = rows[0]
        columns = (number, digest, media_type, artifact_type, size, pushed, pulled, annotations)
        row = _row(repository, columns)
        stored = StoredManifest(
            digest=row.digest,
            media_type=row.media_type,
            body=body,
            artifact_type=row.artifact_type,
            subject=str(subject),
            annotations=row.annotations,
            pushed_ns=row.pushed_ns,
        )
        return row, stored

    def present(self, repository: int, digests: list[str]) -> dict[str, int]:
        """Sizes of those of ``digests`` that the repository has as manifests."""
        rows = self._db.rows(
            "SELECT m.digest, m.size_bytes FROM json_each(?) AS wanted"
            " JOIN manifest AS m ON m.repository = ? AND m.digest = wanted.value",
            (msgspec.json.encode(digests), repository),
        )
        return {str(digest): int(size) for digest, size in rows}

    def last_pulled(self, repository: str, digest: str) -> tuple[int, int] | None:
        """The row's number and when it was last asked for."""
        rows = self._db.rows(
            "SELECT m.id, m.pulled_ns FROM repository AS r"
            " JOIN manifest AS m ON m.repository = r.id AND m.digest = ? WHERE r.name = ?",
            (digest, repository),
        )
        return (int(rows[0][0]), int(rows[0][1])) if rows else None

    def set_pulled(self, number: int, now_ns: int) -> None:
        self._db.write("UPDATE manifest SET pulled_ns = ? WHERE id = ?", (now_ns, number))

    def delete(self, number: int) -> None:
        """With its tags and references."""
        self._db.write("DELETE FROM manifest WHERE id = ?", (number,))

    def users_of(self, repository: int, digest: str) -> list[str]:
        """Digests of the manifests that need a blob or manifest of their repository."""
        rows = self._db.rows(
            "SELECT m.digest FROM reference AS f JOIN manifest AS m ON m.id = f.manifest"
            " WHERE f.repository = ? AND f.digest = ? ORDER BY m.id LIMIT 10",
            (repository, digest),
        )
        return [str(row[0]) for row in rows]

    def references_of(self, number: int) -> list[str]:
        rows = self._db.rows("SELECT digest FROM reference WHERE manifest = ? ORDER BY digest", (number,))
        return [str(row[0]) for row in rows]

    def referrers(
        self, repository: str, subject: str, artifact_type: str | None, after: str, limit: int
    ) -> list[ManifestRow]:
        """Manifests with this subject, by digest, beginning behind ``after``."""
        rows = self._db.rows(
            "SELECT m.id, m.digest, m.media_type, m.artifact_type, m.size_bytes, m.pushed_ns, m.pulled_ns,"
            " m.annotations FROM repository AS r JOIN manifest AS m ON m.repository = r.id"
            " AND m.subject = ? AND m.subject <> '' AND m.digest > ?"
            " WHERE r.name = ? AND (? IS NULL OR m.artifact_type = ?) ORDER BY m.digest LIMIT ?",
            (subject, after, repository, artifact_type, artifact_type, limit),
        )
        return [_row(repository, row) for row in rows]


def _row(repository: str, row: tuple[Any, ...]) -> ManifestRow:
    number, digest, media_type, artifact_type, size, pushed, pulled, annotations = row
    return ManifestRow(
        number=int(number),
        repository=repository,
        digest=str(digest),
        media_type=str(media_type),
        artifact_type=str(artifact_type),
        size_bytes=int(size),
        pushed_ns=int(pushed),
        pulled_ns=int(pulled),
        annotations=_annotations.decode(annotations) if annotations else None,
    )
