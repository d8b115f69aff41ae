"""Which repositories are known to have a blob: it need not be sent to a neighbour of theirs."""

from __future__ import annotations

from collections.abc import Iterable

from sampan.base.clock import now_ns
from sampan.formats.reference import ImageName
from sampan.store.blob_sources import BlobSourceTable

_KEPT_NS = 400 * 24 * 3600 * 1_000_000_000


class BlobSources:
    def __init__(self, table: BlobSourceTable) -> None:
        self._table = table

    def sweep(self) -> None:
        """What has not been seen for more than a year is most likely gone."""
        self._table.forget(now_ns() - _KEPT_NS)

    def seen(self, name: ImageName, digests: Iterable[str]) -> None:
        """The repository of ``name`` has just proved to have them."""
        self._table.put(dict.fromkeys(digests), name.domain, name.path, now_ns())

    def places(self, digest: str) -> list[tuple[str, str]]:
        """Registries and repositories that had it, the latest first."""
        return self._table.places(digest)

    def known(self, digest: str) -> bool:
        """Whether any registry is known to have had it."""
        return self._table.exists(digest)

    def missing(self, name: ImageName, path: str, digest: str) -> None:
        """The repository ``path`` beside ``name`` does not have it, or not for us."""
        self._table.delete(digest, name.domain, path)

    def neighbour(self, name: ImageName, digest: str) -> str:
        """Another repository of the same registry that had it; "" when none is known."""
        paths = self._table.find(digest, name.domain)
        return next((path for path in paths if path != name.path), "")
