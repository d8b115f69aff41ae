"""Bearer tokens (JWT, RFC 7519): our own short-lived ones, and those of another token server.

Ours are signed with a secret that only this registry has; theirs are verified with their public keys, and no
symmetric algorithm is ever accepted for those (RFC 8725, section 3.1).
"""

from __future__ import annotations

import json
import os
import secrets
import stat
from collections.abc import Callable, Sequence
from typing import Any

import jwt
from cryptography import x509

from sampan.base.errors import InvalidArgument
from sampan.model.registry import Grant, Identity

from ..errors import Unauthenticated
from . import scopes

LIFETIME_S = 300
_ISSUER = "sampan-registry"
_OWN_ALGORITHM = "HS256"
_FOREIGN_ALGORITHMS = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)
_LEEWAY_S = 60
_LONGEST = 32 << 10
_KEY_BYTES = 32
_MOST_KEYS = 32


class BadKeys(InvalidArgument):
    """A file of keys cannot be read or has none."""


def signing_key(path: str) -> bytes:
    """The secret in ``path``, made at the first start and readable by this process's user alone.

    Nobody else makes it meanwhile: one process has the directory. Raises BadKeys, OSError.
    """
    if not os.path.lexists(path):
        _make_key(path)
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
        if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
            raise BadKeys(f"{path} is readable by others: chmod 600 it, or delete it for a new one")
        key = file.read(1024)
    if len(key) < _KEY_BYTES:
        raise BadKeys(f"{path} has fewer than {_KEY_BYTES} bytes: delete it for a new one")
    return key


def _make_key(path: str) -> None:
    """It appears whole: half a key would keep the registry from starting."""
    flags = os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(f"{path}.new", flags, 0o600), "wb") as file:
        file.write(secrets.token_bytes(_KEY_BYTES))
        file.flush()
        os.fsync(file.fileno())
    os.rename(f"{path}.new", path)


class OwnTokens:
    """Issues and reads the tokens of our own ``/token``."""

    def __init__(
        self, key: bytes, *, service: str, lifetime_s: int = LIFETIME_S, now_s: Callable[[], float]
    ) -> None:
        self._key = key
        self._service = service
        self.lifetime_s = lifetime_s
        self._now_s = now_s

    def issue(self, identity: Identity, grants: Sequence[Grant]) -> str:
        now = int(self._now_s())
        claims = {
            "iss": _ISSUER,
            "aud": self._service,
            "sub": identity.name,
            "iat": now,
            "nbf": now - _LEEWAY_S,
            "exp": now + self.lifetime_s,
            "jti": secrets.token_hex(8),
            "access": scopes.claims_of(grants),
        }
        if identity.groups:
            claims["groups"] = list(identity.groups)
        return jwt.encode(claims, self._key, algorithm=_OWN_ALGORITHM)

    def read(self, token: str) -> Identity:
        """Raises Unauthenticated."""
        claims = _verified(token, self._key, (_OWN_ALGORITHM,), self._service, self._now_s(), (_ISSUER,), 0)
        return _identity(claims, elsewhere=False)


class ForeignTokens:
    """Reads the tokens of another token server."""

    def __init__(
        self,
        keys: Sequence[ForeignKey],
        *,
        issuers: Sequence[str],
        service: str,
        now_s: Callable[[], float],
    ) -> None:
        self._keys = tuple(keys)
        self._issuers = tuple(issuers)
        self._service = service
        self._now_s = now_s

    def read(self, token: str) -> Identity:
        """Raises Unauthenticated."""
        kid = _header(token).get("kid")
        named = [one for one in self._keys if one.kid and one.kid == kid]
        problem = Unauthenticated("invalid token: signed with an unknown key")
        for key in named or self._keys:
            try:
                claims = _verified(
                    token,
                    key.value,
                    key.algorithms,
                    self._service,
                    self._now_s(),
                    self._issuers,
                    _LEEWAY_S,
                )
            except Unauthenticated as error:
                problem = error
                continue
            return _identity(claims, elsewhere=True)
        raise problem


