"""Routes of processes started in running containers."""

from __future__ import annotations

import msgspec
from aiohttp import web

from sampan.base.errors import Conflict, InvalidArgument, NotFound, SampanError
from sampan.engine.container.views import ExecConfig

from .call import Call
from .container_views import render_exec
from .containers import console_size
from .decoding import decode_any_case, decode_body
from .hijack import Hijacked, hijack, pump
from .replies import Reply, json_reply
from .routing import Route
from .services import AttachSession
from .streams import stream_type

STDOUT_FRAME = b"\x01\0\0\0"


class ExecStart(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    detach: bool = False
    tty: bool = False
    console_size: tuple[int, int] | None = None


class ExecCreated(msgspec.Struct, frozen=True, rename="pascal"):
    id: str


async def create(call: Call) -> Reply:
    body = await call.json_body()
    config = decode_body(body, ExecConfig) if body else ExecConfig()
    if b'"detachKeys"' in body:  # docker-py writes this one name otherwise than all the others
        config = decode_any_case(body, ExecConfig)
    if not config.cmd:
        raise InvalidArgument("No exec command specified")
    if call.version < 42:
        config = msgspec.structs.replace(config, console_size=None)
    return json_reply(ExecCreated(await call.engine.execs.create(call.name, config)), 201)


async def start(call: Call) -> web.StreamResponse:
    options = await call.decode(ExecStart, ExecStart())
    size = options.console_size if options.tty and call.version >= 42 else None
    if options.detach:
        await call.engine.execs.start(call.name, detach=True, tty=options.tty, console_size=size)
        return Reply(200)
    content_type = stream_type(call, options.tty)
    try:
        session = await call.engine.execs.start(call.name, detach=False, tty=options.tty, console_size=size)
    except (NotFound, Conflict):
        raise
    except SampanError as error:
        return await _report_in_stream(call, error.message, options.tty, content_type)
    if session is None:
        return Reply(200)
    try:
        client = hijack(call.request, content_type)
    except ConnectionError:
        await session.close()
        raise
    return await pump(client, as_asked(session, tty=options.tty))


class Framed:
    """A terminal's output for a client that expects frames: it made the exec with a terminal and started
    it without (docker-py's default)."""

    tty = False

    def __init__(self, session: AttachSession) -> None:
        self._session = session
        self.write = session.write
        self.write_eof = session.write_eof
        self.close = session.close

    async def read(self, limit: int = 65536) -> bytes:
        data = await self._session.read(limit)
        return STDOUT_FRAME + len(data).to_bytes(4, "big") + data if data else b""


def as_asked(session: AttachSession, *, tty: bool) -> AttachSession:
    """Docker frames the output as the start asked, whatever the exec was made with."""
    return Framed(session) if session.tty and not tty else session


async def _report_in_stream(call: Call, message: str, tty: bool, content_type: str) -> Hijacked:
    """A command that cannot be started is reported where its output would have been; the exit code
    (126 or 127) is in the exec's inspection."""
    text = f"{message}\r\n".encode()
    client = hijack(call.request, content_type)
    await client.write(text if tty else STDOUT_FRAME + len(text).to_bytes(4, "big") + text)
    await client.finish()
    return Hijacked()


async def inspect(call: Call) -> Reply:
    return json_reply(render_exec(await call.engine.execs.inspect(call.name)))


async def resize(call: Call) -> Reply:
    height, width = console_size(call)
    await call.engine.execs.resize(call.name, height, width)
    return Reply(200)


ROUTES = (
    Route("POST", "/containers/{}/exec", create),
    Route("POST", "/exec/{}/start", start),
    Route("POST", "/exec/{}/resize", resize),
    Route("GET", "/exec/{}/json", inspect),
)
