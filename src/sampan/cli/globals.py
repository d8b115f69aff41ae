"""The options before the command's name."""

from __future__ import annotations

from sampan.cli.endpoint import TlsFiles
from sampan.cli.failure import Failure, UsageFailure
from sampan.cli.options import BOOL, Command, HelpWanted, Option, Values, parse
from sampan.cli.session import Session, environment

GLOBALS = (
    Option("config", "", "string", "Folder with config.json, which has the credentials"),
    Option("context", "c", "string", "Name of a context (accepted, not used)", hidden=True),
    Option("debug", "D", BOOL, "Tell each request to the daemon"),
    Option("host", "H", "string", "Daemon to connect to, unix:///PATH or tcp://HOST:PORT"),
    Option("log-level", "l", "string", "Accepted for Docker's sake", default="info", hidden=True),
    Option("tls", "", BOOL, "Use TLS without verifying the daemon"),
    Option("tlscacert", "", "string", "Trust certificates signed by this CA only"),
    Option("tlscert", "", "string", "The client's TLS certificate"),
    Option("tlskey", "", "string", "The client's TLS key"),
    Option("tlsverify", "", BOOL, "Use TLS and verify the daemon"),
    Option("version", "v", BOOL, "Print the version and quit"),
)

_TABLE = Command("", "[OPTIONS] COMMAND", "", lambda session, values, words: 0, GLOBALS, interspersed=False)


def take_globals(arguments: list[str]) -> tuple[Session, list[str]]:
    """The session, and the words from the command on; no words when help or the version was printed."""
    try:
        values, words = parse(_TABLE, arguments)
    except HelpWanted:
        return Session(), ["help"]
    except UsageFailure as failure:
        raise Failure(f"{failure.message}\n\nRun 'sampan --help' for more information", 125) from None
    if values.flag("version"):
        from sampan import __version__

        print(f"Sampan version {__version__}")
        return Session(), []
    session = Session(values.text("host"), _tls(values), values.flag("debug"))
    session.config = values.text("config")
    return session, words or ["help"]


def _tls(values: Values) -> TlsFiles | None:
    if not any(values.given(name) for name in ("tls", "tlsverify", "tlscacert", "tlscert", "tlskey")):
        return None
    folder = environment("DOCKER_CERT_PATH") or environment("HOME") + "/.docker"
    verify = values.flag("tlsverify")

    def path(name: str, default: str) -> str:
        if values.given(name):
            return values.text(name)
        candidate = f"{folder}/{default}"
        try:
            open(candidate, "rb").close()
        except OSError:
            return ""
        return candidate

    return TlsFiles(
        path("tlscacert", "ca.pem"), path("tlscert", "cert.pem"), path("tlskey", "key.pem"), verify
    )
