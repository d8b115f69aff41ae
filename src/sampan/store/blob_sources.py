"""Where blobs are known to be besides here: repositories that they were pulled from or pushed to.

It outlives images: a layer that came with one image may be mounted when another that has it is pushed. What
is said here may be out of date, so it is only where to ask first.
"""

from __future__ import annotations

from collections.abc import Iterable

from .db import Database

_KEPT = 8
"""Repositories of one blob."""


class BlobSourceTable:
    def __init__(self, db: Database) -> None:
        self._db = db

    def put(self, digests: Iterable[str], domain: str, path: str, now_ns: int) -> None:
        """The repository has these blobs. The oldest of too many is forgotten."""
        with self._db.relaxed(), self._db.transaction():
            for digest in digests:
                self._db.write(
                    "INSERT INTO blob_source (digest, domain, path, seen_ns) VALUES (?, ?, ?, ?)"
                    " ON CONFLICT (digest, domain, path) DO UPDATE SET seen_ns = excluded.seen_ns",
                    (digest, domain, path, now_ns),
                )
                self._db.write(
                    "DELETE FROM blob_source WHERE digest = ? AND (domain, path) NOT IN"
                    " (SELECT domain, path FROM blob_source WHERE digest = ? ORDER BY seen_ns DESC LIMIT ?)",
                    (digest, digest, _KEPT),
                )

    def find(self, digest: str, domain: str) -> list[str]:
        """Paths of the registry's repositories that have the blob, the one seen last first."""
        rows = self._db.rows(
            "SELECT path FROM blob_source WHERE digest = ? AND domain = ? ORDER BY seen_ns DESC",
            (digest, domain),
        )
        return [str(path) for (path,) in rows]

    def places(self, digest: str) -> list[tuple[str, str]]:
        """Registries and paths that have the blob, the one seen last first."""
        rows = self._db.rows(
            "SELECT domain, path FROM blob_source WHERE digest = ? ORDER BY seen_ns DESC", (digest,)
        )
        return [(str(domain), str(path)) for domain, path in rows]

    def exists(self, digest: str) -> bool:
        return bool(self._db.rows("SELECT 1 FROM blob_source WHERE digest = ? LIMIT 1", (digest,)))

    def delete(self, digest: str, domain: str, path: str) -> None:
        """It is not there any more."""
        self._db.write(
            "DELETE FROM blob_source WHERE digest = ? AND domain = ? AND path = ?", (digest, domain, path)
        )

    def forget(self, before_ns: int) -> None:
        """What has not been seen since is most likely gone."""
        self._db.write("DELETE FROM blob_source WHERE seen_ns < ?", (before_ns,))
