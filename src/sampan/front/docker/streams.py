"""Attached clients, logs and statistics: answers that go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from aiohttp import WSMsgType, web

from sampan.base.errors import InvalidArgument
from sampan.model.container import ContainerConfig

from .call import Call
from .hijack import MULTIPLEXED, RAW, hijack, pump
from .replies import JSON, Stream, close_iterator, encode, raw_json
from .routing import Route
from .services import AttachSession


def stream_type(call: Call, tty: bool) -> str:
    """Clients before 1.42 know one content type only and ask inspect whether output is framed."""
    return RAW if tty or call.version < 42 else MULTIPLEXED


def parse_timestamp_ns(text: str) -> int:
    """``seconds[.fraction]`` since the epoch, as Docker's clients send it; "" is 0."""
    if not text:
        return 0
    seconds, _, fraction = text.partition(".")
    try:
        nanos = int(fraction[:9].ljust(9, "0")) if fraction else 0
        return int(seconds) * 1_000_000_000 + nanos
    except ValueError:
        raise InvalidArgument(f'strconv.ParseInt: parsing "{text}": invalid syntax') from None


async def attach(call: Call) -> web.StreamResponse:
    session = await call.engine.containers.attach(
        call.name,
        stdin=call.flag("stdin"),
        stdout=call.flag("stdout"),
        stderr=call.flag("stderr"),
        stream=call.flag("stream"),
        logs=call.flag("logs"),
        detach_keys=call.text("detachKeys"),
    )
    try:
        client = hijack(call.request, stream_type(call, session.tty))
    except ConnectionError:
        await session.close()
        raise
    return await pump(client, session)


async def attach_websocket(call: Call) -> web.StreamResponse:
    everything = call.version < 42
    socket = web.WebSocketResponse(protocols=("chat", "binary", "webtty"), max_msg_size=0)
    if not socket.can_prepare(call.request):
        raise InvalidArgument("this endpoint speaks WebSocket only: the request lacks its upgrade headers")
    session = await call.engine.containers.attach(
        call.name,
        stdin=everything or call.flag("stdin"),
        stdout=everything or call.flag("stdout"),
        stderr=everything or call.flag("stderr"),
        stream=call.flag("stream"),
        logs=call.flag("logs"),
        detach_keys=call.text("detachKeys"),
    )
    try:
        await socket.prepare(call.request)
        output = asyncio.create_task(_websocket_output(socket, session))
        try:
            await _websocket_input(socket, session)
        finally:
            output.cancel()
            await asyncio.gather(output, return_exceptions=True)
    finally:
        await session.close()
    return socket


async def _websocket_output(socket: web.WebSocketResponse, session: AttachSession) -> None:
    while data := await session.read():
        await socket.send_bytes(data if session.tty else unframed(data))
    await socket.close()


async def _websocket_input(socket: web.WebSocketResponse, session: AttachSession) -> None:
    async for message in socket:
        if message.type == WSMsgType.TEXT:
            await session.write(message.data.encode())
        elif message.type == WSMsgType.BINARY:
            await session.write(message.data)
    session.write_eof()


def unframed(data: bytes) -> bytes:
    """Frames' contents one after the other: WebSocket clients get stdout and stderr mixed."""
    parts = []
    at = 0
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "big")
        parts.append(data[at + 8 : at + 8 + size])
        at += 8 + size
    return b"".join(parts)


def parse_tail(text: str) -> int | None:
    """Docker takes whatever is no number, and negative ones, for "all"."""
    try:
        lines = int(text)
    except ValueError:
        return None
    return lines if lines >= 0 else None


async def logs(call: Call) -> web.StreamResponse:
    stdout, stderr = call.flag("stdout"), call.flag("stderr")
    if not stdout and not stderr:
        raise InvalidArgument("Bad parameters: you must choose at least one stream")
    since_ns = parse_timestamp_ns(call.text("since"))
    until_ns = parse_timestamp_ns(call.text("until"))
    view = await call.engine.containers.inspect(call.name)
    follow = call.flag("follow")
    source = call.engine.containers.logs(
        view.record.id,
        stdout=stdout,
        stderr=stderr,
        since_ns=since_ns,
        until_ns=until_ns,
        timestamps=call.flag("timestamps"),
        tail=parse_tail(call.text("tail")),
        follow=follow,
        details=call.flag("details"),
        merged=_only_copies(call),
    )
    return await send_all(call, source, stream_type(call, _tty(view.record.config)))


_COPYING_CLIENTS = ("Docker-Client/", "Sampan-Client")


def _only_copies(call: Call) -> bool:
    """Whether the client writes out what frames hold without looking at where they end (docs/adr/0005).
    Others may hand each frame of a log to their users as a line, as docker-py does."""
    return call.request.headers.get("User-Agent", "").startswith(_COPYING_CLIENTS)


def _tty(config: ContainerConfig) -> bool:
    return config.tty


async def primed(source: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """``source`` after its first step, so that what it refuses becomes the status of the answer."""
    try:
        first = await anext(source)
    except StopAsyncIteration:
        first = b""
    return _after(first, source)


async def _after(first: bytes, source: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    try:
        yield first
        async for chunk in source:
            yield chunk
    finally:
        await close_iterator(source)


async def send_all(
    call: Call, source: AsyncIterator[bytes], content_type: str, headers: dict[str, str] | None = None
) -> Stream:
    """The head at once (clients wait for it, moby#47448), then every chunk as it comes."""
    stream = Stream(content_type, headers)
    await stream.prepare(call.request)
    try:
        with call.ended_with_client():
            async for chunk in source:
                await stream.send(chunk)
    except BaseException:
        stream.abort()
        raise
    finally:
        await close_iterator(source)
    return stream


async def stats(call: Call) -> web.StreamResponse:
    if not call.flag("stream", True):
        one_shot = call.version >= 41 and call.flag("one-shot")
        with call.ended_with_client():
            sample = await call.engine.stats.sample(call.name, one_shot)
        return raw_json(encode(sample) + b"\n")
    await call.engine.containers.inspect(call.name)
    return await send_all(call, _stat_lines(call), JSON)


async def _stat_lines(call: Call) -> AsyncIterator[bytes]:
    async for sample in call.engine.stats.stream(call.name):
        yield encode(sample) + b"\n"


ROUTES = (
    Route("POST", "/containers/{}/attach", attach),
    Route("GET", "/containers/{}/attach/ws", attach_websocket),
    Route("GET", "/containers/{}/logs", logs),
    Route("GET", "/containers/{}/stats", stats),
)
