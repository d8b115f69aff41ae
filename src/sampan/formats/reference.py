"""Names of images in Docker's grammar: ``busybox``, ``ghcr.io/a/b:1.2``, ``a@sha256:...``, ids.

A *familiar* name is what people type and read; the *normalised* one has the registry and, on Docker Hub, the
``library/`` name space spelled out. Grammar: distribution/reference, whose texts clients match on.
"""

from __future__ import annotations

import re
from functools import lru_cache

import msgspec

from sampan.base.errors import InvalidArgument

DEFAULT_DOMAIN = "docker.io"
DEFAULT_TAG = "latest"
_LEGACY_DOMAIN = "index.docker.io"
_LIBRARY = "library/"
_MAX_PATH = 255

_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_HOST_PART = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = rf"(?:{_HOST_PART}(?:\.{_HOST_PART})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_ALGORITHM = r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*"
_DIGEST = rf"{_ALGORITHM}:[0-9a-fA-F]{{32,}}"
_REFERENCE = re.compile(
    rf"({_DOMAIN})/({_COMPONENT}(?:/{_COMPONENT})*)(?::({_TAG}))?(?:@({_DIGEST}))?", re.ASCII
)
_TAG_ONLY = re.compile(_TAG, re.ASCII)
_IDENTIFIER = re.compile(r"[a-f0-9]{64}")
_DIGEST_LENGTHS = {"sha256": 64, "sha384": 96, "sha512": 128}


class InvalidReference(InvalidArgument):
    """The text is no name of an image. Carries distribution/reference's message."""


class ImageName(msgspec.Struct, frozen=True, kw_only=True):
    """A normalised name, with a tag, a digest, both or neither."""

    domain: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def repository(self) -> str:
        """``docker.io/library/busybox``."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar_repository(self) -> str:
        """``busybox``."""
        if self.domain != DEFAULT_DOMAIN:
            return self.repository
        short = self.path.removeprefix(_LIBRARY)
        return self.path if "/" in short else short

    @property
    def familiar(self) -> str:
        """``busybox:latest``, ``busybox@sha256:...`` or what there is of it."""
        return self._with_suffix(self.familiar_repository)

    @property
    def normalised(self) -> str:
        return self._with_suffix(self.repository)

    def _with_suffix(self, text: str) -> str:
        if self.tag:
            text += f":{self.tag}"
        return f"{text}@{self.digest}" if self.digest else text

    @property
    def is_name_only(self) -> bool:
        return not self.tag and not self.digest

    def with_default_tag(self) -> ImageName:
        """Itself, or with ``latest`` when there is neither tag nor digest."""
        return self.with_tag(DEFAULT_TAG) if self.is_name_only else self

    def with_tag(self, tag: str) -> ImageName:
        """Raises InvalidReference "invalid tag format"."""
        if not _TAG_ONLY.fullmatch(tag):
            raise InvalidReference("invalid tag format")
        return ImageName(domain=self.domain, path=self.path, tag=tag, digest=self.digest)


def is_identifier(text: str) -> bool:
    """64 hex digits: always an id, never a name."""
    return _IDENTIFIER.fullmatch(text) is not None


def check_digest(text: str) -> None:
    """Raises InvalidReference with go-digest's texts."""
    algorithm, colon, digits = text.partition(":")
    if not colon or not algorithm or not re.fullmatch(_ALGORITHM, algorithm, re.ASCII):
        raise InvalidReference("invalid checksum digest format")
    wanted = _DIGEST_LENGTHS.get(algorithm)
    if wanted is None:
        raise InvalidReference("unsupported digest algorithm")
    if len(digits) != wanted:
        raise InvalidReference("invalid checksum digest length")
    if not re.fullmatch(r"[a-f0-9]+", digits):
        raise InvalidReference("invalid checksum digest format")


@lru_cache(maxsize=1024)
def parse_name(text: str) -> ImageName:
    """A name as typed, normalised; no default tag is added. Raises InvalidReference."""
    if is_identifier(text):
        raise InvalidReference(
            f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings"
        )
    domain, remainder = _split_domain(text)
    remote = remainder.partition(":")[0]
    if remote.lower() != remote:
        raise InvalidReference(f"invalid reference format: repository name ({remote}) must be lowercase")
    match = _REFERENCE.fullmatch(f"{domain}/{remainder}")
    if match is None:
        raise InvalidReference(_why(f"{domain}/{remainder}"))
    domain, path, tag, digest = match.groups()
    if len(path) > _MAX_PATH:
        raise InvalidReference(f"repository name must not be more than {_MAX_PATH} characters")
    if digest:
        check_digest(digest)
    return ImageName(domain=domain, path=path, tag=tag or "", digest=digest or "")


def parse_tagged(text: str) -> ImageName:
    """A name with ``latest`` where nothing else is said. Raises InvalidReference."""
    return parse_name(text).with_default_tag()


def _why(text: str) -> str:
    if _REFERENCE.fullmatch(text.lower()) is not None:
        return "repository name must be lowercase"
    return "invalid reference format"


def _split_domain(text: str) -> tuple[str, str]:
    first, slash, rest = text.partition("/")
    if not slash:
        return DEFAULT_DOMAIN, _LIBRARY + text
    if first == _LEGACY_DOMAIN:
        domain, remainder = DEFAULT_DOMAIN, rest
    elif first == "localhost" or "." in first or ":" in first or first.lower() != first:
        domain, remainder = first, rest
    else:
        domain, remainder = DEFAULT_DOMAIN, text
    if domain == DEFAULT_DOMAIN and "/" not in remainder:
        remainder = _LIBRARY + remainder
    return domain, remainder
