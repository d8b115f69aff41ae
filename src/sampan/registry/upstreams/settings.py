"""What a pull-through cache is told of an upstream, and what names mean there."""

from __future__ import annotations

from urllib.parse import urlsplit

import msgspec

from sampan.transfer.settings import HUB, HUB_ADDRESS, Endpoint

from ..patterns import EVERYTHING, Patterns


class UpstreamSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One upstream. ``Cache`` takes a list of them; times are in seconds."""

    prefix: str
    """``docker.io``: the repositories ``docker.io/…`` are copies of the upstream's ``…``. "" takes every
    repository that no other prefix has, so that the whole registry is a mirror of one."""
    url: str
    """``https://registry-1.docker.io``, perhaps with a path before ``/v2/``."""
    namespace: str = ""
    """What containerd calls the upstream in ``?ns=``; "" is the prefix, or else the host of the URL."""
    username: str = ""
    password: str = ""
    ca_file: str = ""
    """Authorities to trust beside the system's and those in ``certs.d``."""
    insecure: bool = False
    """Certificates are not verified."""
    allow: Patterns = EVERYTHING
    """Names of the upstream that may be asked for: ``library/**``. What is here stays to be had."""
    fresh_s: float = 60.0
    """For so long a tag is believed without asking again."""
    negative_s: float = 10.0
    """For so long something missing is not asked for again, and a failing upstream is left alone."""
    timeout_s: float = 30.0
    """To the first byte of an answer."""
    limit_bytes: int = 0
    """Of blobs below the prefix; the least recently pulled manifests go first. 0: no limit."""
    unused_s: float = 30 * 24 * 3600.0
    """Manifests nobody has pulled for so long go; 0: never."""

    def __repr__(self) -> str:
        return f"UpstreamSettings(prefix={self.prefix!r}, url={self.url!r})"

    @property
    def endpoint(self) -> Endpoint:
        parts = urlsplit(self.url)
        return Endpoint(
            host=parts.netloc,
            prefix=parts.path.rstrip("/"),
            scheme=parts.scheme,
            insecure=self.insecure,
            ca_file=self.ca_file,
        )

    @property
    def is_hub(self) -> bool:
        return urlsplit(self.url).hostname == HUB_ADDRESS or self.answers_to == HUB

    @property
    def answers_to(self) -> str:
        return self.namespace or self.prefix or urlsplit(self.url).netloc

    def path_of(self, repository: str) -> str | None:
        """The upstream's name of one of our repositories; None when it is not a copy of this upstream's."""
        if not self.prefix:
            return repository
        below = f"{self.prefix}/"
        return repository.removeprefix(below) if repository.startswith(below) else None

    def repository_of(self, path: str) -> str:
        """Ours for a name of the upstream. The hub's images without a slash are in ``library``."""
        if self.is_hub and "/" not in path:
            path = f"library/{path}"
        return f"{self.prefix}/{path}" if self.prefix else path


class UpstreamState(msgspec.Struct, kw_only=True):
    """How an upstream does, for administrators."""

    prefix: str
    url: str
    namespace: str
    away: str = ""
    """Why it is not asked now; empty: it is."""
    away_s: float = 0.0
    """For how much longer."""
    hits: int = 0
    """Answers without asking the upstream."""
    revalidated: int = 0
    stale: int = 0
    """Answers from here because the upstream failed."""
    fetched_manifests: int = 0
    fetched_blobs: int = 0
    fetched_bytes: int = 0
    failures: int = 0
    evicted: int = 0
    last_error: str = ""
