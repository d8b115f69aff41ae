"""One API call, decoded as far as routing needs it: version, path variable, query."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote_plus

import msgspec
from aiohttp.web_request import BaseRequest

from sampan.base.errors import InvalidArgument

from .decoding import decode_body

if TYPE_CHECKING:
    from .server import Connection
    from .services import Engine

T = TypeVar("T")
FALSE = frozenset({"", "0", "no", "false", "none"})
BODY_LIMIT_BYTES = 8 * 1024 * 1024


class BodyTooLarge(InvalidArgument):
    def __init__(self) -> None:
        super().__init__(f"the request body is larger than {BODY_LIMIT_BYTES} bytes")


class Call:
    """A request on its way to a handler."""

    __slots__ = ("_query", "_query_text", "engine", "name", "path", "request", "version")

    def __init__(
        self, request: BaseRequest, engine: Engine, version: int, path: str, name: str, query: str
    ) -> None:
        self.request = request
        self.engine = engine
        self.version = version
        """The minor number of the API version in force."""
        self.path = path
        self.name = name
        """The variable part of the path: a container, image, volume, ..."""
        self._query_text = query
        self._query: dict[str, list[str]] | None = None

    @property
    def query(self) -> dict[str, list[str]]:
        query = self._query
        if query is None:
            query = self._query = parse_query(self._query_text) if self._query_text else {}
        return query

    def text(self, key: str, default: str = "") -> str:
        values = self.query.get(key)
        return values[0] if values else default

    def texts(self, key: str) -> list[str]:
        return self.query.get(key, [])

    def flag(self, key: str, default: bool = False) -> bool:
        """Docker's idea of a boolean: everything but "", 0, no, false and none is true."""
        values = self.query.get(key)
        if not values:
            return default
        return values[0].strip().lower() not in FALSE

    def number(self, key: str) -> int | None:
        """A whole number, or None when the parameter is absent or empty."""
        text = self.text(key)
        if not text:
            return None
        try:
            return int(text)
        except ValueError:
            raise InvalidArgument(f'strconv.Atoi: parsing "{text}": invalid syntax') from None

    def filters(self, key: str = "filters") -> dict[str, list[str]]:
        """Both forms: ``{"label": ["a"]}`` and the older ``{"label": {"a": true}}``."""
        text = self.text(key)
        return parse_filters(text) if text else {}

    def header(self, name: str) -> str:
        return self.request.headers.get(name, "")

    async def body(self, limit_bytes: int = BODY_LIMIT_BYTES) -> bytes:
        request = self.request
        if not request.body_exists:
            return b""
        self._continue()
        content = request.content
        chunks = []
        size = 0
        while chunk := await content.readany():
            size += len(chunk)
            if size > limit_bytes:
                raise BodyTooLarge
            chunks.append(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def decode(self, kind: type[T], default: T | None = None) -> T:
        """The JSON body as ``kind``; ``default`` is for an absent one."""
        body = await self.json_body()
        if not body and default is not None:
            return default
        return decode_body(body, kind)

    async def json_body(self) -> bytes:
        content_type = self.request.headers.get("Content-Type", "")
        body = await self.body()
        if not content_type and not body:
            return b""
        if content_type != "application/json":
            require_json_type(content_type)
        return body

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives. Raises ConnectionResetError when the client goes away before its end."""
        if not self.request.body_exists:
            return
        self._continue()
        content = self.request.content
        while chunk := await content.readany():
            yield chunk

    def _continue(self) -> None:
        """Tell a client that asked before sending its body to go on (RFC 9110, section 10.1.1)."""
        request = self.request
        if "Expect" in request.headers and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    @property
    def connection(self) -> Connection:
        return self.request.protocol  # type: ignore[return-value]

    @contextlib.contextmanager
    def ended_with_client(self) -> Iterator[None]:
        """The block is cancelled when the client goes away."""
        task = asyncio.current_task()
        connection = self.connection
        if task is None:
            yield
            return
        connection.watch(task)
        try:
            yield
        finally:
            connection.unwatch(task)


def require_json_type(content_type: str) -> None:
    kind = content_type.partition(";")[0].strip().lower()
    if not kind:
        raise InvalidArgument(f"malformed Content-Type header ({content_type}): mime: no media type")
    if kind != "application/json":
        raise InvalidArgument(f"unsupported Content-Type header ({content_type}): must be 'application/json'")


def parse_query(text: str) -> dict[str, list[str]]:
    """``a=1&a=2&b`` as Go's url.ParseQuery: values in order, a name alone has the value ""."""
    result: dict[str, list[str]] = {}
    for pair in text.split("&"):
        if not pair:
            continue
        key, _, value = pair.partition("=")
        if "%" in key or "+" in key:
            key = unquote_plus(key)
        if "%" in value or "+" in value:
            value = unquote_plus(value)
        result.setdefault(key, []).append(value)
    return result


def parse_filters(text: str) -> dict[str, list[str]]:
    """Raises InvalidArgument("invalid filter") as Docker does for anything that is neither form."""
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InvalidArgument("invalid filter") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidArgument("invalid filter")
    return {key: _filter_values(entry) for key, entry in value.items()}


def _filter_values(entry: Any) -> list[str]:
    if isinstance(entry, dict):
        if not all(isinstance(flag, bool) for flag in entry.values()):
            raise InvalidArgument("invalid filter")
        return list(entry)
    if isinstance(entry, list) and all(isinstance(item, str) for item in entry):
        return entry
    if entry is None:
        return []
    raise InvalidArgument("invalid filter")
