"""Columns of text as Docker aligns them, and the three ways to print a list: table, template, JSON."""

from __future__ import annotations

import sys

from sampan.cli import jsontext
from sampan.cli.failure import Failure
from sampan.cli.options import BOOL, Option
from sampan.cli.units import display_width

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

    Cell = Callable[[Any, bool], Any]

_PADDING = 3
_MINIMUM = 10  # text/tabwriter's minwidth in Docker's client

FORMAT_OPTIONS = (
    Option("format", "", "string", 'Output as "table", "table TEMPLATE", "json" or a Go template'),
    Option("json", "", BOOL, "One JSON object per line"),
)
QUIET = Option("quiet", "q", BOOL, "Only display IDs")
NO_TRUNC = Option("no-trunc", "", BOOL, "Don't truncate output")


class Column:
    """A header and what it shows of an item; the cell's second argument says whether to shorten."""

    __slots__ = ("cell", "header")

    def __init__(self, header: str, cell: Cell) -> None:
        self.header = header
        self.cell = cell


class View:
    """The columns of one kind of object, which of them a plain listing shows, and methods for templates."""

    __slots__ = ("columns", "default", "methods", "quiet")

    def __init__(
        self,
        columns: Mapping[str, Column],
        default: Sequence[str],
        *,
        quiet: str = "ID",
        methods: Mapping[str, Callable[..., Any]] | None = None,
    ) -> None:
        self.columns = columns
        self.default = default
        self.quiet = quiet
        self.methods = methods or {}


class Row:
    """An item seen through its columns, as a template sees it."""

    __slots__ = ("item", "truncate", "view")

    def __init__(self, view: View, item: Any, truncate: bool) -> None:
        self.view = view
        self.item = item
        self.truncate = truncate

    def field(self, name: str) -> Any:
        """A column's value, or a method to be called with arguments. Raises KeyError."""
        column = self.view.columns.get(name)
        if column is not None:
            return column.cell(self.item, self.truncate)
        method = self.view.methods[name]
        return lambda *arguments: method(self.item, *arguments)

    def as_dict(self) -> dict[str, Any]:
        return {name: self.field(name) for name in sorted(self.view.columns)}


class HeaderRow(Row):
    """The row above the others: every column is its header."""

    def field(self, name: str) -> Any:
        column = self.view.columns.get(name)
        if column is not None:
            return column.header
        if name not in self.view.methods:
            raise KeyError(name)
        # {{.Label "com.example.some-name"}} heads its column with "some name".
        return lambda *arguments: str(arguments[0]).rpartition(".")[2].replace("-", " ").replace("_", " ")


def align(rows: Iterable[Sequence[str]]) -> str:
    """Lines with columns padded to the widest cell and three spaces, at least ten wide, the last one free."""
    table = list(rows)
    widths: list[int] = []
    for row in table:
        for index, cell in enumerate(row[:-1]):
            if index == len(widths):
                widths.append(_MINIMUM)
            widths[index] = max(widths[index], display_width(cell) + _PADDING)
    lines = []
    for row in table:
        cells = [
            cell + " " * (width - display_width(cell)) for cell, width in zip(row[:-1], widths, strict=False)
        ]
        lines.append("".join(cells) + row[-1] + "\n")
    return "".join(lines)


def write(
    view: View, items: Iterable[Any], source: str = "", *, truncate: bool = True, quiet: bool = False
) -> None:
    """Print the items as ``--format`` asks. Raises Failure for a template that is wrong."""
    if quiet and source in ("", "table"):
        cell = view.columns[view.quiet].cell
        sys.stdout.write("".join(f"{cell(item, truncate)}\n" for item in items))
        return
    if source in ("", "table"):
        columns = [view.columns[name] for name in view.default]
        rows = [[column.header for column in columns]]
        rows += [[str(column.cell(item, truncate)) for column in columns] for item in items]
        sys.stdout.write(align(rows))
        return
    rows_of_items = [Row(view, item, truncate) for item in items]
    if source == "json":
        for row in rows_of_items:
            print(jsontext.dumps(row.as_dict()))
        return
    _write_template(view, rows_of_items, source)


def _write_template(view: View, rows: list[Row], source: str) -> None:
    from sampan.cli.template import Template, TemplateError

    is_table = source.startswith("table")
    text = source.removeprefix("table") if is_table else source
    text = text.strip(" ").replace("\\t", "\t").replace("\\n", "\n")
    try:
        template = Template(text)
        lines = [template.render(row) for row in rows]
        if is_table:
            lines.insert(0, template.render(HeaderRow(view, None, False), header=True))
    except TemplateError as error:
        raise Failure(f"template parsing error: {error}") from None
    if is_table:
        sys.stdout.write(align([line.split("\t") for line in lines]))
    else:
        sys.stdout.write("".join(line + "\n" for line in lines))


def wanted_format(given: str, as_json: bool) -> str:
    return "json" if as_json else given
