"""The schema, as a list of steps that only grows.

A step that was released is never edited: append another one. ``PRAGMA user_version`` counts the applied
ones, and each step commits together with its number. A file written by a newer version is refused.

::

    container   id, name (unique), created_ns, record=Container
    container_run   id -> container, exit=ExitRecord, run=RunRecord   (small, written at start and exit)
    volume      name, record=Volume
    network     id, name (unique), record=Network
    layer       chain_id, record=LayerRecord
    image       id, record=ImageRecord
    manifest    digest, record=ManifestRecord   (indexes as well)
    reference   name, kind (tag | digest), target -> manifest
    blob_source   (digest, domain, path), seen_ns   (repositories that had a blob)
    image_use   image_id, used_ns   (when a container was made of it or started last)
"""

from __future__ import annotations

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE container (
               id TEXT PRIMARY KEY,
               name TEXT NOT NULL UNIQUE,
               created_ns INTEGER NOT NULL,
               record BLOB NOT NULL
           ) WITHOUT ROWID""",
        """CREATE TABLE container_run (
               id TEXT PRIMARY KEY REFERENCES container(id) ON DELETE CASCADE,
               exit BLOB NOT NULL,
               run BLOB
           ) WITHOUT ROWID""",
        "CREATE TABLE volume (name TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID",
        """CREATE TABLE network (
               id TEXT PRIMARY KEY,
               name TEXT NOT NULL UNIQUE,
               record BLOB NOT NULL
           ) WITHOUT ROWID""",
        "CREATE TABLE layer (chain_id TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID",
        "CREATE TABLE image (id TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID",
        """CREATE TABLE reference (
               name TEXT PRIMARY KEY,
               kind TEXT NOT NULL CHECK (kind IN ('tag', 'digest')),
               image_id TEXT NOT NULL REFERENCES image(id) ON DELETE CASCADE
           ) WITHOUT ROWID""",
        "CREATE INDEX reference_by_image ON reference (image_id)",
    ),
    (
        """CREATE TABLE blob_source (
               digest TEXT NOT NULL,
               domain TEXT NOT NULL,
               path TEXT NOT NULL,
               seen_ns INTEGER NOT NULL,
               PRIMARY KEY (digest, domain, path)
           ) WITHOUT ROWID""",
    ),
    # A name stands for an index or a manifest. Names so far stood for an image: its manifest from now on.
    (
        "CREATE TABLE manifest (digest TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID",
        """INSERT OR IGNORE INTO manifest (digest, record)
               SELECT json_extract(CAST(record AS TEXT), '$.manifest_digest'),
                      CAST(json_object('digest', json_extract(CAST(record AS TEXT), '$.manifest_digest'),
                                       'image_id', id) AS BLOB)
               FROM image""",
        """CREATE TABLE reference_to_target (
               name TEXT PRIMARY KEY,
               kind TEXT NOT NULL CHECK (kind IN ('tag', 'digest')),
               target TEXT NOT NULL REFERENCES manifest(digest)
           ) WITHOUT ROWID""",
        """INSERT INTO reference_to_target (name, kind, target)
               SELECT name, kind, json_extract(CAST(image.record AS TEXT), '$.manifest_digest')
               FROM reference JOIN image ON image.id = reference.image_id""",
        "DROP TABLE reference",
        "ALTER TABLE reference_to_target RENAME TO reference",
        "CREATE INDEX reference_by_target ON reference (target)",
    ),
    ("CREATE TABLE image_use (image_id TEXT PRIMARY KEY, used_ns INTEGER NOT NULL) WITHOUT ROWID",),
)
