"""Rows below a prefix of names: how much a cache holds, and what of it was not asked for for longest."""

from __future__ import annotations

from sampan.store.db import Database

_BELOW = "(? = '' OR (r.name > ? || '/' AND r.name < ? || '0'))"
"""``0`` is what follows ``/`` in ASCII."""


class CachedTable:
    """``prefix`` is without the slash; "" is everything."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def size_bytes(self, prefix: str) -> int:
        """Of the blobs its manifests need and that are here, each once."""
        ((size,),) = self._db.rows(
            "SELECT coalesce(sum(b.size_bytes), 0) FROM blob AS b WHERE b.digest IN"  # noqa: S608
            " (SELECT f.digest FROM repository AS r JOIN reference AS f ON f.repository = r.id"
            f" WHERE {_BELOW})",
            (prefix, prefix, prefix),
        )
        return int(size)

    def least_recent(self, prefix: str, before_ns: int, limit: int) -> list[int]:
        """Numbers of manifests no index needs, neither fetched nor pulled since ``before_ns``."""
        rows = self._db.rows(
            "SELECT m.id FROM repository AS r JOIN manifest AS m ON m.repository = r.id"  # noqa: S608
            f" WHERE {_BELOW} AND max(m.pushed_ns, m.pulled_ns) < ?"
            " AND NOT EXISTS (SELECT 1 FROM reference AS f"
            "  WHERE f.repository = m.repository AND f.digest = m.digest)"
            " ORDER BY max(m.pushed_ns, m.pulled_ns), m.id LIMIT ?",
            (prefix, prefix, prefix, before_ns, limit),
        )
        return [int(row[0]) for row in rows]
