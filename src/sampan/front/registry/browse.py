"""The web page's addresses. It shows what the visitor may pull and changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import unquote

from aiohttp import web

from sampan.base.errors import InvalidArgument, NotFound
from sampan.registry.browsing import Browser
from sampan.registry.digests import is_digest
from sampan.registry.errors import Unauthenticated
from sampan.registry.names import check_repository, is_tag

from . import page
from .annex import Page
from .call import Call
from .replies import reply

_QUERY_LIMIT = 200


class BrowsePages:
    def __init__(self, browser: Browser, *, public_host: str, can_log_in: bool) -> None:
        """``public_host``: as clients name the registry; "" takes the request's Host."""
        self._browser = browser
        self._public_host = public_host
        self._can_log_in = can_log_in

    def pages(self) -> Sequence[Page]:
        return (
            Page("GET", "/", self.home),
            Page("GET", "/login", self.login),
            Page("GET", f"{page.BROWSE}*", self.browse),
        )

    async def home(self, call: Call) -> web.StreamResponse:
        query = call.text("q")[:_QUERY_LIMIT]
        after = call.text("after")[:_QUERY_LIMIT]
        found, more = await self._browser.repositories(
            query, lambda name: call.authenticator.sees(call.identity, name), after=after
        )
        return _html(page.repositories_page(found, query, self._who(call), more=more, after=after))

    async def login(self, call: Call) -> web.StreamResponse:
        """Makes the browser ask for a password, which it then sends with every request."""
        if call.identity.is_anonymous and self._can_log_in:
            raise Unauthenticated("authentication required", 'Basic realm="registry", charset="UTF-8"')
        return reply(303, (("Location", "/"),))

    async def browse(self, call: Call) -> web.StreamResponse:
        rest = unquote(call.path[len(page.BROWSE) :])
        repository, _, reference = rest.partition(page.MARK)
        try:
            check_repository(repository)
            if not call.authenticator.sees(call.identity, repository):
                raise NotFound(f"there is no repository {repository}, or nothing in it that you may see")
            if reference:
                if not is_digest(reference) and not is_tag(reference):
                    raise InvalidArgument(f"{reference[:160]!r} is no tag and no digest")
                view = await self._browser.manifest(repository, reference)
                return _html(page.manifest_page(view, reference, self._host(call), self._who(call)))
            after = call.text("after")[:_QUERY_LIMIT]
            tags, more = await self._browser.tags(repository, after=after)
            return _html(page.repository_page(repository, tags, self._host(call), self._who(call), more=more))
        except NotFound as error:
            return _html(page.problem_page("Not found", error.message, self._who(call)), 404)
        except InvalidArgument as error:
            return _html(page.problem_page("No such address", error.message, self._who(call)), 400)

    def _host(self, call: Call) -> str:
        return self._public_host or call.caller.host

    def _who(self, call: Call) -> page.Who:
        return call.identity.name or ("" if self._can_log_in else None)


def _html(body: bytes, status: int = 200) -> web.StreamResponse:
    return reply(status, page.HEADERS.items(), body, page.CONTENT_TYPE)
