"""The process: answers the containers, and takes the word of the daemon about who is who.

It outlives the daemon, so that names are answered while there is none, and is told everything again by the
next one. It ends with the last of daemon and containers.

Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable

from . import wire
from .allowance import allowance_of
from .cache import AnswerCache
from .learning import Learner
from .messages import BadMessage, Message, decode, encode, receive
from .names import Directory, View, member, view_of
from .poller import Poller
from .sandboxes import Reply, Sandbox
from .upstream import Forwarder

_MOST_IN_FLIGHT = 200
"""Questions that one container may have with others; the next ones fail at once."""


class Server:
    """Everything but the loop."""

    def __init__(self, listening: socket.socket, version: str, poller: Poller) -> None:
        self.directory = Directory()
        self.stopped = False
        self._version = version
        self._poller = poller
        self._forwarder = Forwarder(poller, AnswerCache())
        self._learner = Learner()
        self._sandboxes: dict[str, Sandbox] = {}
        self._connections: set[socket.socket] = set()
        self._home_fd = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._fresh: Directory | None = None
        """What is being said again between "begin" and "commit"."""
        self._listening = listening
        poller.watch(listening.fileno(), self._accept)

    # questions

    def ask(self, sandbox: Sandbox, query: bytes, over_tcp: bool, reply: Reply) -> None:
        """Answer at once or later; what is no query is answered as one answers such things."""
        try:
            question = wire.read_question(query)
        except wire.Malformed:
            reply(wire.refuse(query))
            return
        if wire.opcode(question):
            reply(wire.refuse(query, wire.NOT_IMPLEMENTED))
            return
        limit_bytes = 65535 if over_tcp else question.udp_bytes
        view = self.directory.view(sandbox.container_id)
        records = self.directory.answer(view, question.name, question.kind)
        if records is not None:
            reply(wire.answer(question, records, limit_bytes))
            return
        self._forward(sandbox, view, query, question, limit_bytes, reply)

    def _forward(
        self,
        sandbox: Sandbox,
        view: View,
        query: bytes,
        question: wire.Question,
        limit_bytes: int,
        reply: Reply,
    ) -> None:
        if not view.forwards:
            reply(wire.answer(question, [], limit_bytes, wire.NO_SUCH_NAME))
            return
        if sandbox.in_flight >= _MOST_IN_FLIGHT:
            reply(wire.answer(question, [], limit_bytes, wire.SERVER_FAILURE))
            return
        sandbox.in_flight += 1

        def done(data: bytes | None) -> None:
            sandbox.in_flight -= 1
            if data is None:
                data = wire.answer(question, [], limit_bytes, wire.SERVER_FAILURE)
            elif (now := self.directory.views.get(sandbox.container_id)) is not None and now.egress:
                self._learner.learn(now.egress, question.name, data, self._poller.now_s)
            reply(data if len(data) <= limit_bytes else wire.truncated(data, question))

        # what is restricted does not reach its name servers by itself
        space = sandbox.entered if view.own_servers and not view.egress else None
        self._forwarder.ask(query, question, view.servers, space, done)

    # who is who

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError):
            connection, _ = self._listening.accept()
            connection.setblocking(False)
            self._connections.add(connection)
            self._poller.watch(connection.fileno(), lambda: self._listen(connection))

    def _listen(self, connection: socket.socket) -> None:
        try:
            data, fds = receive(connection)
        except BlockingIOError:
            return
        except OSError:
            data, fds = b"", []
        if not data:
            self._poller.forget(connection.fileno())
            self._connections.discard(connection)
            connection.close()
            self._end_when_alone()
            return
        answer: Message | None
        try:
            answer = self._take(decode(data), fds)
        except (BadMessage, KeyError, TypeError, ValueError, OSError) as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
            sys.stderr.write(f"name server: {data[:200]!r}: {error}\n")
        finally:
            for fd in fds:
                os.close(fd)
        if answer is not None:
            with contextlib.suppress(OSError):  # who asked did not wait
                connection.send(encode(answer))

    def _take(self, message: Message, fds: list[int]) -> Message | None:
        """One message; what it is answered with. ``fds`` that are kept are taken out of the list."""
        what = message.get("do")
        if what == "serve":
            if len(fds) != 1:
                raise BadMessage("one descriptor of a process, please")
            self._serve(str(message["container"]), fds.pop())
            return {}
        if what == "status":
            networks = len(self.directory.networks)
            return {"version": self._version, "sandboxes": list(self._sandboxes), "networks": networks}
        if what == "stop":
            self.stopped = True
        elif what == "begin":
            self._fresh = Directory()
        elif what == "commit":
            self._commit()
        else:
            action = _CHANGES.get(str(what))
            if action is None:
                raise BadMessage(f"unknown: {what}")
            action(self._fresh or self.directory, message)
            if self._fresh is None and (message.get("egress") or not self._learner.is_idle):
                self._learner.keep_only(self.directory.allowances())
            if what == "forget":
                self._end(self._sandboxes.get(str(message["container"])))
        return None

    def _commit(self) -> None:
        if self._fresh is not None:
            self.directory, self._fresh = self._fresh, None
            self._learner.keep_only(self.directory.allowances())
            self._learner.again(self._poller.now_s)
            for container_id, sandbox in list(self._sandboxes.items()):
                if container_id not in self.directory.views:
                    self._end(sandbox)

    def _serve(self, container_id: str, pidfd: int) -> None:
        """Idempotent for one process. Raises OSError."""
        self._end(self._sandboxes.get(container_id))
        sandbox = Sandbox(container_id, pidfd, self._home_fd, self._poller)
        self._sandboxes[container_id] = sandbox
        sandbox.serve(self.ask, self._end)

    def _end(self, sandbox: Sandbox | None) -> None:
        if sandbox is not None:
            sandbox.close()
            if self._sandboxes.get(sandbox.container_id) is sandbox:
                del self._sandboxes[sandbox.container_id]
            self._end_when_alone()

    def _end_when_alone(self) -> None:
        """Neither a container nor a daemon is left: a daemon that comes again starts another one."""
        if not self._sandboxes and not self._connections:
            self.stopped = True

    def close(self) -> None:
        for sandbox in list(self._sandboxes.values()):
            self._end(sandbox)
        os.close(self._home_fd)


def _join(directory: Directory, message: Message) -> None:
    joining = member(
        message["names"], message["address4"], message["address6"], bool(message.get("healthy", True))
    )
    directory.network(message["network"]).join(message["endpoint"], joining)


def _leave(directory: Directory, message: Message) -> None:
    network = directory.networks.get(message["network"])
    if network is not None:
        network.leave(message["endpoint"])


def _view(directory: Directory, message: Message) -> None:
    directory.views[message["container"]] = view_of(
        message["networks"],
        message["aliases"],
        message["servers"],
        own_servers=bool(message["own_servers"]),
        forwards=bool(message["forwards"]),
        egress=[allowance_of(one) for one in message.get("egress", ())],
    )


_CHANGES: dict[str, Callable[[Directory, Message], object]] = {
    "network": lambda directory, message: directory.network(message["network"], message["name"]),
    "drop": lambda directory, message: directory.networks.pop(message["network"], None),
    "join": _join,
    "leave": _leave,
    "view": _view,
    "forget": lambda directory, message: directory.views.pop(message["container"], None),
}


def main(path: str, version: str, ready_fd: int) -> None:
    """Listen at ``path``, where nothing is, until told to stop; a byte on ``ready_fd`` says that it does."""
    listening = socket.socket(
        socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    )
    previous = os.umask(0o177)
    listening.bind(path)
    os.umask(previous)
    listening.listen(128)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    poller = Poller()
    server = Server(listening, version, poller)
    os.write(ready_fd, b"r")
    os.close(ready_fd)
    while not server.stopped:
        poller.turn()
    # before the connections end, which tells the daemon that there is room for the next one
    os.unlink(path)
    server.close()
