"""Quotas and immutable tags: what is asked before something changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from ..errors import QuotaExceeded, TagImmutable
from ..patterns import EVERYTHING, Patterns

_NEARLY = 0.9
"""Of a quota: from there on clients are warned."""
UsageOf = Callable[[str], int]
"""Bytes that a repository holds."""


class Quota(msgspec.Struct, frozen=True, kw_only=True):
    """The most that each repository that matches may hold."""

    repositories: Patterns
    size_bytes: int


class Immutable(msgspec.Struct, frozen=True, kw_only=True):
    """Tags that stay what they are once they are there."""

    repositories: Patterns = EVERYTHING
    tags: Patterns = EVERYTHING
    but: Patterns = Patterns(())
    """Tags that move all the same."""

    def concerns(self, repository: str, tag: str) -> bool:
        return self.repositories.match(repository) and self.tags.match(tag) and not self.but.match(tag)


class PolicyGate:
    """Passes the contracts of :class:`sampan.registry.ports.Gate` and ``Notices``."""

    def __init__(self, quotas: Sequence[Quota], immutable: Sequence[Immutable], usage_of: UsageOf) -> None:
        self._quotas = tuple(quotas)
        self._immutable = tuple(immutable)
        self._usage_of = usage_of

    def reload(self, quotas: Sequence[Quota], immutable: Sequence[Immutable]) -> None:
        """From the next change on."""
        self._quotas = tuple(quotas)
        self._immutable = tuple(immutable)

    def quota_of(self, repository: str) -> int | None:
        """Bytes: the smallest quota that matches; None without one."""
        return min(
            (one.size_bytes for one in self._quotas if one.repositories.match(repository)), default=None
        )

    def is_immutable(self, repository: str, tag: str) -> bool:
        return any(one.concerns(repository, tag) for one in self._immutable)

    def check_push(self, repository: str, size_bytes: int) -> None:
        quota = self.quota_of(repository)
        if quota is None:
            return
        used = self._usage_of(repository)
        # a size that is not known yet asks whether there is room at all
        if used + max(size_bytes, 1) > quota:
            raise QuotaExceeded(
                f"quota exceeded: {repository} holds {used} of {quota} bytes and {size_bytes} more were "
                "sent; delete tags and collect garbage, or ask for a larger quota",
                {"repository": repository, "used": used, "quota": quota},
            )

    def warnings(self, repository: str) -> list[str]:
        quota = self.quota_of(repository)
        used = self._usage_of(repository) if quota is not None else 0
        if quota is None or used < quota * _NEARLY:
            return []
        return [f"{repository} holds {used} of the {quota} bytes that its quota allows"]

    def check_tag(self, repository: str, tag: str, old_digest: str | None, new_digest: str | None) -> None:
        if old_digest is None or old_digest == new_digest or not self.is_immutable(repository, tag):
            return
        verb = "deleted" if new_digest is None else "moved"
        raise TagImmutable(f"tag {tag} of {repository} is immutable and cannot be {verb}: use another tag")
