"""``--filter NAME=VALUE`` on the command line and in a query."""

from __future__ import annotations

from sampan.cli import jsontext
from sampan.cli.options import Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def filter_pair(text: str) -> tuple[str, str]:
    """Raises ValueError without an equals sign. The empty text is no filter, as Docker has it."""
    name, mark, value = text.partition("=")
    if text and not mark:
        raise ValueError("bad format of filter (expected name=value)")
    return name.strip().lower(), value.strip()


def filter_option(
    help: str = "Filter output based on conditions provided",  # noqa: A002
    short: str = "f",
) -> Option:
    return Option("filter", short, "filter", help, repeats=True, check=filter_pair)


def encoded(pairs: Iterable[tuple[str, str]]) -> str:
    """The query's value: ``{"name":{"value":true}}``; "" when there is nothing to filter by."""
    filters: dict[str, dict[str, bool]] = {}
    for name, value in pairs:
        if name:
            filters.setdefault(name, {})[value] = True
    return jsontext.dumps(filters, sort_keys=True) if filters else ""
