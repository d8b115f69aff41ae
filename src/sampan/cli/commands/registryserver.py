"""sampan registry: start a registry, and speak to one that runs."""

from __future__ import annotations

import posix
import sys
import time
from binascii import b2a_base64

from sampan.cli import table
from sampan.cli.credentials import CredentialStore
from sampan.cli.endpoint import Endpoint
from sampan.cli.failure import Failure, Unreachable
from sampan.cli.http import Client
from sampan.cli.options import BOOL, INT, STRING, Command, Option, Values
from sampan.cli.session import Session, environment
from sampan.cli.table import FORMAT_OPTIONS, NO_TRUNC, QUIET, Column, View
from sampan.cli.units import human_size, short_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any, NoReturn

    Item = dict[str, Any]

DEFAULT_ADDRESS = "unix:///run/sampan-registry/admin.sock"
API = "/_registry/v1"
_POLL_S = 0.2
_PAGE = 200


def _become(module: str, arguments: Sequence[str]) -> NoReturn:
    """Replace this process by a Python with everything that the registry needs.

    ``-P``: what lies in the working directory is not to be imported.
    """
    library = __file__[: -len("/sampan/cli/commands/registryserver.py")]
    variables = {**posix.environ, b"PYTHONPATH": library.encode("utf-8", "surrogateescape")}
    sys.stdout.flush()
    try:
        posix.execve(sys.executable, [sys.executable, "-P", "-m", module, *arguments], variables)
    except OSError as error:
        raise Failure(f"cannot start {sys.executable}: {error.strerror}") from None


def serve(session: Session, values: Values, words: list[str]) -> int:
    arguments = []
    for option in SERVE.options:
        if option.kind == BOOL:
            arguments += [f"--{option.name}"] if values.flag(option.name) else []
        elif values.given(option.name):
            given = values.many(option.name) if option.repeats else [values.text(option.name)]
            arguments += [f"--{option.name}={text}" for text in given]
    _become("sampan.daemon.registry", arguments)


def htpasswd(session: Session, values: Values, words: list[str]) -> int:
    arguments = [f"--{name}" for name in ("password-stdin", "delete") if values.flag(name)]
    if values.given("cost"):
        arguments.append(f"--cost={values.number('cost')}")
    _become("sampan.daemon.registry.users", [*arguments, "--", *words])


class RegistryClient:
    """The administration of one registry."""

    def __init__(self, session: Session, address: str) -> None:
        self._address = address or environment("SAMPAN_REGISTRY") or DEFAULT_ADDRESS
        endpoint = Endpoint(self._address, session.tls)
        self._client = Client(endpoint, "", session.debug)
        session.own(self._client)
        self._host = endpoint.host
        self._headers: list[tuple[str, str]] = []
        if not endpoint.path:
            login = CredentialStore(session.config_folder).find(endpoint.host)
            if login is not None and login.password:
                pair = f"{login.user}:{login.password}".encode()
                self._headers.append(("Authorization", "Basic " + b2a_base64(pair, newline=False).decode()))

    def call(self, method: str, path: str, query: Sequence[tuple[str, str]] = ()) -> Any:
        try:
            response = self._client.send(method, f"{API}/{path}", query, None, self._headers)
            answer = response.json()
        except ValueError:
            raise Failure(f"{self._address} is no Sampan registry") from None
        except Unreachable as error:
            if "TLS" in error.message:
                raise
            raise Failure(
                f"Cannot reach the registry at {self._address}. Is it running?\nStart it with "
                "'sampan registry serve' or name another one with --registry or SAMPAN_REGISTRY."
            ) from None
        if response.status < 400:
            return answer
        text = f"Error response from registry: {answer['errors'][0]['message']}"
        if response.status == 401:
            text += f"\nRun 'sampan login {self._host}' with a user who may administer it."
        raise Failure(text)

    def items(self, path: str, query: Sequence[tuple[str, str]]) -> Iterator[Item]:
        """All of a listing, page by page."""
        after = ""
        while True:
            page = self.call("GET", path, [*query, ("limit", str(_PAGE)), ("after", after)])
            yield from page["items"]
            after = page["next"]
            if not after:
                return

    def follow(self, name: str, query: Sequence[tuple[str, str]], tell: Callable[[Item], str]) -> Item:
        """Start a job and wait for its end, with a line of progress on a terminal. Its report."""
        state = self.call("POST", name, query)
        path = "retention/state" if name == "retention" else name
        live = posix.isatty(2)
        while state["running"]:
            if live:
                sys.stderr.write(f"\r\x1b[K{tell(state['report'])}")
                sys.stderr.flush()
            time.sleep(_POLL_S)
            state = self.call("GET", path)
        if live:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
        report: Item = state["report"]
        if report["error"]:
            raise Failure(f"{name} failed: {report['error']}")
        return report


