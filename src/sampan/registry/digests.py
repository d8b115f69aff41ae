"""Digests: the two algorithms a registry takes (image-spec, descriptor.md, "Registered algorithms")."""

from __future__ import annotations

import hashlib
import re

from .errors import DigestInvalid

ALGORITHMS = ("sha256", "sha512")
_DIGEST = re.compile(r"sha256:[a-f0-9]{64}|sha512:[a-f0-9]{128}", re.ASCII)
_ANY = re.compile(r"[a-z0-9]+(?:[+._-][a-z0-9]+)*:[a-zA-Z0-9=_-]+", re.ASCII)


def is_digest(text: str) -> bool:
    """Whether it is a digest of an algorithm that is supported here."""
    return _DIGEST.fullmatch(text) is not None


def check_digest(text: str) -> None:
    """Raises DigestInvalid."""
    if is_digest(text):
        return
    algorithm = text.partition(":")[0]
    if _ANY.fullmatch(text) and algorithm not in ALGORITHMS:
        raise DigestInvalid(f"digest algorithm {algorithm} is not supported: use sha256 or sha512")
    raise DigestInvalid(
        f"invalid digest {text[:160]!r}: want sha256:<64 hex digits> or sha512:<128 hex digits>"
    )


def check_algorithm(name: str) -> None:
    """Raises DigestInvalid."""
    if name not in ALGORITHMS:
        raise DigestInvalid(f"digest algorithm {name[:32]} is not supported: use sha256 or sha512")


def digest_of(data: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def algorithm_of(digest: str) -> str:
    return digest.partition(":")[0]