class ForeignKey:
    """A public key of a token server."""

    __slots__ = ("algorithms", "kid", "value")

    def __init__(self, value: Any, kid: str = "") -> None:
        self.value = value
        self.kid = kid
        self.algorithms = tuple(name for name in _FOREIGN_ALGORITHMS if _fits(name, value))
        """Those that go with the kind of key."""


def _fits(name: str, key: Any) -> bool:
    try:
        jwt.get_algorithm_by_name(name).prepare_key(key)
    except (TypeError, ValueError, jwt.PyJWTError):
        return False
    return True


def read_jwks(path: str) -> list[ForeignKey]:
    """A JSON Web Key Set (RFC 7517). Raises BadKeys."""
    try:
        keys = jwt.PyJWKSet.from_dict(json.loads(_read(path))).keys
    except (ValueError, TypeError, AttributeError, jwt.PyJWTError) as error:
        raise BadKeys(f"{path} is no JSON Web Key Set: {error}") from None
    found = [ForeignKey(one.key, one.key_id or "") for one in keys]
    return _usable(found, path)


def read_certificates(path: str) -> list[ForeignKey]:
    """The keys of PEM certificates. Raises BadKeys."""
    try:
        certificates = x509.load_pem_x509_certificates(_read(path))
    except ValueError as error:
        raise BadKeys(f"{path} has no PEM certificates: {error}") from None
    return _usable([ForeignKey(one.public_key()) for one in certificates], path)


def _usable(keys: list[ForeignKey], path: str) -> list[ForeignKey]:
    """Symmetric keys are secrets and have no place in such a file."""
    usable = [one for one in keys if one.algorithms]
    if not usable or len(usable) > _MOST_KEYS:
        raise BadKeys(
            f"{path} has {len(usable)} public keys: it needs 1 to {_MOST_KEYS} (RSA, EC or Ed25519)"
        )
    return usable


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(4 << 20)
    except OSError as error:
        raise BadKeys(f"{path}: {error.strerror}") from None


def _header(token: str) -> dict[str, Any]:
    if len(token) > _LONGEST:
        raise Unauthenticated("invalid token: too long")
    try:
        return jwt.get_unverified_header(token)
    except jwt.PyJWTError as error:
        raise Unauthenticated(f"invalid token: {error}") from None


def _verified(
    token: str,
    key: Any,
    algorithms: Sequence[str],
    service: str,
    now_s: float,
    issuers: Sequence[str],
    leeway_s: int,
) -> dict[str, Any]:
    """The claims. Times are compared with our clock and not the library's, so that tests can turn it."""
    _header(token)
    try:
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=list(algorithms),
            audience=service,
            issuer=list(issuers),
            options={
                "require": ["exp", "iss", "aud"],
                "verify_exp": False,
                "verify_nbf": False,
                "verify_iat": False,
            },
        )
    except jwt.PyJWTError as error:
        raise Unauthenticated(f"invalid token: {error}") from None
    except RecursionError:
        raise Unauthenticated("invalid token: nested too deep") from None
    expires, begins = claims["exp"], claims.get("nbf", 0)
    if not _is_number(expires) or not _is_number(begins):
        raise Unauthenticated("invalid token: exp and nbf are numbers of seconds")
    if expires + leeway_s <= now_s or begins - leeway_s > now_s:
        raise Unauthenticated("invalid token: expired or not valid yet")
    return claims


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _identity(claims: dict[str, Any], *, elsewhere: bool) -> Identity:
    name, groups = claims.get("sub"), claims.get("groups")
    return Identity(
        name=name if isinstance(name, str) else "",
        groups=tuple(one for one in groups if isinstance(one, str)) if isinstance(groups, list) else (),
        grants=scopes.grants_of(claims.get("access")),
        decided_elsewhere=elsewhere,
    )
