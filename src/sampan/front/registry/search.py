"""``docker search HOST/term``: the one thing left of the registry API's first version."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from aiohttp import web

from sampan.registry.browsing import Browser

from .annex import Page
from .call import Call
from .replies import json_reply

_STANDALONE = (("X-Docker-Registry-Standalone", "true"),)
"""Tells Docker's client to send its password with the search itself."""
_LIMIT = 25
_MOST = 100


class SearchResult(msgspec.Struct, frozen=True):
    name: str
    description: str
    is_official: bool = False
    is_automated: bool = False
    star_count: int = 0


class SearchResults(msgspec.Struct, frozen=True):
    query: str
    num_results: int
    num_pages: int
    page: int
    page_size: int
    results: list[SearchResult]


class SearchPages:
    def __init__(self, browser: Browser) -> None:
        self._browser = browser

    def pages(self) -> Sequence[Page]:
        return (Page("GET", "/v1/_ping", self.ping), Page("GET", "/v1/search", self.search))

    async def ping(self, call: Call) -> web.StreamResponse:
        return json_reply({}, 200, _STANDALONE)

    async def search(self, call: Call) -> web.StreamResponse:
        """What the caller may see of the repositories that have all words of ``q`` in their names."""
        query = call.text("q")
        limit = min(call.number("n") or _LIMIT, _MOST)
        found, _ = await self._browser.repositories(
            query, lambda name: call.authenticator.sees(call.identity, name), limit=limit
        )
        if not found and call.identity.is_anonymous:
            call.require("pull", "")  # there may be more for somebody
        results = [
            SearchResult(one.repository, f"{one.tags} tag{'' if one.tags == 1 else 's'}") for one in found
        ]
        return json_reply(SearchResults(query, len(results), 1, 1, limit, results), 200, _STANDALONE)
