"""Searching a registry: what is left in use of the registry API's first version, ``GET /v1/search``.

Docker Hub has it, and registries of others that want ``docker search HOST/term`` to work.
"""

from __future__ import annotations

from urllib.parse import urlencode

import msgspec

from sampan.base.errors import SystemFailure

from .errors import BROKEN_JSON, RegistryRefused, RegistryUnreachable
from .pace import read_all
from .registry import Registry

LIMIT_BYTES = 8 << 20


class SearchUnavailable(SystemFailure):
    """The registry does not answer searches."""


class SearchResult(msgspec.Struct, frozen=True, kw_only=True):
    """moby: api/types/registry.SearchResult."""

    star_count: int = 0
    is_official: bool = False
    name: str = ""
    is_automated: bool = False
    description: str = ""


class _Found(msgspec.Struct, frozen=True):
    results: list[SearchResult] | None = None


_decode = msgspec.json.Decoder(_Found, strict=False).decode


async def search(registry: Registry, term: str, limit: int) -> list[SearchResult]:
    """At most ``limit`` repositories, in the registry's order.

    Raises SearchUnavailable, RegistryRefused, RegistryUnreachable.
    """
    path = f"/v1/search?{urlencode({'q': term, 'n': str(limit)})}"
    # many answer nobody in particular as well, with less: so they are told at once who asks
    basic = registry.authorizer.basic
    headers = {"Authorization": basic} if basic else {}
    try:
        async with registry.send("GET", path, headers=headers) as response:
            data = await read_all(response, registry.pace, LIMIT_BYTES, "list of search results")
    except RegistryRefused as error:
        if error.status != 404:
            raise
        host = registry.endpoint.host
        raise SearchUnavailable(f"unexpected status code 404: {host} answers no searches") from error
    try:
        found = _decode(data).results or []
    except BROKEN_JSON as error:
        raise RegistryUnreachable("get", path, f"error decoding registry search results: {error}") from error
    return found[:limit]
