"""The kinds of errors. A domain error subclasses one of them next to its domain; each front end maps
kinds to its own status numbers in one table. Nothing parses messages.

A message names the object and says what to do next; where clients match on Docker's text, it is Docker's.
"""

from __future__ import annotations


class SampanError(Exception):
    """Base of every error that is an answer to the caller rather than a defect of ours."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidArgument(SampanError):
    """The request can never be right as it stands (HTTP 400)."""


class Unauthorized(SampanError):
    """Credentials are missing or wrong (HTTP 401)."""


class Forbidden(SampanError):
    """The caller is known but may not do this (HTTP 403)."""


class NotFound(SampanError):
    """The object does not exist (HTTP 404)."""


class Conflict(SampanError):
    """The object is in a state or has a name that excludes the request (HTTP 409)."""


class NotModified(SampanError):
    """The object is already as requested (HTTP 304)."""


class ResourceExhausted(SampanError):
    """Disk, memory, addresses or a quota ran out (HTTP 500 in Docker's table, 507 in ours for disk)."""


class FailedPrecondition(SampanError):
    """The host lacks something the request needs (HTTP 500 with Docker's text)."""


class Unavailable(SampanError):
    """A part of the system that the request needs does not answer now; a retry can succeed (HTTP 503)."""


class NotImplementedYet(SampanError):
    """Docker has it, Sampan does not yet (HTTP 501). Listed in docs/compatibility.md."""


class Cancelled(SampanError):
    """The caller went away or withdrew the request (HTTP 499)."""


class SystemFailure(SampanError):
    """The kernel or the disk refused something that should have worked (HTTP 500)."""
