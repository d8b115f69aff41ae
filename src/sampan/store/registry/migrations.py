"""The schema of ``registry.db``; grows as that of :mod:`sampan.store.migrations` does.

::

    repository   id, name (unique), created_ns, updated_ns
    blob         digest, size_bytes, stored_ns, deleting, damaged  what the storage holds
    link         repository, digest -> blob, touched_ns        a blob is visible in a repository
    manifest     id, repository, digest, ..., body             at most 4 MiB each
    reference    repository, digest, manifest -> manifest      what a manifest needs: blobs and manifests
    tag          repository, name, manifest -> manifest, updated_ns
    upload       id, repository, started_ns

``deleting`` is set by the collector before the bytes go, ``damaged`` when a scrub found other bytes: nobody
sees such a blob until it is pushed again. ``body`` is the last column, because SQLite reads a
row's overflow pages only as far as the columns asked for.
"""

from __future__ import annotations

REGISTRY_MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE repository (
               id INTEGER PRIMARY KEY,
               name TEXT NOT NULL UNIQUE,
               created_ns INTEGER NOT NULL,
               updated_ns INTEGER NOT NULL
           )""",
        """CREATE TABLE blob (
               digest TEXT PRIMARY KEY,
               size_bytes INTEGER NOT NULL,
               stored_ns INTEGER NOT NULL,
               deleting INTEGER NOT NULL DEFAULT 0,
               damaged INTEGER NOT NULL DEFAULT 0
           ) WITHOUT ROWID""",
        """CREATE TABLE link (
               repository INTEGER NOT NULL REFERENCES repository(id),
               digest TEXT NOT NULL REFERENCES blob(digest),
               touched_ns INTEGER NOT NULL,
               PRIMARY KEY (repository, digest)
           ) WITHOUT ROWID""",
        "CREATE INDEX link_by_digest ON link (digest)",
        """CREATE TABLE manifest (
               id INTEGER PRIMARY KEY,
               repository INTEGER NOT NULL REFERENCES repository(id),
               digest TEXT NOT NULL,
               media_type TEXT NOT NULL,
               artifact_type TEXT NOT NULL,
               subject TEXT NOT NULL,
               annotations BLOB,
               size_bytes INTEGER NOT NULL,
               pushed_ns INTEGER NOT NULL,
               pulled_ns INTEGER NOT NULL DEFAULT 0,
               body BLOB NOT NULL,
               UNIQUE (repository, digest)
           )""",
        "CREATE INDEX manifest_by_subject ON manifest (repository, subject, digest) WHERE subject <> ''",
        """CREATE TABLE reference (
               repository INTEGER NOT NULL,
               digest TEXT NOT NULL,
               manifest INTEGER NOT NULL REFERENCES manifest(id) ON DELETE CASCADE,
               PRIMARY KEY (repository, digest, manifest)
           ) WITHOUT ROWID""",
        "CREATE INDEX reference_by_manifest ON reference (manifest)",
        """CREATE TABLE tag (
               repository INTEGER NOT NULL REFERENCES repository(id),
               name TEXT NOT NULL,
               manifest INTEGER NOT NULL REFERENCES manifest(id) ON DELETE CASCADE,
               updated_ns INTEGER NOT NULL,
               PRIMARY KEY (repository, name)
           ) WITHOUT ROWID""",
        "CREATE INDEX tag_by_manifest ON tag (manifest)",
        """CREATE TABLE upload (
               id TEXT PRIMARY KEY,
               repository INTEGER NOT NULL REFERENCES repository(id),
               started_ns INTEGER NOT NULL
           ) WITHOUT ROWID""",
        "CREATE INDEX upload_by_repository ON upload (repository)",
    ),
)