def _client(session: Session, values: Values) -> RegistryClient:
    return RegistryClient(session, values.text("registry"))


def _write(view: View, items: Any, values: Values) -> None:
    source = table.wanted_format(values.text("format"), values.flag("json"))
    table.write(view, items, source, truncate=not values.flag("no-trunc"), quiet=values.flag("quiet"))


def _ago(time_ns: int) -> str:
    if not time_ns:
        return "never"
    from sampan.formats.durations import human_duration

    return f"{human_duration(max(0.0, time.time() - time_ns / 1e9))} ago"


def _count(name: str) -> Any:
    return lambda item, _: str(item[name])


def _size(name: str) -> Any:
    return lambda item, _: human_size(item[name])


USAGE_VIEW = View(
    {
        "Repositories": Column("REPOSITORIES", _count("repositories")),
        "Tags": Column("TAGS", _count("tags")),
        "Manifests": Column("MANIFESTS", _count("manifests")),
        "Blobs": Column("BLOBS", _count("blobs")),
        "Size": Column("SIZE", _size("blob_bytes")),
        "Version": Column("VERSION", lambda item, _: item["version"]),
    },
    ("Repositories", "Tags", "Manifests", "Blobs", "Size"),
    quiet="Size",
)
REPOSITORIES_VIEW = View(
    {
        "Name": Column("REPOSITORY", lambda item, _: item["name"]),
        "Tags": Column("TAGS", _count("tags")),
        "Manifests": Column("MANIFESTS", _count("manifests")),
        "Blobs": Column("BLOBS", _count("blobs")),
        "Size": Column("SIZE", _size("size_bytes")),
        "Quota": Column(
            "QUOTA", lambda item, _: "" if item["quota_bytes"] is None else human_size(item["quota_bytes"])
        ),
        "Updated": Column("LAST PUSH", lambda item, _: _ago(item["updated_ns"])),
    },
    ("Name", "Tags", "Size", "Quota", "Updated"),
    quiet="Name",
)
TAGS_VIEW = View(
    {
        "Tag": Column("TAG", lambda item, _: item["name"]),
        "Digest": Column("DIGEST", lambda item, short: short_id(item["digest"]) if short else item["digest"]),
        "MediaType": Column("MEDIA TYPE", lambda item, _: item["media_type"]),
        "Platforms": Column("PLATFORMS", lambda item, _: ", ".join(item["platforms"])),
        "Size": Column("SIZE", _size("size_bytes")),
        "Pushed": Column("PUSHED", lambda item, _: _ago(item["updated_ns"])),
        "Pulled": Column("PULLED", lambda item, _: _ago(item["pulled_ns"])),
        "Immutable": Column("IMMUTABLE", lambda item, _: "yes" if item["immutable"] else ""),
    },
    ("Tag", "Digest", "Platforms", "Size", "Pushed", "Pulled", "Immutable"),
    quiet="Tag",
)


