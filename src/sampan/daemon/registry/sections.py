"""The tables and keys of the registry's settings file, as structs.

docs/registry.md shows every key; a test compares.
"""

from __future__ import annotations

import ipaddress
from typing import Literal

import msgspec

from sampan.model.registry import Action
from sampan.registry.patterns import EVERYTHING, Patterns

from .values import Duration, Size


class Section(
    msgspec.Struct, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True, omit_defaults=True
):
    """A table of the file."""


class TlsSection(Section, frozen=True, kw_only=True):
    certificate: str
    key: str
    client_ca: str = ""
    """Client certificates signed by one of these say who asks."""
    client_certificates: Literal["optional", "required"] = "optional"


class TokenSection(Section, frozen=True, kw_only=True):
    """Another token server, whose tokens are accepted and to which clients are sent."""

    realm: str
    service: str
    issuers: tuple[str, ...]
    jwks: str = ""
    certificates: str = ""


class AuthSection(Section, frozen=True, kw_only=True):
    htpasswd: str = ""
    anonymous: Patterns = Patterns(())
    """What may be pulled without logging in."""
    challenge: Literal["bearer", "basic"] = "bearer"
    token_lifetime: Duration = Duration(300)
    groups: dict[str, tuple[str, ...]] = {}
    token: TokenSection | None = None


class RuleSection(Section, frozen=True, kw_only=True):
    repositories: Patterns
    actions: tuple[Action, ...]
    users: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()


class S3Section(Section, frozen=True, kw_only=True):
    bucket: str
    endpoint: str = ""
    region: str = "us-east-1"
    prefix: str = ""
    access_key: str = ""
    secret_key: str = ""
    secret_key_file: str = ""
    session_token: str = ""
    path_style: bool = True
    ca_file: str = ""
    part_size: Size = Size(8 << 20)
    redirect: bool = False
    redirect_endpoint: str = ""
    redirect_for: Duration = Duration(1200)
    snapshot_interval: Duration = Duration(30)
    snapshots_kept: int = 3


class StorageSection(Section, frozen=True, kw_only=True):
    s3: S3Section | None = None


class GcSection(Section, frozen=True, kw_only=True):
    interval: Duration = Duration(3600)
    """0: only on demand."""
    grace: Duration = Duration(3600)
    untagged: Duration | None = None
    """Manifests without a tag go after so long; absent: they stay."""
    uploads: Duration = Duration(86400)
    """Uploads that nobody has continued go after so long."""


class ScrubSection(Section, frozen=True, kw_only=True):
    interval: Duration = Duration(0)
    """0: only on demand."""
    rate: Size = Size(50 << 20)
    """Bytes a second."""


class RetentionSection(Section, frozen=True, kw_only=True):
    repositories: Patterns = EVERYTHING
    tags: Patterns = EVERYTHING
    keep: Patterns = Patterns(())
    keep_last: int = 0
    keep_for: Duration = Duration(0)
    keep_pulled: Duration = Duration(0)


class QuotaSection(Section, frozen=True, kw_only=True):
    repositories: Patterns
    size: Size


class ImmutableSection(Section, frozen=True, kw_only=True):
    repositories: Patterns = EVERYTHING
    tags: Patterns = EVERYTHING
    but: Patterns = Patterns(())


class WebhookSection(Section, frozen=True, kw_only=True):
    url: str
    secret: str = ""
    secret_file: str = ""
    repositories: Patterns = EVERYTHING
    actions: tuple[Literal["push", "pull", "delete", "mount"], ...] = ("push", "pull", "delete", "mount")
    blobs: bool = False
    """Tell of blobs too, not of manifests and tags alone."""
    headers: dict[str, str] = {}
    timeout: Duration = Duration(10)
    attempts: int = 8
    queue: int = 1000


class UpstreamSection(Section, frozen=True, kw_only=True):
    """Keys as :class:`sampan.registry.upstreams.settings.UpstreamSettings` explains them."""

    prefix: str
    url: str
    namespace: str = ""
    username: str = ""
    password: str = ""
    password_file: str = ""
    ca_file: str = ""
    insecure: bool = False
    allow: Patterns = EVERYTHING
    fresh_for: Duration = Duration(60)
    missing_for: Duration = Duration(10)
    timeout: Duration = Duration(30)
    limit: Size = Size(0)
    unused_for: Duration = Duration(30 * 86400)


class Settings(Section, frozen=True, kw_only=True):
    """What the registry was told."""

    listen: tuple[str, ...] = ("127.0.0.1:5000",)
    root: str = "/var/lib/sampan-registry"
    admin_socket: str = "/run/sampan-registry/admin.sock"
    public_url: str = ""
    """As clients reach the registry, when a proxy is in front of it."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses and networks whose X-Forwarded-For and -Proto are believed; "unix": who comes by a socket."""
    sparse: Patterns = Patterns(())
    """Repositories that take manifests of which parts are missing."""
    log_level: str = "info"
    log_format: Literal["text", "json"] = "text"
    shutdown_timeout: Duration = Duration(15)
    metrics: Literal["admin", "everybody"] = "admin"
    tls: TlsSection | None = None
    auth: AuthSection | None = None
    rules: tuple[RuleSection, ...] = ()
    storage: StorageSection = StorageSection()
    gc: GcSection = GcSection()
    scrub: ScrubSection = ScrubSection()
    retention: tuple[RetentionSection, ...] = ()
    quotas: tuple[QuotaSection, ...] = ()
    immutable: tuple[ImmutableSection, ...] = ()
    webhooks: tuple[WebhookSection, ...] = ()
    upstreams: tuple[UpstreamSection, ...] = ()

    @property
    def is_open(self) -> bool:
        """Nobody is asked who they are."""
        return self.auth is None and (self.tls is None or not self.tls.client_ca)

    @property
    def is_local(self) -> bool:
        """Only this machine gets at it."""
        return all(_is_loopback(address) for address in self.listen)


def _is_loopback(address: str) -> bool:
    if address.startswith("unix://"):
        return True
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
