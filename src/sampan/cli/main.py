"""The sampan command: finds the command's module, parses its options, turns failures into exit statuses.

Nothing here is imported that a command may not need; the tables below are text until a word is typed.
"""

from __future__ import annotations

import sys

from sampan.cli.failure import Failure, UsageFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.options import Command
    from sampan.cli.session import Session

# word -> module:table under sampan.cli.commands
TOP = {
    "run": "run:RUN",
    "exec": "exec:EXEC",
    "ps": "ps:PS",
    "images": "images:LIST",
    "pull": "images:PULL",
    "version": "system:VERSION",
    "info": "system:INFO",
    "attach": "exec:ATTACH",
    "commit": "images:COMMIT",
    "cp": "copy:COPY",
    "create": "run:CREATE",
    "diff": "observe:DIFF",
    "events": "observe:EVENTS",
    "export": "copy:EXPORT",
    "history": "images:HISTORY",
    "import": "archives:IMPORT",
    "inspect": "inspect:INSPECT",
    "kill": "lifecycle:KILL",
    "load": "archives:LOAD",
    "login": "registry:LOGIN",
    "logout": "registry:LOGOUT",
    "logs": "logs:LOGS",
    "pause": "lifecycle:PAUSE",
    "port": "observe:PORT",
    "push": "registry:PUSH",
    "rename": "lifecycle:RENAME",
    "restart": "lifecycle:RESTART",
    "rm": "lifecycle:REMOVE",
    "rmi": "images:REMOVE",
    "save": "archives:SAVE",
    "search": "search:SEARCH",
    "start": "start:START",
    "stats": "stats:STATS",
    "stop": "lifecycle:STOP",
    "tag": "images:TAG",
    "top": "observe:TOP",
    "unpause": "lifecycle:UNPAUSE",
    "update": "update:UPDATE",
    "wait": "lifecycle:WAIT",
    "completion": "completion:COMPLETION",
    "help": "help:HELP",
}

GROUPS = {
    "container": {
        **{
            word: TOP[word]
            for word in (
                *("attach", "commit", "cp", "create", "diff", "exec", "export", "kill", "logs", "pause"),
                *("port", "rename", "restart", "rm", "run", "start", "stats", "stop", "top", "unpause"),
                *("update", "wait"),
            )
        },
        "inspect": "inspect:INSPECT_CONTAINER",
        "ls": "ps:PS",
        "prune": "prune:CONTAINERS",
    },
    "image": {
        "bootstrap": "archives:BOOTSTRAP",
        "gc": "collection:GC",
        "history": "images:HISTORY",
        "import": "archives:IMPORT",
        "inspect": "inspect:INSPECT_IMAGE",
        "load": "archives:LOAD",
        "ls": "images:LIST",
        "prune": "prune:IMAGES",
        "pull": "images:PULL",
        "push": "registry:PUSH",
        "rm": "images:REMOVE",
        "save": "archives:SAVE",
        "tag": "images:TAG",
    },
    "manifest": {
        "annotate": "manifest:ANNOTATE",
        "create": "manifest:CREATE",
        "inspect": "manifest:INSPECT",
        "push": "manifest:PUSH",
        "rm": "manifest:REMOVE",
    },
    "network": {
        "connect": "networks:CONNECT",
        "create": "networks:CREATE",
        "disconnect": "networks:DISCONNECT",
        "graph": "traffic:GRAPH",
        "inspect": "inspect:INSPECT_NETWORK",
        "limit": "networks:LIMIT",
        "ls": "networks:LIST",
        "prune": "prune:NETWORKS",
        "rm": "networks:REMOVE",
        "trace": "traffic:TRACE",
    },
    "registry": {
        "gc": "registryserver:GC",
        "htpasswd": "registryserver:HTPASSWD",
        "repositories": "registryserver:REPOSITORIES",
        "retention": "registryserver:RETENTION",
        "scrub": "registryserver:SCRUB",
        "serve": "registryserver:SERVE",
        "tags": "registryserver:TAGS",
        "upstreams": "registryserver:UPSTREAMS",
        "usage": "registryserver:USAGE",
    },
    "system": {
        "df": "diskusage:DF",
        "events": "observe:EVENTS",
        "info": "system:INFO",
        "prune": "prune:SYSTEM",
    },
    "volume": {
        "create": "volumes:CREATE",
        "inspect": "inspect:INSPECT_VOLUME",
        "ls": "volumes:LIST",
        "prune": "prune:VOLUMES",
        "rm": "volumes:REMOVE",
    },
    "debug": {"explain": "debug:EXPLAIN"},
}

SUMMARIES = {
    "container": "Manage containers",
    "image": "Manage images",
    "manifest": "Manage manifests and lists of them in registries",
    "network": "Manage networks",
    "registry": "Run and manage a registry of images",
    "system": "Manage Sampan",
    "volume": "Manage volumes",
    "debug": "Look behind the scenes",
}

