"""sampan start."""

from __future__ import annotations

from sampan.cli import terminal
from sampan.cli.commands.exec import KEYS
from sampan.cli.failure import Failure, Refused
from sampan.cli.options import BOOL, Command, Option, Values
from sampan.cli.session import Session, is_terminal


def start(session: Session, values: Values, words: list[str]) -> int:
    if values.flag("attach") or values.flag("interactive"):
        if len(words) > 1:
            raise Failure("you cannot start and attach multiple containers at once")
        return _attached(session, values, words[0])
    failed = []
    for name in words:
        try:
            session.client.call("POST", f"/containers/{name}/start")
        except Refused as refused:
            session.warn(refused.message)
            failed.append(name)
        else:
            print(name, flush=True)
    if failed:
        raise Failure(f"Error: failed to start containers: {', '.join(failed)}")
    return 0


def _attached(session: Session, values: Values, name: str) -> int:
    from sampan.cli.signals import SignalPipe, SignalProxy, SizeFollower
    from sampan.cli.stream import Pump, Streams
    from sampan.cli.waiting import ExitWait

    keys = terminal.parse_keys(values.text("detach-keys"))
    container = session.client.call("GET", f"/containers/{name}/json")
    identifier, config = container["Id"], container["Config"]
    tty = bool(config["Tty"])
    stdin = values.flag("interactive") and bool(config["OpenStdin"])
    terminal.require_input_terminal(stdin, tty)
    pipe = SignalPipe()
    if not tty:
        SignalProxy(session, identifier).install(pipe)
    query = [("stream", "1"), ("stdout", "1"), ("stderr", "1")]
    if stdin:
        query.append(("stdin", "1"))
    if values.text("detach-keys"):
        query.append(("detachKeys", values.text("detach-keys")))
    connection, _ = session.client.hijack(f"/containers/{identifier}/attach", query)
    auto_remove = bool(container["HostConfig"].get("AutoRemove"))
    wait = ExitWait(session, identifier, "removed" if auto_remove else "next-exit")
    try:
        session.client.call("POST", f"/containers/{identifier}/start")
    except Refused:
        connection.close()
        if auto_remove:
            wait.settle()
        raise
    if tty and is_terminal(1):
        follower = SizeFollower(session, f"/containers/{identifier}/resize")
        follower.install(pipe)
        follower.send_first()
    pump = Pump(connection, Streams(stdin=stdin, stdout=True, stderr=True, tty=tty, keys=keys))
    pump.watch(pipe.fileno(), pipe.ready)
    pump.run(lambda: pump.output_ended)
    pipe.close()
    return 0 if pump.detached else wait.collect()


START = Command(
    "start",
    "[OPTIONS] CONTAINER [CONTAINER...]",
    "Start one or more stopped containers",
    start,
    (
        Option("attach", "a", BOOL, "Attach STDOUT and STDERR and pass signals on"),
        KEYS,
        Option("interactive", "i", BOOL, "Attach the container's STDIN"),
    ),
    minimum=1,
    complete="container",
)
