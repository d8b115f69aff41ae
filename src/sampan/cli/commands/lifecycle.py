"""The short verbs on containers: each name is tried, each failure told, and the status says so."""

from __future__ import annotations

from sampan.cli.failure import Failure, Refused
from sampan.cli.http import Response
from sampan.cli.options import BOOL, INT, STRING, Command, Option, Values
from sampan.cli.session import Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_LIMIT = 50  # requests under way at once


def for_each(session: Session, names: list[str], act: Callable[[str], None], forgiven: int = 0) -> int:
    """``act`` on every name, the names of the successes printed, the failures told at once. A refusal with
    the HTTP status ``forgiven`` is told, too, but does not count."""
    status = 0
    for name in names:
        try:
            act(name)
        except Failure as failure:
            session.warn(failure.message)
            if not (isinstance(failure, Refused) and failure.code == forgiven):
                status = failure.status or 1
        else:
            print(name, flush=True)
    return status


def _each_at_once(
    session: Session,
    names: list[str],
    method: str,
    path: str,
    query: list[tuple[str, str]],
    forgiven: int = 0,
) -> int:
    """One request per name, all under way together (a stop may take its ten seconds), told in order."""
    if len(names) == 1:

        def act(name: str) -> None:
            _request(session, method, path.format(name), query)

        return for_each(session, names, act, forgiven)
    from threading import Thread

    problems: dict[str, Failure | None] = {}
    queue = list(dict.fromkeys(names))

    def work() -> None:
        client = session.another_client()
        while queue:
            name = queue.pop(0)
            try:
                client.request(method, path.format(name), query).read()
                problems[name] = None
            except Failure as failure:
                problems[name] = failure

    session.client  # noqa: B018 - an address that is wrong is told once, here
    threads = [Thread(target=work) for _ in range(min(_LIMIT, len(queue)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    def tell(name: str) -> None:
        if problem := problems[name]:
            raise problem

    return for_each(session, names, tell, forgiven)


def _request(session: Session, method: str, path: str, query: list[tuple[str, str]]) -> None:
    response: Response = session.client.request(method, path, query)
    response.read()


def _stop_query(values: Values) -> list[tuple[str, str]]:
    query = []
    if values.given("timeout"):
        query.append(("t", str(values.number("timeout"))))
    if values.text("signal"):
        query.append(("signal", values.text("signal")))
    return query


def stop(session: Session, values: Values, words: list[str]) -> int:
    return _each_at_once(session, words, "POST", "/containers/{}/stop", _stop_query(values))


def restart(session: Session, values: Values, words: list[str]) -> int:
    return _each_at_once(session, words, "POST", "/containers/{}/restart", _stop_query(values))


def kill(session: Session, values: Values, words: list[str]) -> int:
    query = [("signal", values.text("signal"))] if values.text("signal") else []
    return _each_at_once(session, words, "POST", "/containers/{}/kill", query)


def pause(session: Session, values: Values, words: list[str]) -> int:
    return _each_at_once(session, words, "POST", "/containers/{}/pause", [])


def unpause(session: Session, values: Values, words: list[str]) -> int:
    return _each_at_once(session, words, "POST", "/containers/{}/unpause", [])


def remove(session: Session, values: Values, words: list[str]) -> int:
    query = []
    for name, key in (("volumes", "v"), ("link", "link"), ("force", "force")):
        if values.flag(name):
            query.append((key, "1"))
    names = [name.strip("/") for name in words]
    if not all(names):
        raise Failure("container name cannot be empty")
    # With --force a container that is not there is as wanted, though worth a word.
    forgiven = 404 if values.flag("force") else 0
    return _each_at_once(session, names, "DELETE", "/containers/{}", query, forgiven)


def rename(session: Session, values: Values, words: list[str]) -> int:
    old, new = (word.strip() for word in words)
    if not old or not new:
        raise Failure("Error: Neither old nor new names may be empty")
    try:
        _request(session, "POST", f"/containers/{old}/rename", [("name", new)])
    except Failure as failure:
        session.warn(failure.message)
        raise Failure(f"Error: failed to rename container named {old}") from None
    return 0


def wait(session: Session, values: Values, words: list[str]) -> int:
    status = 0
    for name in words:
        try:
            answer = session.client.call("POST", f"/containers/{name}/wait")
        except Failure as failure:
            session.warn(failure.message)
            status = 1
        else:
            print(answer["StatusCode"], flush=True)
    return status


_SIGNAL = Option("signal", "s", STRING, "Signal to send", complete="signal")
_TIMEOUT = Option("timeout", "t", INT, "Seconds to wait before the kill", default=0)
_TIME = Option("time", "", INT, "Seconds to wait before the kill", hidden=True, stores="timeout")
_NAMES = "CONTAINER [CONTAINER...]"

STOP = Command(
    "stop",
    f"[OPTIONS] {_NAMES}",
    "Stop one or more running containers",
    stop,
    (_SIGNAL, _TIMEOUT, _TIME),
    minimum=1,
    complete="container",
)
RESTART = Command(
    "restart",
    f"[OPTIONS] {_NAMES}",
    "Restart one or more containers",
    restart,
    (_SIGNAL, _TIMEOUT, _TIME),
    minimum=1,
    complete="container",
)
KILL = Command(
    "kill",
    f"[OPTIONS] {_NAMES}",
    "Kill one or more running containers",
    kill,
    (_SIGNAL,),
    minimum=1,
    complete="container",
)
PAUSE = Command(
    "pause", _NAMES, "Pause all processes of one or more containers", pause, minimum=1, complete="container"
)
UNPAUSE = Command(
    "unpause",
    _NAMES,
    "Let the processes of paused containers run again",
    unpause,
    minimum=1,
    complete="container",
)
REMOVE = Command(
    "rm",
    f"[OPTIONS] {_NAMES}",
    "Remove one or more containers",
    remove,
    (
        Option("force", "f", BOOL, "Kill a running container first"),
        Option("link", "l", BOOL, "Remove the link instead of the container"),
        Option("volumes", "v", BOOL, "Remove the container's anonymous volumes too"),
    ),
    minimum=1,
    complete="container",
)
RENAME = Command(
    "rename", "CONTAINER NEW_NAME", "Rename a container", rename, minimum=2, maximum=2, complete="container"
)
WAIT = Command(
    "wait",
    _NAMES,
    "Block until containers stop, then print their exit statuses",
    wait,
    minimum=1,
    complete="container",
)
