"""Network records by id."""

from __future__ import annotations

import msgspec

from sampan.model.network import Network

from .db import Database

_encode = msgspec.json.Encoder().encode
_network = msgspec.json.Decoder(Network)


class NetworkTable:
    def __init__(self, db: Database) -> None:
        self._db = db

    def load(self) -> list[Network]:
        """Everything, by name."""
        return [_network.decode(row[0]) for row in self._db.rows("SELECT record FROM network ORDER BY name")]

    def put(self, network: Network) -> None:
        """Insert or replace."""
        self._db.write(
            "INSERT INTO network (id, name, record) VALUES (?, ?, ?)"
            " ON CONFLICT (id) DO UPDATE SET name = excluded.name, record = excluded.record",
            (network.id, network.name, _encode(network)),
        )

    def delete(self, network_id: str) -> None:
        self._db.write("DELETE FROM network WHERE id = ?", (network_id,))
