"""Looking for images in a registry, with Docker's filters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from sampan.base.errors import InvalidArgument
from sampan.engine.filters import Filters, InvalidFilter
from sampan.formats.reference import DEFAULT_DOMAIN
from sampan.transfer.credentials import Credentials
from sampan.transfer.registries import Registries, host_of
from sampan.transfer.search import SearchResult

_FILTERS = frozenset(("is-automated", "is-official", "stars"))
_DEFAULT_LIMIT = 25
_MOST = 100


async def search_images(
    registries: Registries,
    term: str,
    filters: Mapping[str, Sequence[str]],
    limit: int,
    credentials: Credentials,
) -> list[SearchResult]:
    """``term`` may begin with a registry: ``localhost:5000/word``. ``limit`` 0 is Docker's usual one.

    Raises InvalidArgument, SearchUnavailable, RegistryRefused, RegistryUnreachable.
    """
    accepted = Filters(filters)
    accepted.require_known(_FILTERS)
    automated = accepted.boolean("is-automated", False)
    official = accepted.boolean("is-official", False)
    stars = max((_stars(text) for text in accepted.get("stars")), default=0)
    if "://" in term:
        raise InvalidArgument(f"invalid repository name: repository name ({term}) should not have a scheme")
    if not 0 <= limit <= _MOST:
        raise InvalidArgument(f"limit {limit} is outside the range of [1, {_MOST}]")
    if automated:
        # no registry makes a difference any more: nothing is
        return []
    domain, word = split_term(term)
    found = await registries.search(domain, word, limit or _DEFAULT_LIMIT, credentials)
    return [
        msgspec.structs.replace(one, is_automated=False)
        for one in found
        if one.star_count >= stars and ("is-official" not in accepted or one.is_official == official)
    ]


def split_term(term: str) -> tuple[str, str]:
    """The registry, and what to look for there."""
    first, slash, rest = term.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        domain = host_of(first)
        return domain, rest.removeprefix("library/") if domain == DEFAULT_DOMAIN else rest
    return DEFAULT_DOMAIN, term.removeprefix("library/")


def _stars(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InvalidFilter(f"invalid filter 'stars={text}'") from None
