"""The registry's authenticator: puts passwords, tokens, certificates and rules together."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sampan.model.registry import Action, Caller, Grant, Identity

from ..errors import TooManyRequests, Unauthenticated
from . import scopes
from .certificates import identity_of
from .credentials import WRONG, read_basic
from .htpasswd import Passwords
from .rules import Rules
from .throttle import Throttle

if TYPE_CHECKING:
    from .tokens import ForeignTokens, OwnTokens

_LONGEST = 64 << 10


class AccessControl:
    """Passes the contract of :class:`sampan.registry.ports.Authenticator`."""

    def __init__(
        self,
        rules: Rules,
        *,
        service: str,
        own: OwnTokens,
        passwords: Passwords | None = None,
        foreign: ForeignTokens | None = None,
        realm: str = "",
        basic: bool = False,
        now_s: Callable[[], float],
    ) -> None:
        """``realm``: where tokens are had, when it is not our own ``/token`` at the host the client used.

        ``basic``: ask for a password at each request instead of sending clients for a token.
        """
        self._rules = rules
        self._service = service
        self._own = own
        self._passwords = passwords
        self._foreign = foreign
        self._realm = realm
        self._basic = basic
        self._now_s = now_s
        self._by_address = Throttle(burst=20, refill_s=3)
        self._by_user = Throttle(burst=5, refill_s=10)

    def reload(self, rules: Rules) -> None:
        """From the next request on. Tokens that are out stay valid and grant what the new rules allow."""
        self._rules = rules

    async def identify(self, caller: Caller) -> Identity:
        scheme, _, presented = caller.authorization.partition(" ")
        presented = presented.strip()
        if len(presented) > _LONGEST:
            raise Unauthenticated("the Authorization header is too long")
        scheme = scheme.lower()
        if not scheme:
            return identity_of(caller.certificate) or Identity()
        if scheme == "basic":
            name, password = read_basic(presented)
            return await self._login(caller.address, name, password)
        if scheme == "bearer":
            return self._read_token(presented)
        raise Unauthenticated(f"unsupported authorization scheme {scheme[:20]!r}: use Basic or Bearer")

    async def _login(self, address: str, name: str, password: str) -> Identity:
        address = _neighbourhood(address)
        if self._passwords is None:
            raise Unauthenticated("this registry has no passwords of its own")
        passwords = self._passwords
        if passwords.remembers(name, password):
            return Identity(name=name)
        now, user = self._now_s(), (address, name)
        is_first = not passwords.is_checking(name, password)
        if is_first:
            wait = max(self._by_address.wait_s(address, now), self._by_user.wait_s(user, now))
            if wait:
                raise TooManyRequests(f"too many failed logins: try again in {wait} seconds", wait)
            # counted before the result is known: else guesses at the same time would all be free
            self._by_address.failed(address, now)
            self._by_user.failed(user, now)
        if not await passwords.verify(name, password):
            raise Unauthenticated(WRONG)
        if is_first:
            self._by_user.succeeded(user)
            self._by_address.refund(address)
        return Identity(name=name)

    def _read_token(self, token: str) -> Identity:
        """Of whom a token is shows when it is verified: a header can claim anything."""
        try:
            return self._own.read(token)
        except Unauthenticated:
            if self._foreign is None:
                raise
        return self._foreign.read(token)

    def allows(self, identity: Identity, action: Action, repository: str) -> bool:
        if identity.grants is None or action == "admin":
            return self._rules.allow(identity, action, repository)
        if not repository:
            return not identity.is_anonymous or identity.decided_elsewhere or self._rules.has_anonymous
        if not identity.decided_elsewhere and not self._rules.allow(identity, action, repository):
            return False
        if not scopes.covers(identity.grants, action, repository):
            raise Unauthenticated(f"the token does not grant {action} on {repository}: ask for another one")
        return True

    def sees(self, identity: Identity, repository: str) -> bool:
        """A token for the catalogue has no scope for each repository."""
        if identity.decided_elsewhere:
            grants = identity.grants or ()
            return scopes.covers(grants, "pull", "") or scopes.covers(grants, "pull", repository)
        return self._rules.allow(identity, "pull", repository)

    def challenge(self, caller: Caller, action: Action, repository: str) -> str:
        if self._basic:
            return f'Basic realm="{self._service}"'
        realm = self._realm or f"{'https' if caller.secure else 'http'}://{caller.host}/token"
        text = f'Bearer realm="{_quoted(realm)}",service="{_quoted(self._service)}"'
        scope = scopes.scope_of(action, repository)
        if scope and (repository or action != "pull"):
            text += f',scope="{_quoted(scope)}"'
        problem = self._problem(caller)
        return f'{text},error="{problem}"' if problem else text

    def _problem(self, caller: Caller) -> str:
        """What is wrong with the token that was presented (RFC 6750, section 3.1); "" without one."""
        scheme, _, token = caller.authorization.partition(" ")
        if scheme.lower() != "bearer":
            return ""
        try:
            self._read_token(token.strip())
        except Unauthenticated:
            return "invalid_token"
        return "insufficient_scope"

    def issue(self, identity: Identity, wanted: Sequence[Grant]) -> str:
        """A token of our own with what the rules allow of it. Raises Unauthenticated.

        A token does not make another one: who got hold of it would never lose it again.
        """
        if identity.grants is not None:
            raise Unauthenticated("a token cannot be had for a token: present a password or a certificate")
        if identity.is_anonymous and not self._rules.has_anonymous:
            raise Unauthenticated("authentication required")
        grants = scopes.granted(wanted, lambda action, name: self._rules.allow(identity, action, name))
        return self._own.issue(identity, grants)

    @property
    def lifetime_s(self) -> int:
        """Of the tokens issued."""
        return self._own.lifetime_s


class OpenAccess:
    """For a registry that asks nobody who they are: whoever gets at it may pull, push and delete."""

    def __init__(self, *, administered: bool) -> None:
        """``administered``: by everybody too, because only this machine gets at it."""
        self._administered = administered

    async def identify(self, caller: Caller) -> Identity:
        return Identity()

    def allows(self, identity: Identity, action: Action, repository: str) -> bool:
        return action != "admin" or self._administered

    def sees(self, identity: Identity, repository: str) -> bool:
        return True

    def challenge(self, caller: Caller, action: Action, repository: str) -> str:
        return 'Basic realm="registry"'


class LocalAuthenticator:
    """For the socket that only this machine's administrator can open: who has it may do everything."""

    async def identify(self, caller: Caller) -> Identity:
        return Identity(name="root")

    def allows(self, identity: Identity, action: Action, repository: str) -> bool:
        return True

    def sees(self, identity: Identity, repository: str) -> bool:
        return True

    def challenge(self, caller: Caller, action: Action, repository: str) -> str:
        return 'Basic realm="registry"'


def _neighbourhood(address: str) -> str:
    """Of IPv6 the first 64 bits: whoever has one address there has them all."""
    if ":" not in address:
        return address
    return str(ipaddress.ip_network((address, 64), strict=False))


def _quoted(text: str) -> str:
    """Inside a quoted-string of RFC 9110; a Host header may contain anything."""
    return "".join(letter for letter in text if letter.isprintable() and letter not in '"\\')