UPSTREAMS_VIEW = View(
    {
        "Prefix": Column("PREFIX", lambda item, _: item["prefix"] or "(all)"),
        "URL": Column("URL", lambda item, _: item["url"]),
        "State": Column("STATE", lambda item, _: f"away: {item['away']}" if item["away"] else "ok"),
        "Hits": Column("HITS", _count("hits")),
        "Fetched": Column("FETCHED", _size("fetched_bytes")),
        "Failures": Column("FAILURES", _count("failures")),
        "LastError": Column("LAST ERROR", lambda item, _: item["last_error"]),
    },
    ("Prefix", "URL", "Hits", "Fetched", "Failures", "State"),
    quiet="Prefix",
)


def upstreams(session: Session, values: Values, words: list[str]) -> int:
    _write(UPSTREAMS_VIEW, _client(session, values).call("GET", "upstreams")["items"], values)
    return 0


def usage(session: Session, values: Values, words: list[str]) -> int:
    answer = _client(session, values).call("GET", "usage")
    table.write(USAGE_VIEW, [answer], table.wanted_format(values.text("format"), values.flag("json")))
    return 0


def repositories(session: Session, values: Values, words: list[str]) -> int:
    query = [("q", words[0])] if words else []
    _write(REPOSITORIES_VIEW, list(_client(session, values).items("repositories", query)), values)
    return 0


def tags(session: Session, values: Values, words: list[str]) -> int:
    found = list(_client(session, values).items("tags", [("repository", words[0])]))
    _write(TAGS_VIEW, found, values)
    return 0


def collect(session: Session, values: Values, words: list[str]) -> int:
    client = _client(session, values)
    if values.flag("status"):
        print(_garbage_text(client.call("GET", "gc")))
        return 0
    query = [("everything", "1")] if values.flag("everything") else []
    report = client.follow("gc", query, lambda item: f"collecting garbage: {item['step']}")
    print(_garbage_text({"running": False, "report": report}))
    return 1 if report["failures"] else 0


def _garbage_text(state: Item) -> str:
    report = state["report"]
    if not report["started_ns"]:
        return "Garbage has not been collected since the registry was started."
    text = (
        f"Deleted: {report['blobs'] + report['strays']} blobs, "
        f"{report['manifests'] + report['evicted']} manifests, {report['uploads']} uploads; "
        f"{human_size(report['freed_bytes'])} freed"
    )
    if report["strays_kept"]:
        text += (
            f"\n{report['strays_kept']} blobs are older than the database and unknown to it: "
            "they stay, unless --everything is given."
        )
    if report["failures"]:
        text += f"\n{report['failures']} blobs could not be deleted: see the registry's log."
    if state["running"]:
        return f"Running ({report['step']}). {text}"
    return f"{text}\n{report['error']}" if report["error"] else text


def scrub(session: Session, values: Values, words: list[str]) -> int:
    client = _client(session, values)
    if values.flag("status"):
        state = client.call("GET", "scrub")
        report = state["report"]
        if not report["started_ns"]:
            print("Blobs have not been verified since the registry was started.")
            return 0
        if state["running"]:
            print(_scrub_progress(report))
            return 0
    else:
        report = client.follow("scrub", (), _scrub_progress)
    size = human_size(report["bytes"])
    print(f"Verified {report['blobs']} blobs, {size}: {report['damaged_blobs']} damaged")
    for one in report["damaged"]:
        print(f"{one['digest']}\t{one['reason']}\t{', '.join(one['repositories'])}")
    if report["unreadable"]:
        print(f"{report['unreadable']} blobs could not be read: see the registry's log.")
    return 1 if report["damaged_blobs"] or report["unreadable"] else 0


