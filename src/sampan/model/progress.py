"""Lines of progress, as load, import, pull and build stream them (moby's jsonmessage)."""

from __future__ import annotations

from typing import Any

import msgspec


class ProgressDetail(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    current: int = 0
    total: int = 0
    units: str = ""


class ErrorDetail(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    code: int = 0
    message: str = ""


class ProgressMessage(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One line; the fields are Docker's. ``progress_detail`` is the machine's view of ``progress``."""

    stream: str = ""
    status: str = ""
    progress_detail: ProgressDetail | None = None
    progress: str = ""
    id: str = ""
    error_detail: ErrorDetail | None = None
    error: str = ""
    aux: dict[str, Any] | None = None
