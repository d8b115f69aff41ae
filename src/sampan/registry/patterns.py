"""Patterns for names of repositories and tags, as rules, quotas and retention have them.

``*`` stands for any characters but a slash, ``**`` for any at all, ``?`` for one that is no slash; everything
else stands for itself. ``team/**`` is everything below ``team``, ``**`` everything.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

_WILD = re.compile(r"\*\*|\*|\?")
_MEANING = {"**": ".*", "*": "[^/]*", "?": "[^/]"}
_LONGEST = 512
_MOST_WILD = 8
"""Wildcards in one pattern: each may multiply the time that a look at a name takes."""


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    parts, end = [], 0
    for wild in _WILD.finditer(pattern):
        parts += [re.escape(pattern[end : wild.start()]), _MEANING[wild.group()]]
        end = wild.end()
    return re.compile("".join([*parts, re.escape(pattern[end:])]), re.DOTALL)


class Patterns:
    """Several patterns; a name matches when one of them does."""

    __slots__ = ("_any", "texts")

    def __init__(self, texts: Iterable[str]) -> None:
        """Raises ValueError for a pattern that cannot be one."""
        self.texts = tuple(texts)
        self._any = "**" in self.texts
        for text in self.texts:
            if not text or len(text) > _LONGEST or len(_WILD.findall(text)) > _MOST_WILD:
                raise ValueError(
                    f"invalid pattern {text[:40]!r}: it needs 1 to {_LONGEST} characters "
                    f"and at most {_MOST_WILD} wildcards"
                )

    def match(self, name: str) -> bool:
        return self._any or any(_compiled(text).fullmatch(name) is not None for text in self.texts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Patterns) and other.texts == self.texts

    def __hash__(self) -> int:
        return hash(self.texts)

    def __bool__(self) -> bool:
        return bool(self.texts)

    def __repr__(self) -> str:
        return f"Patterns({list(self.texts)})"


EVERYTHING = Patterns(("**",))