ALIASES = {
    ("container", "list"): "ls",
    ("container", "ps"): "ls",
    ("container", "remove"): "rm",
    ("image", "list"): "ls",
    ("image", "remove"): "rm",
    ("network", "list"): "ls",
    ("network", "remove"): "rm",
    ("volume", "list"): "ls",
    ("volume", "remove"): "rm",
}

# Docker's commands that are known here but do not exist yet; the text says what to do instead.
NOT_YET = {
    "build": "Images come from 'sampan import', 'sampan load', 'sampan commit' and 'sampan image bootstrap'.",
    "builder": "There is no builder yet.",
    "buildx": "There is no builder yet.",
    "checkpoint": "Checkpoints are not supported.",
    "compose": "Point the docker compose plugin at the daemon's socket with DOCKER_HOST.",
    "context": "Name the daemon with -H, SAMPAN_HOST or DOCKER_HOST.",
    "plugin": "Plugins are not supported.",
    "swarm": "One machine is Sampan's business; more than one is Kubernetes'.",
    "trust": "Docker Content Trust is not supported.",
}


def load(entry: str) -> Command:
    """The command table of ``module:name``."""
    module_name, _, name = entry.partition(":")
    path = f"sampan.cli.commands.{module_name}"
    __import__(path)
    command: Command = getattr(sys.modules[path], name)
    return command


def find(words: list[str]) -> tuple[Command, str, list[str]]:
    """The command, the words that called it and its arguments. Raises UsageFailure."""
    first = words[0]
    if first == "__complete":
        return load("completion:COMPLETE"), first, ["--", *words[1:]]
    if first in TOP:
        return load(TOP[first]), first, words[1:]
    if first in GROUPS:
        if len(words) < 2 or words[1] in ("--help", "-h"):
            from sampan.cli.commands.help import show_group

            raise SystemExit(show_group(first))
        second = ALIASES.get((first, words[1]), words[1])
        if second in GROUPS[first]:
            return load(GROUPS[first][second]), f"{first} {second}", words[2:]
        raise _unknown(f"{first} {words[1]}", words[1], list(GROUPS[first]), f"sampan {first} --help")
    if first in NOT_YET:
        raise Failure(f"'sampan {first}' is not implemented yet. {NOT_YET[first]}")
    raise _unknown(first, first, [*TOP, *GROUPS], "sampan --help")


def _unknown(typed: str, word: str, known: list[str], remedy: str) -> Failure:
    from sampan.cli.options import suggestion

    text = f"sampan: unknown command: sampan {typed}"
    return Failure(f"{text}{suggestion(word, known)}\n\nRun '{remedy}' for the list of commands")


def _session(arguments: list[str]) -> tuple[Session, list[str]]:
    if arguments and arguments[0][:1] != "-":
        from sampan.cli.session import Session

        return Session(), arguments
    from sampan.cli.globals import take_globals

    return take_globals(arguments)


def execute(arguments: list[str]) -> int:
    """One command line, without the program's name. Answers the exit status."""
    session: Session | None = None
    try:
        session, words = _session(arguments)
        return _run(session, words) if words else 0
    except Failure as failure:
        return _report(failure)
    except OSError as error:
        return _report(Failure(_os_text(error)))
    finally:
        if session is not None:
            session.close()


def _run(session: Session, words: list[str]) -> int:
    command, called, rest = find(words)
    from sampan.cli.options import HelpWanted, parse

    try:
        values, positional = parse(command, rest)
    except HelpWanted:
        from sampan.cli.commands.help import show_command

        return show_command(command, called)
    except UsageFailure as failure:
        usage = f"{failure.message}\n\nUsage:  sampan {called} {command.usage}".rstrip()
        text = f"{usage}\n\nRun 'sampan {called} --help' for more information"
        raise Failure(text, failure.status) from None
    try:
        return command.run(session, values, positional)
    except OSError as error:
        raise Failure(_os_text(error), command.status) from None


def _os_text(error: OSError) -> str:
    name = f"{error.filename}: " if error.filename else ""
    return f"{name}{error.strerror.lower() if error.strerror else error}"


def _report(failure: Failure) -> int:
    if failure.message:
        sys.stdout.flush()
        print(failure.message, file=sys.stderr, flush=True)
    return failure.status


def main() -> None:
    """The console script. Ends the process."""
    import posix
    from _signal import SIG_DFL, SIGINT, SIGPIPE, signal  # type: ignore[import-not-found]

    # `sampan ps | head` and Ctrl-C end the command as they end any other program, without a traceback.
    signal(SIGPIPE, SIG_DFL)
    signal(SIGINT, SIG_DFL)
    try:
        status = execute(sys.argv[1:])
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    sys.stdout.flush()
    # Everything is written; tearing the interpreter down would cost more than printing did.
    posix._exit(status)


if __name__ == "__main__":
    main()
