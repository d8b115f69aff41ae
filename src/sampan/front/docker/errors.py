"""One total table from kinds of errors to HTTP status, as moby's httpstatus package does for its own."""

from __future__ import annotations

import logging
import os

from sampan.base import errors as kinds

log = logging.getLogger(__name__)

STATUS: dict[type[kinds.SampanError], int] = {
    kinds.InvalidArgument: 400,
    kinds.Unauthorized: 401,
    kinds.Forbidden: 403,
    kinds.NotFound: 404,
    kinds.Conflict: 409,
    kinds.NotModified: 304,
    kinds.ResourceExhausted: 500,
    kinds.FailedPrecondition: 500,
    kinds.Unavailable: 503,
    kinds.NotImplementedYet: 501,
    kinds.Cancelled: 499,
    kinds.SystemFailure: 500,
    kinds.SampanError: 500,
}
"""Docker answers 500 where another protocol would have said "exhausted" or "precondition failed"."""


def status_of(error: kinds.SampanError) -> int:
    """The status of the nearest kind in the error's ancestry."""
    for kind in type(error).__mro__:
        status = STATUS.get(kind)
        if status is not None:
            return status
    return 500


def explain(error: BaseException, operation: str) -> tuple[int, str]:
    """Status and message for any exception. A defect of ours gets an id that the log also has."""
    if isinstance(error, kinds.SampanError):
        status = status_of(error)
        if status >= 500 and status not in (501, 503):
            log.error("%s: %s", operation, error.message)
        return status, error.message
    incident = os.urandom(6).hex()
    log.error("%s: internal error %s", operation, incident, exc_info=error)
    return 500, f"internal error {incident}: {type(error).__name__}: {error} (see the daemon's log)"
