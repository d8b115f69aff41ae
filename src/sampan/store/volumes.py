"""Volume records by name."""

from __future__ import annotations

import msgspec

from sampan.model.volume import Volume

from .db import Database

_encode = msgspec.json.Encoder().encode
_volume = msgspec.json.Decoder(Volume)


class VolumeTable:
    def __init__(self, db: Database) -> None:
        self._db = db

    def load(self) -> list[Volume]:
        """Everything, by name."""
        return [_volume.decode(row[0]) for row in self._db.rows("SELECT record FROM volume ORDER BY name")]

    def put(self, volume: Volume) -> None:
        """Insert or replace."""
        self._db.write(
            "INSERT INTO volume (name, record) VALUES (?, ?)"
            " ON CONFLICT (name) DO UPDATE SET record = excluded.record",
            (volume.name, _encode(volume)),
        )

    def delete(self, name: str) -> None:
        self._db.write("DELETE FROM volume WHERE name = ?", (name,))
