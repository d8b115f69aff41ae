"""Names of repositories and tags (distribution-spec 1.1, "Pulling manifests")."""

from __future__ import annotations

import re

from .errors import NameInvalid, TagInvalid

NAME_LIMIT = 255
"""Characters. Clients count their own name for the registry into theirs."""
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"{_PART}(?:/{_PART})*", re.ASCII)
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}", re.ASCII)


def check_repository(name: str) -> None:
    """Raises NameInvalid."""
    if len(name) > NAME_LIMIT:
        raise NameInvalid(f"repository name is longer than {NAME_LIMIT} characters")
    if not _NAME.fullmatch(name):
        raise NameInvalid(
            f"invalid repository name {name!r}: want lower-case letters, digits, and . _ - / between them"
        )


def is_tag(text: str) -> bool:
    return _TAG.fullmatch(text) is not None


def check_tag(text: str) -> None:
    """Raises TagInvalid."""
    if not is_tag(text):
        raise TagInvalid(
            f"invalid tag {text[:160]!r}: want up to 128 letters, digits, _ . -, not beginning with . or -"
        )
