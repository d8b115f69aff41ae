"""Credentials as Docker's clients send them: base64url of JSON in ``X-Registry-Auth``, or JSON itself."""

from __future__ import annotations

import base64
import binascii
from typing import Any

import msgspec

from .errors import BROKEN_JSON


class Credentials(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """moby's api/types/registry.AuthConfig. Never logged: :meth:`__repr__` shows nothing of it."""

    username: str = ""
    password: str = ""
    auth: str = ""
    serveraddress: str = ""
    identitytoken: str = ""
    registrytoken: str = ""

    def __repr__(self) -> str:
        return "Credentials(...)"

    @property
    def is_empty(self) -> bool:
        return not (self.username or self.password or self.identitytoken or self.registrytoken)


NOBODY = Credentials()
_decode = msgspec.json.Decoder(dict[str, Any]).decode


def decode_credentials(data: bytes | str) -> Credentials:
    """From JSON. ``auth`` is split into name and password. Raises ValueError."""
    try:
        # null stands for what is not there, as in Go
        given = {name: value for name, value in _decode(data).items() if value is not None}
        found = msgspec.convert(given, Credentials, strict=False)
    except BROKEN_JSON as error:
        raise ValueError(f"invalid credentials: {error}") from None
    if found.auth and not found.username:
        try:
            name, _, password = base64.b64decode(found.auth).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            raise ValueError("invalid credentials: auth is not base64") from None
        return msgspec.structs.replace(found, username=name, password=password.strip("\0"), auth="")
    return found


def decode_header(text: str) -> Credentials:
    """The value of ``X-Registry-Auth``; what cannot be read is nobody's, as for Docker."""
    if not text:
        return NOBODY
    try:
        return decode_credentials(_unpacked(text))
    except ValueError:
        return NOBODY


def decode_config_header(text: str) -> dict[str, Credentials]:
    """The value of ``X-Registry-Config``: credentials by server address, as in Docker's config.json. What
    cannot be read is nobody's."""
    if not text:
        return {}
    found = {}
    try:
        for address, given in _decode(_unpacked(text)).items():
            found[address] = decode_credentials(msgspec.json.encode(given))
    except (ValueError, *BROKEN_JSON):
        return {}
    return found


def _unpacked(text: str) -> bytes:
    plain = text.strip().rstrip("=").replace("+", "-").replace("/", "_")
    return base64.urlsafe_b64decode(plain + "=" * (-len(plain) % 4))
