"""When a request is made again, and how long to wait before. Pure, but for chance."""

from __future__ import annotations

import email.utils
import random
import time

from .errors import RegistryRefused, RegistryUnreachable, WrongAnswer

LONGEST_PAUSE_S = 120.0
"""Who asks us to come back later than that is not waited for: the caller is told instead."""
_RETRIED = (429, 500, 502, 503, 504)


def retry_after_s(text: str, now_s: float | None = None) -> float:
    """Seconds that a ``Retry-After`` asks for, as a number or a date (RFC 9110, 10.2.3); 0 for anything
    else."""
    text = text.strip()
    if text.isdigit() and text.isascii() and len(text) < 10:
        return float(text)
    try:
        moment = email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return max(moment - (time.time() if now_s is None else now_s), 0.0)


def is_passing(error: RegistryRefused | RegistryUnreachable) -> bool:
    """Whether the same request may succeed a little later."""
    if isinstance(error, RegistryUnreachable):
        return error.connected and not isinstance(error, WrongAnswer)
    return error.status in _RETRIED and error.retry_after_s <= LONGEST_PAUSE_S


def pause_s(error: RegistryRefused | RegistryUnreachable, attempt: int, first_s: float) -> float:
    """How long to wait after an attempt, counted from 0: twice as long each time, or as the registry asks."""
    wait_s: float = first_s * 2.0 ** min(attempt, 16) * random.uniform(0.8, 1.2)  # noqa: S311 - spreads load
    if isinstance(error, RegistryRefused):
        wait_s = max(wait_s, error.retry_after_s)
    return min(wait_s, LONGEST_PAUSE_S)
