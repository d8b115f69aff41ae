"""When images were used last."""

from __future__ import annotations

from .db import Database


class ImageUseTable:
    def __init__(self, db: Database) -> None:
        self._db = db

    def load(self) -> dict[str, int]:
        """Image id -> time of last use in nanoseconds since the epoch."""
        return {
            str(image_id): int(used_ns)
            for image_id, used_ns in self._db.rows("SELECT image_id, used_ns FROM image_use")
        }

    def put(self, image_id: str, used_ns: int) -> None:
        """Commits without waiting for the disk: a power cut may cost the last half minute."""
        with self._db.relaxed():
            self._db.write(
                "INSERT INTO image_use (image_id, used_ns) VALUES (?, ?)"
                " ON CONFLICT (image_id) DO UPDATE SET used_ns = excluded.used_ns",
                (image_id, used_ns),
            )

    def delete(self, image_id: str) -> None:
        with self._db.relaxed():
            self._db.write("DELETE FROM image_use WHERE image_id = ?", (image_id,))
