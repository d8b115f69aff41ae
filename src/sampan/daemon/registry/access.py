"""From the settings to who may do what."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from sampan.base.errors import SampanError
from sampan.daemon.options import SettingError
from sampan.registry.access.control import AccessControl, OpenAccess
from sampan.registry.access.htpasswd import Passwords
from sampan.registry.access.rules import Rule, Rules

from .sections import AuthSection, Settings, TokenSection

if TYPE_CHECKING:
    from sampan.registry.access.tokens import ForeignTokens

SERVICE = "sampan-registry"
KEY_FILE = "token.key"


def rules_of(settings: Settings) -> Rules:
    auth = settings.auth or AuthSection()
    return Rules(
        [
            Rule(
                repositories=one.repositories,
                actions=frozenset(one.actions),
                users=frozenset(one.users),
                groups=frozenset(one.groups),
            )
            for one in settings.rules
        ],
        anonymous=auth.anonymous,
        groups={name: frozenset(members) for name, members in auth.groups.items()},
    )


def access_of(settings: Settings) -> AccessControl | OpenAccess:
    """Raises SettingError."""
    if settings.is_open:
        return OpenAccess(administered=settings.is_local)
    # 20 MB that a registry without users does not need
    from sampan.registry.access.tokens import OwnTokens, signing_key

    auth = settings.auth or AuthSection()
    token = auth.token
    service = token.service if token is not None else service_of(settings)
    try:
        passwords = Passwords(auth.htpasswd, time.monotonic) if auth.htpasswd else None
        own = OwnTokens(
            signing_key(os.path.join(settings.root, KEY_FILE)),
            service=service,
            lifetime_s=int(auth.token_lifetime.seconds),
            now_s=time.time,
        )
        foreign = _foreign(token) if token is not None else None
    except (SampanError, OSError) as error:
        raise SettingError(f"auth: {error}") from None
    return AccessControl(
        rules_of(settings),
        service=service,
        own=own,
        passwords=passwords,
        foreign=foreign,
        realm=token.realm if token is not None else _realm(settings),
        basic=auth.challenge == "basic",
        now_s=time.monotonic,
    )


def _foreign(token: TokenSection) -> ForeignTokens:
    from sampan.registry.access.tokens import ForeignTokens, read_certificates, read_jwks

    keys = read_jwks(token.jwks) if token.jwks else read_certificates(token.certificates)
    return ForeignTokens(keys, issuers=token.issuers, service=token.service, now_s=time.time)


def service_of(settings: Settings) -> str:
    """The audience of our own tokens."""
    return urlsplit(settings.public_url).netloc or SERVICE


def _realm(settings: Settings) -> str:
    return f"{settings.public_url.rstrip('/')}/token" if settings.public_url else ""
