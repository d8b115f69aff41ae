"""The catalogue of repositories."""

from __future__ import annotations

from collections.abc import Callable

from sampan.model.registry import RepositoryUsage

from .context import Context

_STEP = 100
"""Names that are read at once at least: most of them may be hidden from who asks."""


class Repositories:
    def __init__(self, context: Context) -> None:
        self._context = context

    def names(self, after: str, limit: int, sees: Callable[[str], bool]) -> list[str]:
        """Up to ``limit`` of those that ``sees`` lets through, in ASCII order, beginning behind ``after``."""
        found: list[str] = []
        while len(found) < limit:
            wanted = max(limit - len(found), _STEP)
            step = self._context.index.repositories.names(after, wanted)
            found += [name for name in step if sees(name)]
            if len(step) < wanted:
                break
            after = step[-1]
        return found[:limit]

    def usage(self, name: str) -> RepositoryUsage | None:
        return self._context.index.repositories.usage(name)
