"""sampan push, login and logout."""

from __future__ import annotations

import sys

from sampan.cli.credentials import HUB_SERVER, CredentialStore, Login, registry_of, server_of
from sampan.cli.failure import Failure
from sampan.cli.imagename import canonical, familiar, platform_json, split_tag
from sampan.cli.options import BOOL, PLATFORM, STRING, Command, Option, Values
from sampan.cli.session import Session, is_terminal


def auth_headers(session: Session, repository: str) -> list[tuple[str, str]]:
    """What to send along for an image of the repository. Raises Failure."""
    login = CredentialStore(session.config_folder).find(registry_of(repository))
    return [login.header()] if login is not None else []


def push(session: Session, values: Values, words: list[str]) -> int:
    from sampan.cli.progress import follow

    repository, tag = split_tag(words[0])
    if "@" in words[0]:
        raise Failure("cannot push a digest reference")
    quiet, everything = values.flag("quiet"), values.flag("all-tags")
    if everything and tag:
        raise Failure("tag can't be used with --all-tags/-a")
    if not everything and not tag:
        tag = "latest"
        if not quiet:
            print(f"Using default tag: {tag}", flush=True)
    query = [("tag", tag)] if tag else []
    if values.text("platform"):
        query.append(("platform", platform_json(values.text("platform"))))
    headers = auth_headers(session, repository)
    if not headers:
        headers = [("X-Registry-Auth", "e30=")]
    response = session.client.request("POST", f"/images/{familiar(repository)}/push", query, None, headers)
    for result in follow(response, quiet=quiet):
        if result.get("manifestPushedInsteadOfIndex"):
            session.warn(
                "Not all multiplatform-content is present and only the available single-platform image was "
                f"pushed\n{result['originalIndex']['digest']} -> {result['selectedManifest']['digest']}"
            )
    if quiet:
        name = canonical(repository)
        print(f"{name}:{tag}" if tag else name)
    return 0


def login(session: Session, values: Values, words: list[str]) -> int:
    server = server_of(words[0] if words else "")
    store = CredentialStore(session.config_folder)
    user, password = values.text("username"), values.text("password")
    if values.flag("password-stdin"):
        if password:
            raise Failure("--password and --password-stdin are mutually exclusive")
        if not user:
            raise Failure("Must provide --username with --password-stdin")
        password = sys.stdin.read().rstrip("\r\n")
    elif password:
        session.warn("WARNING! Using --password via the CLI is insecure. Use --password-stdin.")
    known = store.find(server) if not user and not password else None
    wanted = known or _asked(server, user, password)
    from sampan.cli import jsontext

    answer = session.client.call("POST", "/auth", (), jsontext.loads(wanted.as_json()))
    token = answer.get("IdentityToken") or ""
    if token:
        wanted = Login(server, wanted.user, "", token)
    if (known is None or token) and not store.save(wanted):
        session.warn(f"WARNING! Your credentials are stored unencrypted in {store.path}")
    print(answer.get("Status") or "Login Succeeded")
    return 0


def _asked(server: str, user: str, password: str) -> Login:
    """What is missing, from the terminal. Raises Failure without one."""
    if user and password:
        return Login(server, user, password)
    if not is_terminal(0):
        raise Failure("cannot perform an interactive login from a non TTY device: use --password-stdin")
    if not user:
        user = input("Username: ").strip()
    if not user:
        raise Failure("username is required")
    if not password:
        from getpass import getpass

        password = getpass("Password: ")
    if not password:
        raise Failure("password is required")
    return Login(server, user, password)


def logout(session: Session, values: Values, words: list[str]) -> int:
    server = server_of(words[0] if words else "")
    shown = "Docker Hub" if server == HUB_SERVER else server
    if CredentialStore(session.config_folder).erase(server):
        print(f"Removing login credentials for {shown}")
    else:
        print(f"Not logged in to {shown}")
    return 0


PUSH = Command(
    "push",
    "[OPTIONS] NAME[:TAG]",
    "Send an image to a registry",
    push,
    (
        Option("all-tags", "a", BOOL, "Send all tags of the repository"),
        Option("disable-content-trust", "", BOOL, "Accepted for Docker's sake", default=True, hidden=True),
        PLATFORM,
        Option("quiet", "q", BOOL, "No progress"),
    ),
    minimum=1,
    maximum=1,
    complete="image",
)
LOGIN = Command(
    "login",
    "[OPTIONS] [SERVER]",
    "Check and keep credentials for a registry",
    login,
    (
        Option("password", "p", STRING, "Password or access token"),
        Option("password-stdin", "", BOOL, "Read the password from standard input"),
        Option("username", "u", STRING, "Name of the user"),
    ),
    maximum=1,
)
LOGOUT = Command("logout", "[SERVER]", "Forget the credentials for a registry", logout, maximum=1)
