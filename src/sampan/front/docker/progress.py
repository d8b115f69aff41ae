"""Streams of progress: one JSON object per line, errors included once the head has gone out."""

from __future__ import annotations

from collections.abc import AsyncIterator

from sampan.base.errors import SampanError
from sampan.model.progress import ErrorDetail, ProgressMessage

from .call import Call
from .errors import explain
from .replies import JSON, Stream, close_iterator, encode


def encode_line(message: ProgressMessage) -> bytes:
    return encode(message) + b"\r\n"


async def send_progress(
    call: Call, source: AsyncIterator[ProgressMessage], *, errors_in_stream: bool = False
) -> Stream:
    """Stream until the end. An error before the first line becomes the status of the answer, unless
    ``errors_in_stream``."""
    stream = Stream(JSON)
    try:
        with call.ended_with_client():
            async for message in source:
                if not stream.started:
                    await stream.prepare(call.request)
                await stream.send(encode_line(message))
    except SampanError as error:
        if not stream.started and not errors_in_stream:
            raise
        if not stream.started:
            await stream.prepare(call.request)
        _, text = explain(error, call.path)
        await stream.send(encode_line(ProgressMessage(error_detail=ErrorDetail(message=text), error=text)))
    except BaseException:
        if stream.started:
            stream.abort()
        raise
    finally:
        await close_iterator(source)
    return stream
