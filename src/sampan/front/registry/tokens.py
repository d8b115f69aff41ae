"""``/token``: our own token server (Docker's token authentication and its OAuth 2 form)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol
from urllib.parse import parse_qs

import msgspec
from aiohttp import web

from sampan.base.clock import format_ns, now_ns
from sampan.base.errors import InvalidArgument
from sampan.model.registry import Caller, Grant, Identity
from sampan.registry.access import scopes
from sampan.registry.access.credentials import basic_header
from sampan.registry.errors import ManifestTooLarge, Unauthenticated

from .annex import Page
from .call import QUERY_FIELDS, Call
from .replies import json_reply

_FORM_LIMIT_BYTES = 64 << 10
_NO_STORE = (("Cache-Control", "no-store"),)


class Issuer(Protocol):
    """Makes tokens (``sampan.registry.access.control``)."""

    @property
    def lifetime_s(self) -> int: ...

    def issue(self, identity: Identity, wanted: Sequence[Grant]) -> str: ...


class TokenReply(msgspec.Struct, frozen=True):
    token: str
    access_token: str
    expires_in: int
    issued_at: str
    scope: str = ""


class UnsupportedGrant(InvalidArgument):
    def __init__(self, grant: str) -> None:
        super().__init__(f"unsupported grant_type {grant[:40]!r}: use password")


class TokenPages:
    def __init__(self, issuer: Issuer) -> None:
        self._issuer = issuer

    def pages(self) -> Sequence[Page]:
        return (Page("GET", "/token", self.get), Page("POST", "/token", self.post))

    async def get(self, call: Call) -> web.StreamResponse:
        """With Basic credentials, a client certificate, or nothing for what anybody may pull."""
        return self._reply(call.identity, call.query.get("scope", []))

    async def post(self, call: Call) -> web.StreamResponse:
        """A form, as containerd sends it (RFC 6749, section 4.3)."""
        body = await call.whole_body(_FORM_LIMIT_BYTES, ManifestTooLarge("the form is too large"))
        try:
            form = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=QUERY_FIELDS)
        except ValueError as error:
            raise InvalidArgument(f"malformed form: {error}") from None
        grant = form.get("grant_type", [""])[0]
        if grant != "password":
            raise UnsupportedGrant(grant)
        name, password = form.get("username", [""])[0], form.get("password", [""])[0]
        caller: Caller = msgspec.structs.replace(call.caller, authorization=basic_header(name, password))
        identity = await call.authenticator.identify(caller)
        return self._reply(identity, form.get("scope", []))

    def _reply(self, identity: Identity, wanted: Sequence[str]) -> web.StreamResponse:
        try:
            token = self._issuer.issue(identity, scopes.parse(wanted))
        except Unauthenticated as error:
            # a token is not what helps here
            raise Unauthenticated(error.message, 'Basic realm="registry"') from None
        reply = TokenReply(
            token=token,
            access_token=token,
            expires_in=self._issuer.lifetime_s,
            issued_at=format_ns(now_ns() // 10**9 * 10**9),
            scope=" ".join(wanted),
        )
        return json_reply(reply, 200, _NO_STORE)
