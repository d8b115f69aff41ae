"""Everything the registry knows, in one database: the tables together."""

from __future__ import annotations

from contextlib import AbstractContextManager

from sampan.store.db import Database

from .blobs import BlobTable
from .cached import CachedTable
from .garbage import GarbageTable
from .manifests import ManifestTable
from .migrations import REGISTRY_MIGRATIONS
from .repositories import RepositoryTable
from .tags import TagTable
from .uploads import UploadTable


class RegistryIndex:
    """Used from the event loop's thread alone, as :class:`sampan.store.db.Database` is."""

    def __init__(self, path: str) -> None:
        """``path``: ``registry.db`` or ``:memory:``."""
        self._db = Database(path, REGISTRY_MIGRATIONS)
        self.path = path
        self.repositories = RepositoryTable(self._db)
        self.blobs = BlobTable(self._db)
        self.manifests = ManifestTable(self._db)
        self.tags = TagTable(self._db)
        self.uploads = UploadTable(self._db)
        self.garbage = GarbageTable(self._db)
        self.cached = CachedTable(self._db)

    def transaction(self) -> AbstractContextManager[None]:
        """All or nothing and durable. Never await inside."""
        return self._db.transaction()

    def relaxed(self) -> AbstractContextManager[None]:
        """For what a power cut may undo: when something was last asked for."""
        return self._db.relaxed()

    def close(self) -> None:
        self._db.close()
