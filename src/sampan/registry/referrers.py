"""Who refers to a manifest (distribution-spec 1.1, "Listing Referrers")."""

from __future__ import annotations

import msgspec

from sampan.store.registry.manifests import ManifestRow

from .context import Context
from .digests import check_digest

PAGE = 500
PAGE_BYTES = 2 << 20
"""Clients take an index of up to 4 MiB; annotations can make descriptors large."""


class ReferrersPage(msgspec.Struct, frozen=True, kw_only=True):
    manifests: list[ManifestRow]
    more: bool
    """There are others behind the last one."""


class Referrers:
    def __init__(self, context: Context) -> None:
        self._context = context

    def page(self, repository: str, subject: str, artifact_type: str | None, after: str) -> ReferrersPage:
        """By digest, beginning behind ``after``. Raises DigestInvalid; an unknown subject has none."""
        check_digest(subject)
        rows = self._context.index.manifests.referrers(repository, subject, artifact_type, after, PAGE + 1)
        size = 0
        for count, row in enumerate(rows):
            size += 300 + sum(len(key) + len(value) for key, value in (row.annotations or {}).items())
            if count == PAGE or (count and size > PAGE_BYTES):
                return ReferrersPage(manifests=rows[:count], more=True)
        return ReferrersPage(manifests=rows, more=False)
