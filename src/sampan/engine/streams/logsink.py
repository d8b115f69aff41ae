"""Where a container's output is logged, from its LogConfig. Pure."""

from __future__ import annotations

import re

import msgspec

from sampan.base.errors import InvalidArgument
from sampan.base.ids import short_id
from sampan.formats.size import parse_decimal
from sampan.model.container import Container
from sampan.model.launch import LogSink

UNLIMITED = -1
_OPTION_WORDS = "max-file max-size compress labels labels-regex env env-regex tag mode max-buffer-size"
_OPTIONS = frozenset(_OPTION_WORDS.split())
FILE_DRIVERS = ("json-file", "local", "")


def log_sink(record: Container, path: str) -> LogSink | None:
    """None for ``--log-driver none``. Raises InvalidArgument for options that json-file does not have."""
    config = record.host.log_config
    if config.type == "none":
        return None
    if config.type not in FILE_DRIVERS:
        raise InvalidArgument(f"logger: no log driver named '{config.type}' is registered")
    options = config.config or {}
    for name in options:
        if name not in _OPTIONS:
            raise InvalidArgument(f"unknown log opt '{name}' for {config.type or 'json-file'} log driver")
    compress = options.get("compress", "false").lower() in ("1", "t", "true")
    bounded = LogSink(path=path)  # unless told otherwise
    size = _max_size(options["max-size"]) if "max-size" in options else bounded.max_size_bytes
    files = 1 if "max-size" in options else bounded.max_files
    if "max-file" in options:
        files = _max_files(options["max-file"])
    if compress and (files == 1 or size == UNLIMITED):
        raise InvalidArgument("compress cannot be true when max-file is less than 2 or max-size is not set")
    return LogSink(
        path=path,
        max_size_bytes=size,
        max_files=files,
        compress=compress,
        attributes=attributes(record, options),
    )


def attributes(record: Container, options: dict[str, str]) -> str:
    """The JSON object of labels, environment and tag that the options select, or ""."""
    found: dict[str, str] = {}
    labels = record.config.labels or {}
    environment = dict(entry.partition("=")[::2] for entry in record.config.env or ())
    for values, names, pattern in (
        (labels, options.get("labels", ""), options.get("labels-regex", "")),
        (environment, options.get("env", ""), options.get("env-regex", "")),
    ):
        wanted = {name for name in names.split(",") if name}
        matcher = re.compile(pattern) if pattern else None
        found |= {
            name: value
            for name, value in values.items()
            if name in wanted or (matcher and matcher.search(name))
        }
    if tag := options.get("tag"):
        found["tag"] = _render_tag(tag, record)
    return msgspec.json.encode(found).decode() if found else ""


def _render_tag(template: str, record: Container) -> str:
    """Docker's fields in Go-template braces; unknown ones stay as they are."""
    fields = {
        "ID": short_id(record.id),
        "FullID": record.id,
        "Name": record.name,
        "ImageName": record.image_ref,
        "ImageID": short_id(record.image_id),
        "ImageFullID": record.image_id,
        "DaemonName": "docker",
    }
    return re.sub(r"\{\{\s*\.(\w+)\s*\}\}", lambda match: fields.get(match[1], match[0]), template)


def _max_size(text: str) -> int:
    """``10m`` in powers of 1000, as Docker reads it here; -1 for no bound."""
    if text == "-1":
        return UNLIMITED
    try:
        size = parse_decimal(text)
    except ValueError as error:
        raise InvalidArgument(str(error)) from None
    if size <= 0:
        raise InvalidArgument("max-size must be a positive number")
    return size


def _max_files(text: str) -> int:
    try:
        files = int(text)
    except ValueError:
        raise InvalidArgument(f'strconv.Atoi: parsing "{text}": invalid syntax') from None
    if files < 1:
        raise InvalidArgument("max-file cannot be less than 1")
    return files
