"""Limits of size that keep the code readable. What exceeds one is named here with its reason."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import sampan

SOURCE = Path(sampan.__file__).parent
REPOSITORY = SOURCE.parent.parent
FUNCTION_LINES = 60
FILE_LINES = 800
CLASS_METHODS = 20

EXCEPTIONS: dict[str, str] = {
    "src/sampan/content/images.py:ImageStore": "short look-ups and changes over one transaction",
    "src/sampan/content/unpack.py:TreeWriter": "one method for each kind of entry in an archive",
    "src/sampan/engine/container/containers.py:Containers": "Docker's verbs, each a line to its module",
    "src/sampan/engine/files/volumes.py:Volumes": "Docker's verbs and what containers need of volumes",
    "src/sampan/runtime/monitor.py:Monitor": "one loop, a handler for each thing it can hear",
}
BROAD_EXCEPTS: dict[str, str] = {
    "src/sampan/engine/container/supervision.py:_launch": "recorded, then raised again by start()",
    "src/sampan/front/docker/app.py:handle": "the one place where an unknown error becomes a 500 with an id",
    "src/sampan/front/registry/app.py:handle": "as above",
    "src/sampan/kernel/fsview.py:in_view": "raised again in the caller's thread",
    "src/sampan/kernel/fsview.py:run": "raised again in the caller's thread",
    "src/sampan/registry/upkeep/schedule.py:_repeat": "logged with its traceback; the registry serves on",
    "src/sampan/runtime/sandbox.py:become": "the last chance to say anything from a process about to end",
}


def sources() -> list[Path]:
    return sorted([*SOURCE.rglob("*.py"), *(REPOSITORY / "bench").glob("*.py")])


def parsed() -> Iterator[tuple[str, ast.Module, int]]:
    for path in sources():
        text = path.read_text()
        yield str(path.relative_to(REPOSITORY)), ast.parse(text), text.count("\n")


def too_large() -> dict[str, int]:
    found = {}
    for name, tree, lines in parsed():
        if lines > FILE_LINES:
            found[name] = lines
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > FUNCTION_LINES:
                    found[f"{name}:{node.name}"] = length
            elif isinstance(node, ast.ClassDef):
                methods = sum(isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef) for item in node.body)
                if methods > CLASS_METHODS:
                    found[f"{name}:{node.name}"] = methods
    return found


def broad_excepts() -> dict[str, str]:
    """Handlers for everything, by the function they are in."""
    found = {}
    for name, tree, _ in parsed():
        for function in ast.walk(tree):
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            for node in ast.walk(function):
                if not isinstance(node, ast.ExceptHandler):
                    continue
                bare = node.type is None
                named = isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException")
                if (bare or named) and not any(isinstance(item, ast.Raise) for item in ast.walk(node)):
                    found[f"{name}:{function.name}"] = ast.unparse(node).splitlines()[0]
    return found


def test_nothing_new_is_too_large() -> None:
    unexpected = {name: size for name, size in too_large().items() if name not in EXCEPTIONS}
    assert unexpected == {}


def test_every_exception_is_still_needed() -> None:
    large, broad = too_large(), broad_excepts()
    assert [name for name in EXCEPTIONS if name not in large] == []
    assert [name for name in BROAD_EXCEPTS if name not in broad] == []


def test_nothing_swallows_every_exception() -> None:
    unexpected = {name: text for name, text in broad_excepts().items() if name not in BROAD_EXCEPTS}
    assert unexpected == {}


@pytest.mark.parametrize(
    "path", [path for path in sources() if path.name != "__init__.py"], ids=lambda path: path.stem
)
def test_every_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), path
