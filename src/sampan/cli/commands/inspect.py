"""sampan inspect, and the inspect of each kind of object."""

from __future__ import annotations

import json

from sampan.cli.failure import Failure, Refused
from sampan.cli.imagename import platform_json
from sampan.cli.options import BOOL, PLATFORM, STRING, Command, Option, Values
from sampan.cli.session import Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Find = Callable[[Session, str], Any]

_PATHS = {
    "container": "/containers/{}/json",
    "image": "/images/{}/json",
    "network": "/networks/{}",
    "volume": "/volumes/{}",
}


def _find(kind: str, query: list[tuple[str, str]]) -> Find:
    return lambda session, name: session.client.call("GET", _PATHS[kind].format(name), query)


def _find_any(query: list[tuple[str, str]]) -> Find:
    def find(session: Session, name: str) -> Any:
        for kind in _PATHS:
            try:
                return _find(kind, query if kind == "container" else [])(session, name)
            except Refused as refused:
                if refused.code not in (404, 501):
                    raise
        raise Failure(f"Error: No such object: {name}")

    return find


def _show(session: Session, values: Values, words: list[str], find: Find) -> int:
    found = []
    problems = []
    for name in words:
        try:
            found.append(find(session, name))
        except Failure as failure:
            problems.append(failure.message)
    source = values.text("format")
    if values.flag("json") or source == "json":
        for item in found:
            print(json.dumps(item, ensure_ascii=False, separators=(",", ":")))
    elif source:
        _print_template(source, found)
    else:
        print(json.dumps(found, indent=4, ensure_ascii=False))
    if problems:
        raise Failure("\n".join(problems))
    return 0


def _print_template(source: str, found: list[Any]) -> None:
    from sampan.cli.template import Template, TemplateError

    try:
        template = Template(source)
    except TemplateError as error:
        raise Failure(f"template parsing error: {error}", 64) from None
    try:
        for item in found:
            print(template.render(item))
    except TemplateError as error:
        raise Failure(f"template parsing error: {error}") from None


def inspect(session: Session, values: Values, words: list[str]) -> int:
    query = [("size", "1")] if values.flag("size") else []
    kind = values.text("type")
    if kind and kind not in _PATHS:
        raise Failure(f'unknown type: "{kind}": must be one of {", ".join(_PATHS)}')
    return _show(session, values, words, _find(kind, query) if kind else _find_any(query))


def inspect_container(session: Session, values: Values, words: list[str]) -> int:
    return _show(session, values, words, _find("container", [("size", "1")] if values.flag("size") else []))


def inspect_image(session: Session, values: Values, words: list[str]) -> int:
    query = [("platform", platform_json(values.text("platform")))] if values.text("platform") else []
    return _show(session, values, words, _find("image", query))


def inspect_network(session: Session, values: Values, words: list[str]) -> int:
    return _show(
        session, values, words, _find("network", [("verbose", "1")] if values.flag("verbose") else [])
    )


def inspect_volume(session: Session, values: Values, words: list[str]) -> int:
    return _show(session, values, words, _find("volume", []))


_FORMAT = (
    Option("format", "f", STRING, 'Output as "json" or a Go template'),
    Option("json", "", BOOL, "One JSON object per line"),
)
_SIZE = Option("size", "s", BOOL, "Show the sizes of a container's files")

INSPECT = Command(
    "inspect",
    "[OPTIONS] NAME|ID [NAME|ID...]",
    "Show everything known of containers, images, networks or volumes",
    inspect,
    (*_FORMAT, _SIZE, Option("type", "", STRING, "Only objects of this type", complete="type")),
    minimum=1,
    complete="container",
)
INSPECT_CONTAINER = Command(
    "container inspect",
    "[OPTIONS] CONTAINER [CONTAINER...]",
    "Show everything known of one or more containers",
    inspect_container,
    (*_FORMAT, _SIZE),
    minimum=1,
    complete="container",
)
INSPECT_IMAGE = Command(
    "image inspect",
    "[OPTIONS] IMAGE [IMAGE...]",
    "Show everything known of one or more images",
    inspect_image,
    (*_FORMAT, PLATFORM),
    minimum=1,
    complete="image",
)
INSPECT_NETWORK = Command(
    "network inspect",
    "[OPTIONS] NETWORK [NETWORK...]",
    "Show everything known of one or more networks",
    inspect_network,
    (*_FORMAT, Option("verbose", "v", BOOL, "Show what helps to find problems")),
    minimum=1,
    complete="network",
)
INSPECT_VOLUME = Command(
    "volume inspect",
    "[OPTIONS] VOLUME [VOLUME...]",
    "Show everything known of one or more volumes",
    inspect_volume,
    _FORMAT,
    minimum=1,
    complete="volume",
)
