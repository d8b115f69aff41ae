"""The registry's settings: a TOML file, and the few flags that are natural.

Every problem is told with the key it is about.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping, Sequence

import msgspec

from sampan.daemon.options import SettingError
from sampan.front.registry.callers import Callers

from . import values
from .sections import Settings

DEFAULT_FILE = "/etc/sampan/registry.toml"
FLAGS = {
    "config": "Settings file (default /etc/sampan/registry.toml if it exists)",
    "listen": "Address to listen on, HOST:PORT or unix:///PATH; may be repeated",
    "root": "Directory of the database and the blobs",
    "admin-socket": "Unix socket for 'sampan registry' commands on this machine",
    "log-level": "debug, info, warn or error",
    "validate": "Check the settings and end",
}
SWITCHES = ("validate",)
LOG_LEVELS = ("trace", "debug", "info", "warn", "error")
HELP_WIDTH = 26


def load(argv: Sequence[str]) -> tuple[Settings, bool]:
    """The settings, and whether they are only to be checked. Raises SettingError."""
    given = parse_flags(argv)
    [path] = given.pop("config", [""])[-1:]
    path = path or (DEFAULT_FILE if os.path.exists(DEFAULT_FILE) else "")
    content = read_file(path) if path else {}
    validate = given.pop("validate", ["false"])[-1] == "true"
    for name, found in given.items():
        content[name] = found if name == "listen" else found[-1]
    settings = decode(content, path or "the flags")
    return settings, validate


def read_file(path: str) -> dict[str, object]:
    """Raises SettingError."""
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise SettingError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    except ValueError as error:
        raise SettingError(f"{path}: {error}") from None


def decode(content: Mapping[str, object], source: str) -> Settings:
    """Raises SettingError that names the key. ``source`` is for its text."""
    if isinstance(content.get("listen"), str):
        content = {**content, "listen": [content["listen"]]}
    try:
        settings = msgspec.convert(content, Settings, dec_hook=values.read)
    except msgspec.ValidationError as error:
        raise SettingError(f"{source}: {_explained(str(error))}") from None
    for key, problem in _problems(settings):
        raise SettingError(f"{source}: {key}: {problem}")
    return msgspec.structs.replace(settings, root=os.path.abspath(settings.root))


_PLACE = re.compile(r" - at `(?:key in )?\$\.?(.*)`$")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`")
_MISSING = re.compile(r"Object missing required field `(.*)`")


def _explained(text: str) -> str:
    """msgspec's message with the key in front."""
    place = _PLACE.search(text)
    key = place[1] if place else ""
    text = text[: place.start()] if place else text
    for pattern, problem in ((_UNKNOWN, "there is no such key"), (_MISSING, "is needed")):
        if match := pattern.fullmatch(text):
            return f"{key}.{match[1]}: {problem}".lstrip(".")
    return f"{key}: {text[:1].lower()}{text[1:]}" if key else text


def _problems(settings: Settings) -> list[tuple[str, str]]:
    """What each value alone does not show."""
    return [
        *_top_problems(settings),
        *_access_problems(settings),
        *_policy_problems(settings),
    ]


def _top_problems(settings: Settings) -> list[tuple[str, str]]:
    found = []
    if not settings.listen:
        found.append(("listen", "needs an address"))
    found += [
        ("listen", f"{address!r} is neither HOST:PORT nor unix:///PATH")
        for address in settings.listen
        if not address.startswith("unix:///") and not address.rpartition(":")[2].isdecimal()
    ]
    if settings.admin_socket and not os.path.isabs(settings.admin_socket):
        found.append(("admin-socket", "must be an absolute path"))
    if settings.log_level not in LOG_LEVELS:
        found.append(("log-level", f"must be one of {', '.join(LOG_LEVELS)}"))
    try:
        Callers(settings.trusted_proxies)
    except ValueError as error:
        found.append(("trusted-proxies", str(error)))
    if settings.public_url and not settings.public_url.startswith(("http://", "https://")):
        found.append(("public-url", "must begin with http:// or https://"))
    return found


