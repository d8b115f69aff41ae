"""The daemon's own log: one line per record on standard error, which systemd keeps."""

from __future__ import annotations

import json
import logging
import sys
import time

LEVELS = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "fatal": logging.CRITICAL,
    "panic": logging.CRITICAL,
}
_NAMES = {"WARNING": "warn", "CRITICAL": "fatal"}


def _stamp(created: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(created))
    return f"{whole}.{int(created * 1000) % 1000:03d}Z"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """``time=... level=... msg=...``, as tools that read dockerd's log expect."""

    def format(self, record: logging.LogRecord) -> str:
        level = _NAMES.get(record.levelname, record.levelname.lower())
        line = f'time="{_stamp(record.created)}" level={level} msg={_quoted(record.getMessage())}'
        line += f" module={record.name}" if record.levelno != logging.INFO else ""
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """One object per line."""

    def format(self, record: logging.LogRecord) -> str:
        value = {
            "time": _stamp(record.created),
            "level": _NAMES.get(record.levelname, record.levelname.lower()),
            "msg": record.getMessage(),
            "module": record.name,
        }
        if record.exc_info:
            value["error"] = self.formatException(record.exc_info)
        return json.dumps(value, ensure_ascii=False)


def set_up(level: str, form: str, *, debug: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    set_level(level, debug=debug)


def set_level(level: str, *, debug: bool) -> None:
    logging.getLogger().setLevel(logging.DEBUG if debug else LEVELS[level])
    logging.getLogger("asyncio").setLevel(logging.WARNING)
