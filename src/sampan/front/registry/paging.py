"""Lists in pages: ``n``, ``last`` and the Link to the next one (RFC 8288)."""

from __future__ import annotations

from urllib.parse import urlencode

from .call import Call

PAGE_LIMIT = 10_000
"""A page has at most so many entries, whatever ``n`` says; there is a Link to the others then."""


def page_size(call: Call) -> int:
    """Raises PaginationInvalid."""
    wanted = call.number("n")
    return PAGE_LIMIT if wanted is None else min(wanted, PAGE_LIMIT)


def link(path: str, **fields: object) -> tuple[str, str]:
    """The header; fields that are empty are left out."""
    query = urlencode({key: value for key, value in fields.items() if value != ""})
    return "Link", f'<{path}?{query}>; rel="next"'


def cut(entries: list[str], size: int) -> tuple[list[str], bool]:
    """The page, and whether there are others behind it, from one entry more than the page has."""
    return entries[:size], 0 < size < len(entries)