def _access_problems(settings: Settings) -> list[tuple[str, str]]:
    found = []
    auth, tls = settings.auth, settings.tls
    if tls is not None and tls.client_certificates == "required" and not tls.client_ca:
        found.append(("tls.client-certificates", '"required" needs client-ca'))
    if settings.is_open and settings.rules:
        found.append(("rules", "have no effect without [auth] or tls.client-ca"))
    for number, rule in enumerate(settings.rules):
        if not rule.users and not rule.groups:
            found.append((f"rules[{number}]", "needs users or groups"))
    if auth is None:
        return found
    if not auth.htpasswd and auth.token is None and not (tls and tls.client_ca):
        found.append(("auth", "needs htpasswd, [auth.token] or tls.client-ca: else nobody can log in"))
    if auth.challenge == "basic" and auth.anonymous:
        found.append(
            (
                "auth.anonymous",
                'does not go with challenge = "basic": clients would not pull without a password',
            )
        )
    if auth.token is not None and bool(auth.token.jwks) == bool(auth.token.certificates):
        found.append(("auth.token", "needs one of jwks and certificates"))
    if auth.token_lifetime.seconds < 60:
        found.append(("auth.token-lifetime", "must be at least 60s: clients expect that"))
    return found


def _policy_problems(settings: Settings) -> list[tuple[str, str]]:
    found = []
    for number, one in enumerate(settings.retention):
        if not (one.keep or one.keep_last or one.keep_for.seconds or one.keep_pulled.seconds):
            key = f"retention[{number}]"
            found.append((key, "needs keep, keep-last, keep-for or keep-pulled: it would keep nothing"))
        if one.keep_last < 0:
            found.append((f"retention[{number}].keep-last", "must not be negative"))
    for number, hook in enumerate(settings.webhooks):
        if not hook.url.startswith(("http://", "https://")):
            found.append((f"webhooks[{number}].url", "must begin with http:// or https://"))
        if hook.attempts < 1 or hook.queue < 1:
            found.append((f"webhooks[{number}]", "attempts and queue must be at least 1"))
    prefixes = [one.prefix.strip("/") for one in settings.upstreams]
    for number, prefix in enumerate(prefixes):
        if prefix in prefixes[:number]:
            found.append((f"upstreams[{number}].prefix", f"{prefix!r} is another upstream's too"))
    for number, upstream in enumerate(settings.upstreams):
        if not upstream.url.startswith(("http://", "https://")):
            found.append((f"upstreams[{number}].url", "must begin with http:// or https://"))
    return found


def parse_flags(argv: Sequence[str]) -> dict[str, list[str]]:
    """``--name value`` and ``--name=value``. Raises SettingError."""
    found: dict[str, list[str]] = {}
    words = list(argv)
    while words:
        word = words.pop(0)
        name, equals, text = word.removeprefix("--").partition("=")
        if not word.startswith("--") or name not in FLAGS:
            raise SettingError(f"unknown argument: {word}\nSee 'sampan registry serve --help'.")
        if not equals:
            if name in SWITCHES:
                text = "true"
            elif words:
                text = words.pop(0)
            else:
                raise SettingError(f"flag needs an argument: {word}\nSee 'sampan registry serve --help'.")
        found.setdefault(name, []).append(text)
    return found


def secret(text: str, path: str, key: str) -> str:
    """A secret given in the settings or in a file of its own. Raises SettingError."""
    if not path:
        return text
    if text:
        raise SettingError(f"{key} and {key}-file exclude each other")
    try:
        with open(path, encoding="utf-8") as file:
            return file.read(64 << 10).strip()
    except (OSError, ValueError) as error:
        raise SettingError(f"{key}-file: {path}: {error}") from None


def help_text() -> str:
    lines = ["Usage:  sampan registry serve [OPTIONS]", "", "A registry of OCI images.", "", "Options:"]
    for name, about in FLAGS.items():
        word = f"--{name}" + ("" if name in SWITCHES else " string")
        lines.append(f"  {word:<{HELP_WIDTH}} {about}")
    lines += [
        f"  {'--help':<{HELP_WIDTH}} Print usage",
        "",
        "Everything else is set in the file: docs/registry.md",
    ]
    return "\n".join(lines)
