"""The catalogue of repositories."""

from __future__ import annotations

from collections.abc import Callable

from sampan.model.registry import RepositoryUsage

from .context import Context

_STEP = 1000


class Repositories:
    def __init__(self, context: Context) -> None:
        self._context = context

    def names(self, after: str, limit: int, sees: Callable[[str], bool]) -> list[str]:
        """Up to ``limit`` of those that ``sees`` lets through, in ASCII order, beginning behind ``after``."""
        found: list[str] = []
        while len(found) < limit:
            step = self._context.index.repositories.names(after, _STEP)
            found += [name for name in step if sees(name)]
            if len(step) < _STEP:
                break
            after = step[-1]
        return found[:limit]

    def usage(self, name: str) -> RepositoryUsage | None:
        return self._context.index.repositories.usage(name)
