"""sampan run and sampan create."""

from __future__ import annotations

from sampan.cli import terminal
from sampan.cli.failure import Failure, Refused
from sampan.cli.http import Connection
from sampan.cli.options import Command, Values
from sampan.cli.runflags import bad, create_body
from sampan.cli.runoptions import CREATE_OPTIONS, RUN_OPTIONS
from sampan.cli.session import Session, wanted_platform

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Json = dict[str, Any]

_PULL = ("always", "missing", "never", "")


def _create(session: Session, values: Values, body: Json) -> str:
    """Creates the container, with its cidfile. Answers the id."""
    from sampan.cli.cidfile import CidFile

    with CidFile(values.text("cidfile")) as cidfile:
        if values.flag("use-api-socket"):
            _add_socket(session, values, body)
        if current := terminal.size():
            body["HostConfig"]["ConsoleSize"] = list(current)
        answer = _post(session, values, body)
        for warning in answer.get("Warnings") or ():
            session.warn(f"WARNING: {warning}")
        for address in body["HostConfig"]["Dns"]:
            if address.startswith("127.") or address == "::1":
                session.warn(f"WARNING: Localhost DNS ({address}) may fail in containers.")
        identifier: str = answer["Id"]
        cidfile.write(identifier)
    return identifier


def _add_socket(session: Session, values: Values, body: Json) -> None:
    path = session.client.endpoint.path
    if not path:
        raise bad(values, "flag --use-api-socket can only be used with unix sockets")
    mount = {"Type": "bind", "Source": path, "Target": "/var/run/docker.sock", "BindOptions": {}}
    body["HostConfig"].setdefault("Mounts", []).append(mount)


def _post(session: Session, values: Values, body: Json) -> Json:
    policy = values.text("pull")
    if policy not in _PULL:
        raise bad(values, f'invalid pull option: \'{policy}\': must be one of "always", "missing" or "never"')
    query = [("name", values.text("name")), ("platform", wanted_platform(values.text("platform")))]
    query = [(key, value) for key, value in query if value]
    if policy == "always":
        _pull(session, values, body["Image"])
    try:
        answer: Json = session.client.call("POST", "/containers/create", query, body)
    except Refused as refused:
        if refused.code != 404 or policy != "missing" or "image" not in refused.reason.lower():
            raise
        from sampan.cli.imagename import with_tag

        if not values.flag("quiet"):
            session.warn(f"Unable to find image '{with_tag(body['Image'])}' locally")
        _pull(session, values, body["Image"])
        answer = session.client.call("POST", "/containers/create", query, body)
    return answer


def _pull(session: Session, values: Values, image: str) -> None:
    from sampan.cli.commands.images import pull_image

    platform = wanted_platform(values.text("platform"))
    pull_image(session, image, platform, quiet=values.flag("quiet"), to_stderr=True)


def create(session: Session, values: Values, words: list[str]) -> int:
    body = create_body(values, words)
    try:
        print(_create(session, values, body))
    except Refused as refused:
        raise Failure(refused.message) from None
    return 0


def run(session: Session, values: Values, words: list[str]) -> int:
    body = create_body(values, words)
    keys = terminal.parse_keys(values.text("detach-keys"))
    if values.flag("detach"):
        if values.many("attach"):
            raise Failure("conflicting options: cannot specify both --attach and --detach", 125)
        for name in ("AttachStdin", "AttachStdout", "AttachStderr", "StdinOnce"):
            body[name] = False
    else:
        terminal.require_input_terminal(body["AttachStdin"], body["Tty"])
    try:
        container = _create(session, values, body)
    except Refused as refused:
        raise _start_failure(values, refused) from None
    if not (body["AttachStdin"] or body["AttachStdout"] or body["AttachStderr"]):
        return _start_detached(session, values, container)
    return _Foreground(session, values, body, container, keys).run()


def _start_detached(session: Session, values: Values, container: str) -> int:
    print(container, flush=True)
    try:
        session.client.call("POST", f"/containers/{container}/start")
    except Refused as refused:
        raise _start_failure(values, refused) from None
    return 0


def _start_failure(values: Values, refused: Refused) -> Failure:
    """127 for a command that does not exist, 126 for one that cannot be run, 125 for all else."""
    reason = refused.reason.lower()
    status = 125
    if "executable file not found" in reason or "no such file or directory" in reason:
        status = 127
    elif "permission denied" in reason or "is a directory" in reason:
        status = 126
    return bad(values, refused.message, status)


class _Foreground:
    """A container whose streams are here until it ends or the detach keys are typed."""

    def __init__(self, session: Session, values: Values, body: Json, container: str, keys: bytes) -> None:
        self._session = session
        self._values = values
        self._body = body
        self._container = container
        self._keys = keys

    def run(self) -> int:
        from sampan.cli.signals import SignalPipe, SignalProxy, SizeFollower
        from sampan.cli.stream import Pump, Streams
        from sampan.cli.waiting import ExitWait

        body = self._body
        pipe = SignalPipe()
        if self._values.flag("sig-proxy"):
            SignalProxy(self._session, self._container).install(pipe)
        connection = self._attach()
        condition = "removed" if body["HostConfig"]["AutoRemove"] else "next-exit"
        wait = ExitWait(self._session, self._container, condition)
        try:
            self._session.client.call("POST", f"/containers/{self._container}/start")
        except Refused as refused:
            connection.close()
            if body["HostConfig"]["AutoRemove"]:
                wait.settle()
            raise _start_failure(self._values, refused) from None
        if body["Tty"]:
            follower = SizeFollower(self._session, f"/containers/{self._container}/resize")
            follower.install(pipe)
            follower.send_first()
        streams = Streams(
            stdin=body["AttachStdin"],
            stdout=body["AttachStdout"],
            stderr=body["AttachStderr"],
            tty=body["Tty"],
            keys=self._keys,
        )
        pump = Pump(connection, streams)
        pump.watch(pipe.fileno(), pipe.ready)

        def ended() -> None:
            pump.forget(wait_descriptor)
            wait.collect()

        wait_descriptor = wait.fileno()
        pump.watch(wait_descriptor, ended)
        has_output = streams.stdout or streams.stderr
        pump.run(lambda: wait.status is not None and (pump.output_ended or not has_output))
        pipe.close()
        return 0 if pump.detached else wait.collect()

    def _attach(self) -> Connection:
        body = self._body
        wanted = [name for name in ("stdin", "stdout", "stderr") if body[f"Attach{name.capitalize()}"]]
        query = [("stream", "1"), *((name, "1") for name in wanted)]
        if keys := self._values.text("detach-keys"):
            query.append(("detachKeys", keys))
        connection, _ = self._session.client.hijack(f"/containers/{self._container}/attach", query)
        return connection


RUN = Command(
    "run",
    "[OPTIONS] IMAGE [COMMAND] [ARG...]",
    "Create and run a new container from an image",
    run,
    RUN_OPTIONS,
    minimum=1,
    interspersed=False,
    complete="image",
    status=125,
    examples=(
        "sampan run --rm busybox echo hello",
        "sampan run -it --name work debian bash",
        "sampan run -d -p 8080:80 -v site:/srv nginx",
    ),
)

CREATE = Command(
    "create",
    "[OPTIONS] IMAGE [COMMAND] [ARG...]",
    "Create a new container",
    create,
    CREATE_OPTIONS,
    minimum=1,
    interspersed=False,
    complete="image",
    status=125,
)