def _scrub_progress(report: Item) -> str:
    total = report["total_bytes"] or 1
    share = min(100, report["bytes"] * 100 // total)
    return f"verified {report['blobs']} of {report['total_blobs']} blobs ({share}%)"


def retention(session: Session, values: Values, words: list[str]) -> int:
    client = _client(session, values)
    if values.flag("dry-run"):
        report = client.call("GET", "retention", [("repository", words[0])] if words else [])
    elif words:
        raise Failure("a single REPOSITORY goes with --dry-run only: the rules say where they hold")
    else:
        report = client.follow("retention", (), lambda item: f"looked at {item['tags']} tags")
    for verdict in report["deleted"]:
        print(f"{verdict['repository']}:{verdict['tag']}\t{verdict['reason']}")
    verb = "would be deleted" if values.flag("dry-run") else "deleted"
    print(f"{len(report['deleted'])} of {report['tags']} tags {verb}", file=sys.stderr)
    return 1 if report["failures"] else 0


ADDRESS = Option(
    "registry", "", STRING, f"Address of the registry (default SAMPAN_REGISTRY, {DEFAULT_ADDRESS})"
)
_LISTING = (ADDRESS, NO_TRUNC, QUIET, *FORMAT_OPTIONS)
_STATUS = Option("status", "", BOOL, "Only tell how the present run goes, or how the last one went")
SERVE = Command(
    "registry serve",
    "[OPTIONS]",
    "Run a registry of images",
    serve,
    (
        Option("admin-socket", "", STRING, "Unix socket for the other commands", complete="file"),
        Option("config", "", STRING, "Settings file (default /etc/sampan/registry.toml)", complete="file"),
        Option("listen", "", STRING, "Address to listen on, HOST:PORT or unix:///PATH", repeats=True),
        Option("log-level", "", STRING, "debug, info, warn or error"),
        Option("root", "", STRING, "Folder of the database and the blobs", complete="file"),
        Option("validate", "", BOOL, "Check the settings and end"),
    ),
    maximum=0,
    examples=("sampan registry serve --listen 127.0.0.1:5000 --root /srv/registry",),
)
GC = Command(
    "registry gc",
    "[OPTIONS]",
    "Delete what no tag needs any more",
    collect,
    (
        ADDRESS,
        _STATUS,
        Option("everything", "", BOOL, "Also blobs that the database has never known of"),
    ),
    maximum=0,
)
SCRUB = Command(
    "registry scrub",
    "[OPTIONS]",
    "Verify the content of every blob",
    scrub,
    (ADDRESS, _STATUS),
    maximum=0,
)
RETENTION = Command(
    "registry retention",
    "[OPTIONS] [REPOSITORY]",
    "Delete the tags that no retention rule keeps",
    retention,
    (ADDRESS, Option("dry-run", "n", BOOL, "Only tell which tags would go")),
    maximum=1,
    complete="repository",
)
USAGE = Command(
    "registry usage", "[OPTIONS]", "Tell what a registry holds", usage, (ADDRESS, *FORMAT_OPTIONS), maximum=0
)
REPOSITORIES = Command(
    "registry repositories",
    "[OPTIONS] [WORDS]",
    "List repositories",
    repositories,
    _LISTING,
    maximum=1,
)
TAGS = Command(
    "registry tags",
    "[OPTIONS] REPOSITORY",
    "List the tags of a repository",
    tags,
    _LISTING,
    minimum=1,
    maximum=1,
    complete="repository",
)
UPSTREAMS = Command(
    "registry upstreams",
    "[OPTIONS]",
    "List the registries of which this one keeps copies",
    upstreams,
    _LISTING,
    maximum=0,
)
HTPASSWD = Command(
    "registry htpasswd",
    "[OPTIONS] FILE USER",
    "Set the password of one of the registry's users",
    htpasswd,
    (
        Option("cost", "", INT, "Doublings of the work that guessing takes", default=10),
        Option("delete", "", BOOL, "Remove the user"),
        Option("password-stdin", "", BOOL, "Read the password from standard input"),
    ),
    minimum=2,
    maximum=2,
    complete="file",
    examples=("sampan registry htpasswd /etc/sampan/registry.users alice",),
)
