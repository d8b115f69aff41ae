"""sampan exec and sampan attach."""

from __future__ import annotations

from sampan.cli import terminal
from sampan.cli.envfile import read_pairs
from sampan.cli.failure import Failure
from sampan.cli.options import BOOL, LIST, STRING, Command, Option, Values
from sampan.cli.runvalues import environment_variable
from sampan.cli.session import Session, is_terminal
from sampan.cli.signals import SignalPipe, SignalProxy, SizeFollower
from sampan.cli.stream import Pump, Streams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

KEYS = Option("detach-keys", "", STRING, "Keys that detach from the container", complete="keys")


def _request(values: Values, words: list[str]) -> dict[str, Any]:
    try:
        environment = [pair for path in values.many("env-file") for pair in read_pairs(path, look_up=True)]
    except ValueError as error:
        raise Failure(str(error)) from None
    detach = values.flag("detach")
    return {
        "User": values.text("user"),
        "Privileged": values.flag("privileged"),
        "Tty": values.flag("tty"),
        "AttachStdin": not detach and values.flag("interactive"),
        "AttachStdout": not detach,
        "AttachStderr": not detach,
        "Detach": detach,
        "DetachKeys": values.text("detach-keys"),
        "Env": environment + values.many("env"),
        "WorkingDir": values.text("workdir"),
        "Cmd": words[1:],
    }


def execute(session: Session, values: Values, words: list[str]) -> int:
    request = _request(values, words)
    keys = terminal.parse_keys(values.text("detach-keys"))
    if not request["Detach"]:
        terminal.require_input_terminal(request["AttachStdin"], request["Tty"])
    start: dict[str, Any] = {"Detach": request["Detach"], "Tty": request["Tty"]}
    if request["Tty"] and (current := terminal.size()):
        request["ConsoleSize"] = start["ConsoleSize"] = list(current)
    client = session.client
    identifier: str = client.call("POST", f"/containers/{words[0]}/exec", (), request)["Id"]
    if request["Detach"]:
        client.call("POST", f"/exec/{identifier}/start", (), start)
        return 0
    connection, _ = client.hijack(f"/exec/{identifier}/start", (), start)
    streams = Streams(stdin=request["AttachStdin"], stdout=True, stderr=True, tty=request["Tty"], keys=keys)
    pump = Pump(connection, streams)
    if request["Tty"] and is_terminal(1):
        pipe = SignalPipe()
        follower = SizeFollower(session, f"/exec/{identifier}/resize")
        follower.install(pipe)
        follower.send_first()
        pump.watch(pipe.fileno(), pipe.ready)
    pump.run(lambda: pump.output_ended)
    if pump.detached:
        raise Failure("read escape sequence")
    return int(client.call("GET", f"/exec/{identifier}/json")["ExitCode"] or 0)


def _attachable(session: Session, name: str) -> dict[str, Any]:
    container: dict[str, Any] = session.client.call("GET", f"/containers/{name}/json")
    state = container["State"]
    for key, text in (
        ("Paused", "You cannot attach to a paused container, unpause it first"),
        ("Restarting", "You cannot attach to a restarting container, wait until it is running"),
    ):
        if state.get(key):
            raise Failure(text)
    if not state["Running"]:
        raise Failure("You cannot attach to a stopped container, start it first")
    return container


def attach(session: Session, values: Values, words: list[str]) -> int:
    from sampan.cli.waiting import ExitWait

    keys = terminal.parse_keys(values.text("detach-keys"))
    container = _attachable(session, words[0])
    identifier, tty = container["Id"], bool(container["Config"]["Tty"])
    stdin = not values.flag("no-stdin") and bool(container["Config"]["OpenStdin"])
    terminal.require_input_terminal(not values.flag("no-stdin"), tty)
    wait = ExitWait(session, identifier, "")
    pipe = SignalPipe()
    if values.flag("sig-proxy") and not tty:
        SignalProxy(session, identifier).install(pipe)
    query = [("stream", "1"), ("stdout", "1"), ("stderr", "1")]
    if stdin:
        query.append(("stdin", "1"))
    if values.text("detach-keys"):
        query.append(("detachKeys", values.text("detach-keys")))
    connection, _ = session.client.hijack(f"/containers/{identifier}/attach", query)
    if tty and is_terminal(1):
        follower = SizeFollower(session, f"/containers/{identifier}/resize")
        follower.install(pipe)
        # Only a change makes the program draw its screen (or prompt) again for the newcomer.
        follower.send(larger_by=1)
        follower.send()
    pump = Pump(connection, Streams(stdin=stdin, stdout=True, stderr=True, tty=tty, keys=keys))
    pump.watch(pipe.fileno(), pipe.ready)
    pump.run(lambda: pump.output_ended)
    pipe.close()
    if pump.detached:
        raise Failure("read escape sequence")
    return wait.collect()


EXEC = Command(
    "exec",
    "[OPTIONS] CONTAINER COMMAND [ARG...]",
    "Execute a command in a running container",
    execute,
    (
        Option("detach", "d", BOOL, "Run the command in the background"),
        KEYS,
        Option("env", "e", LIST, "Set environment variables", check=environment_variable),
        Option("env-file", "", LIST, "Read environment variables from a file", complete="file"),
        Option("interactive", "i", BOOL, "Keep STDIN open even if not attached"),
        Option("privileged", "", BOOL, "Give the command all capabilities"),
        Option("tty", "t", BOOL, "Allocate a pseudo-TTY"),
        Option("user", "u", STRING, "User name or id (format: <name|uid>[:<group|gid>])"),
        Option("workdir", "w", STRING, "Working directory inside the container"),
    ),
    minimum=2,
    interspersed=False,
    complete="container",
    examples=("sampan exec -it web sh",),
)

ATTACH = Command(
    "attach",
    "[OPTIONS] CONTAINER",
    "Attach local standard input, output and error to a running container",
    attach,
    (
        KEYS,
        Option("no-stdin", "", BOOL, "Do not attach STDIN"),
        Option("sig-proxy", "", BOOL, "Pass signals on to the process", default=True),
    ),
    minimum=1,
    maximum=1,
    complete="container",
)
