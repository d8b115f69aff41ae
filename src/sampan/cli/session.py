"""What every command works with: the daemon's address and the terminal."""

from __future__ import annotations

import posix
import sys

from sampan.cli.endpoint import DEFAULT_ADDRESS, Endpoint, TlsFiles
from sampan.cli.http import API_VERSION, Client


def environment(name: str) -> str:
    """A variable's value or ""; ``os.environ`` would import ``os`` for it."""
    value = posix.environ.get(name.encode())
    return value.decode("utf-8", "surrogateescape") if value else ""


def wanted_platform(given: str) -> str:
    """``--platform``, else DOCKER_DEFAULT_PLATFORM: for what pulls, makes and runs."""
    return given or environment("DOCKER_DEFAULT_PLATFORM")


def is_terminal(descriptor: int) -> bool:
    return posix.isatty(descriptor)


class Session:
    """One run of the command."""

    def __init__(self, address: str = "", tls: TlsFiles | None = None, debug: bool = False) -> None:
        self._address = address
        self._tls = tls
        self.debug = debug
        self.config = ""
        self._client: Client | None = None
        self._others: list[Client] = []
        self._colours: bool | None = None

    @property
    def config_folder(self) -> str:
        """Where Docker's client has its configuration: ``--config``, DOCKER_CONFIG, ``~/.docker``."""
        return self.config or environment("DOCKER_CONFIG") or environment("HOME") + "/.docker"

    @property
    def tls(self) -> TlsFiles | None:
        """What the options or the environment say of TLS."""
        return self._tls or _tls_of_environment()

    @property
    def client(self) -> Client:
        if self._client is None:
            address = (
                self._address or environment("SAMPAN_HOST") or environment("DOCKER_HOST") or DEFAULT_ADDRESS
            )
            endpoint = Endpoint(address, self.tls)
            self._client = Client(endpoint, environment("DOCKER_API_VERSION") or API_VERSION, self.debug)
        return self._client

    def another_client(self) -> Client:
        """A client with a connection of its own, for what goes on beside a stream."""
        other = Client(self.client.endpoint, self.client.version, self.debug)
        self._others.append(other)
        return other

    def own(self, client: Client) -> None:
        """Close its connections at the end, too."""
        self._others.append(client)

    def close(self) -> None:
        """All connections."""
        for client in (self._client, *self._others):
            if client is not None:
                client.close()

    @property
    def colours(self) -> bool:
        """Whether standard output takes colours: a terminal that is not dumb, and no NO_COLOR."""
        if self._colours is None:
            self._colours = (
                is_terminal(1) and not environment("NO_COLOR") and environment("TERM") not in ("", "dumb")
            )
        return self._colours

    def warn(self, message: str) -> None:
        sys.stdout.flush()
        print(message, file=sys.stderr, flush=True)


def _tls_of_environment() -> TlsFiles | None:
    if not environment("DOCKER_TLS_VERIFY") and not environment("DOCKER_TLS"):
        return None
    folder = environment("DOCKER_CERT_PATH") or environment("HOME") + "/.docker"
    return TlsFiles(
        f"{folder}/ca.pem", f"{folder}/cert.pem", f"{folder}/key.pem", bool(environment("DOCKER_TLS_VERIFY"))
    )
