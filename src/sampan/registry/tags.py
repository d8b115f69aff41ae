"""Tags: lists and removal. They are made by pushing a manifest."""

from __future__ import annotations

from sampan.model.registry import Actor, TagInfo

from .context import Context
from .errors import ManifestUnknown, NameUnknown
from .names import check_tag


class Tags:
    def __init__(self, context: Context) -> None:
        self._context = context

    def names(self, repository: str, after: str, limit: int) -> list[str]:
        """In ASCII order, beginning behind ``after``. Raises NameUnknown."""
        number = self._context.index.repositories.find(repository)
        if number is None:
            raise NameUnknown(f"repository {repository} not known to registry", {"name": repository})
        return self._context.index.tags.names(number, after, limit)

    def details(self, repository: str, after: str = "", limit: int = 1000) -> list[TagInfo]:
        return self._context.index.tags.details(repository, after, limit)

    def delete(self, repository: str, tag: str, actor: Actor) -> None:
        """The manifest stays. Raises ManifestUnknown, TagImmutable."""
        check_tag(tag)
        index = self._context.index
        with self._context.change():
            number = index.repositories.find(repository)
            digest = index.tags.find(number, tag) if number is not None else None
            if number is None or digest is None:
                raise ManifestUnknown(
                    f"tag {tag} unknown to repository {repository}", {"name": repository, "reference": tag}
                )
            self._context.gate.check_tag(repository, tag, digest, None)
            index.tags.delete(number, tag)
        self._context.tell("delete", "tag", repository, actor, digest=digest, tag=tag)
