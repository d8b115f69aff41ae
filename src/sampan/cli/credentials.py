"""Names and passwords for registries, where Docker's client has them: ``config.json``, or the helper programs
that it names (``credsStore`` for all registries, ``credHelpers`` for single ones).

Helpers speak the protocol of docker-credential-helpers: a verb as argument, JSON or an address on stdin.
"""

from __future__ import annotations

import posix
from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64

from sampan.cli import jsontext
from sampan.cli.failure import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

HUB_SERVER = "https://index.docker.io/v1/"
_HUB_NAMES = ("", "docker.io", "index.docker.io", "registry-1.docker.io", HUB_SERVER)
_TOKEN_USER = "<token>"  # noqa: S105 - the helpers' word for an identity token
_NOT_FOUND = "credentials not found"


class Login:
    """What one registry accepts."""

    __slots__ = ("password", "server", "token", "user")

    def __init__(self, server: str, user: str = "", password: str = "", token: str = "") -> None:
        self.server = server
        self.user = user
        self.password = password
        self.token = token

    def as_json(self) -> str:
        """As ``POST /auth`` and ``X-Registry-Auth`` have it."""
        fields = {
            "username": self.user,
            "password": self.password,
            "serveraddress": self.server,
            "identitytoken": self.token,
        }
        return jsontext.dumps({name: value for name, value in fields.items() if value})

    def header(self) -> tuple[str, str]:
        encoded = b2a_base64(self.as_json().encode(), newline=False).decode()
        return "X-Registry-Auth", encoded.replace("+", "-").replace("/", "_")


def server_of(name: str) -> str:
    """The address under which credentials for an image's registry, or for a registry, are kept."""
    return HUB_SERVER if name in _HUB_NAMES else name


def registry_of(repository: str) -> str:
    """``localhost:5000`` of ``localhost:5000/a/b``; the hub's address of ``a/b``."""
    first, mark, _ = repository.partition("/")
    if mark and ("." in first or ":" in first or first == "localhost"):
        return server_of(first)
    return HUB_SERVER


class CredentialStore:
    """``folder`` is that of Docker's client configuration, usually ``~/.docker``."""

    def __init__(self, folder: str) -> None:
        self.path = f"{folder}/config.json"
        self._folder = folder

    def find(self, server: str) -> Login | None:
        """Raises Failure when the file or a helper cannot be used."""
        config = self._read()
        helper = self._helper(config, server)
        if helper:
            return self._ask(helper, server)
        entries = config.get("auths") or {}
        for key, entry in entries.items():
            if key == server or _host(key) == _host(server):
                return _login(server, entry)
        return None

    def save(self, login: Login) -> str:
        """Where it went: the helper's name, or "" for the file itself."""
        config = self._read()
        helper = self._helper(config, login.server)
        entry: dict[str, str] = {}
        if helper:
            user, secret = (_TOKEN_USER, login.token) if login.token else (login.user, login.password)
            value = {"ServerURL": login.server, "Username": user, "Secret": secret}
            _run(helper, "store", jsontext.dumps(value))
        elif login.token:
            entry = {"auth": _encoded(f"{login.user}:"), "identitytoken": login.token}
        else:
            entry = {"auth": _encoded(f"{login.user}:{login.password}")}
        config.setdefault("auths", {})[login.server] = entry
        self._write(config)
        return helper

    def erase(self, server: str) -> bool:
        """False when there was nothing."""
        config = self._read()
        helper = self._helper(config, server)
        entries = config.get("auths") or {}
        known = [key for key in entries if key == server or _host(key) == _host(server)]
        if helper:
            _run(helper, "erase", server)
        for key in known:
            del entries[key]
        if known:
            self._write(config)
        return bool(known)

    @staticmethod
    def _helper(config: dict[str, Any], server: str) -> str:
        chosen = config.get("credHelpers") or {}
        return str(chosen.get(server) or chosen.get(_host(server)) or config.get("credsStore") or "")

    @staticmethod
    def _ask(helper: str, server: str) -> Login | None:
        answer = _run(helper, "get", server, absent=_NOT_FOUND)
        if answer is None:
            return None
        value = jsontext.loads(answer)
        user, secret = value.get("Username", ""), value.get("Secret", "")
        if user == _TOKEN_USER:
            return Login(server, token=secret)
        return Login(server, user, secret)

    def _read(self) -> dict[str, Any]:
        try:
            with open(self.path, "rb") as file:
                value = jsontext.loads(file.read())
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except (OSError, ValueError) as error:
            raise Failure(f"cannot read {self.path}: {error}") from None
        if not isinstance(value, dict):
            raise Failure(f"cannot read {self.path}: it holds no JSON object")
        return value

    def _write(self, config: dict[str, Any]) -> None:
        """Everything else in the file stays; others never see half of it, nor anybody else the passwords."""
        try:
            posix.mkdir(self._folder, 0o700)
        except FileExistsError:
            pass
        except OSError as error:
            raise Failure(f"cannot make {self._folder}: {error.strerror}") from None
        target = self.path
        try:
            target = posix.readlink(target)
            if not target.startswith("/"):
                target = f"{self._folder}/{target}"
        except OSError:
            target = self.path  # no link
        temporary = f"{target}.{posix.getpid()}"
        try:
            descriptor = posix.open(temporary, posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL, 0o600)
            with open(descriptor, "wb") as file:
                file.write(_indented(config).encode())
                file.flush()
                posix.fsync(file.fileno())
            posix.rename(temporary, target)
        except OSError as error:
            raise Failure(f"cannot write {target}: {error.strerror}") from None


def _host(server: str) -> str:
    host = server.partition("://")[2] or server
    return host.partition("/")[0]


def _encoded(text: str) -> str:
    return b2a_base64(text.encode(), newline=False).decode()


def _login(server: str, entry: dict[str, Any]) -> Login | None:
    token = entry.get("identitytoken") or ""
    user, password = entry.get("username") or "", entry.get("password") or ""
    if entry.get("auth"):
        try:
            user, _, password = a2b_base64(entry["auth"]).decode().partition(":")
        except (Base64Error, UnicodeDecodeError):
            raise Failure(f"the credentials for {server} are damaged: log in again") from None
    return Login(server, user, "" if token else password.strip("\0"), token) if user or token else None


def _indented(value: dict[str, Any]) -> str:
    # json's own indentation needs its encoder in Python, which costs little where files are written
    import json

    return json.dumps(value, indent="\t", ensure_ascii=False)


def _run(helper: str, verb: str, text: str, absent: str = "") -> bytes | None:
    """The helper's output; None when it says ``absent``. Raises Failure."""
    import subprocess

    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run([program, verb], input=text.encode(), capture_output=True, check=False)
    except OSError as error:
        raise Failure(f"cannot run {program}: {error.strerror}") from None
    if done.returncode == 0:
        return done.stdout
    message = (done.stdout or done.stderr).decode("utf-8", "replace").strip()
    if absent and absent in message:
        return None
    raise Failure(f"{program} {verb}: {message}")
