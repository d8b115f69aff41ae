"""One total table from refusals to HTTP status, and their JSON (distribution-spec 1.1, "Error Codes")."""

from __future__ import annotations

import logging
import os

import msgspec

from sampan.base import errors as kinds
from sampan.registry import errors

log = logging.getLogger(__name__)

STATUS: dict[type[kinds.SampanError], int] = {
    errors.ManifestBlobUnknown: 404,
    errors.ManifestTooLarge: 413,
    errors.RangeInvalid: 416,
    errors.PreconditionFailed: 412,
    errors.Unsupported: 405,
    errors.TooManyRequests: 429,
    errors.BodyTimeout: 408,
    kinds.InvalidArgument: 400,
    kinds.Unauthorized: 401,
    kinds.Forbidden: 403,
    kinds.NotFound: 404,
    kinds.Conflict: 409,
    kinds.NotModified: 304,
    kinds.ResourceExhausted: 507,
    kinds.FailedPrecondition: 500,
    kinds.Unavailable: 503,
    kinds.NotImplementedYet: 501,
    kinds.Cancelled: 499,
    kinds.SystemFailure: 500,
    kinds.SampanError: 500,
}
UNKNOWN = "UNKNOWN"
"""The code of what the specification has none for: failures of the server's own."""


class ErrorEntry(msgspec.Struct, frozen=True):
    code: str
    message: str
    detail: object = None


class ErrorBody(msgspec.Struct, frozen=True):
    errors: list[ErrorEntry]


def status_of(error: kinds.SampanError) -> int:
    """The status of the nearest class in the error's ancestry."""
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)


def explain(error: BaseException, operation: str) -> tuple[int, ErrorBody]:
    """Status and body for any exception. A defect of ours gets an id that the log also has."""
    if isinstance(error, errors.ManifestBlobUnknown):
        entries = [
            ErrorEntry(error.code, f"manifest refers to {digest}, not in this repository", {"digest": digest})
            for digest in error.digests[:100]
        ]
        return 404, ErrorBody(entries)
    if isinstance(error, kinds.SampanError):
        status = status_of(error)
        if status >= 500:
            log.error("%s: %s", operation, error.message)
        code = error.code if isinstance(error, errors.RegistryRefusal) else UNKNOWN
        detail = error.detail if isinstance(error, errors.RegistryRefusal) else None
        return status, ErrorBody([ErrorEntry(code, error.message, detail)])
    incident = os.urandom(6).hex()
    log.error("%s: internal error %s", operation, incident, exc_info=error)
    return 500, ErrorBody([ErrorEntry(UNKNOWN, f"internal error {incident} (see the registry's log)")])
