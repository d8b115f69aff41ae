"""Names and what they stand for: an index or a manifest of :class:`.documents.Documents`."""

from __future__ import annotations

from collections.abc import Iterable

from sampan.store.images import ImageTable, ReferenceRow

from .documents import Documents


class Names:
    def __init__(self, table: ImageTable, documents: Documents) -> None:
        self._table = table
        self._documents = documents
        self._rows = {row.name: row for row in table.load_references()}
        self._names: dict[str, set[str]] = {}
        for row in self._rows.values():
            self._names.setdefault(row.target, set()).add(row.name)

    def find(self, name: str) -> str | None:
        """The digest of what a familiar name with tag or digest stands for."""
        row = self._rows.get(name)
        return row.target if row is not None else None

    def all(self) -> dict[str, str]:
        """Familiar name -> digest of its target."""
        return {row.name: row.target for row in self._rows.values()}

    def of(self, target: str) -> list[str]:
        """The names of one target."""
        return sorted(self._names.get(target, ()))

    def rows_of_image(self, image_id: str) -> list[ReferenceRow]:
        """Names of what the image belongs to."""
        targets = self._documents.above(self._documents.of_image(image_id))
        return [self._rows[name] for target in targets for name in self._names.get(target, ())]

    def write(self, name: str, target: str, kind: str) -> None:
        """The row, within the owner's transaction; :meth:`place` follows when that is over."""
        self._table.put_reference(ReferenceRow(name=name, kind=kind, target=target))

    def place(self, name: str, target: str, kind: str) -> set[str]:
        """The images whose names are others now."""
        changed = self._take(name)
        self._rows[name] = ReferenceRow(name=name, kind=kind, target=target)
        self._names.setdefault(target, set()).add(name)
        return changed | self._documents.images_of(target)

    def remove(self, name: str) -> set[str]:
        """The images whose names are others now."""
        self._table.delete_reference(name)
        return self._take(name)

    def _take(self, name: str) -> set[str]:
        row = self._rows.pop(name, None)
        if row is None:
            return set()
        self._names[row.target].discard(name)
        return self._documents.images_of(row.target)

    def unreachable(self, kept: Iterable[str]) -> list[str]:
        """Documents that no name leads to, except ``kept``."""
        reachable = self._documents.everything_below({row.target for row in self._rows.values()})
        reachable.update(kept)
        return [digest for digest in self._documents.digests() if digest not in reachable]

    def delete_documents(self, digests: Iterable[str]) -> None:
        """Their and their names' rows, within the owner's transaction; :meth:`drop_documents` follows."""
        for digest in digests:
            for name in self._names.get(digest, ()):
                self._table.delete_reference(name)
            self._table.delete_manifest(digest)

    def drop_documents(self, digests: Iterable[str]) -> None:
        """They are not here any more, and their names stand for nothing."""
        gone = list(digests)
        for digest in gone:
            for name in self._names.pop(digest, ()):
                del self._rows[name]
        self._documents.drop(gone)
