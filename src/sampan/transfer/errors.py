"""What registries answer instead of what was asked for."""

from __future__ import annotations

import msgspec

from sampan.base.errors import InvalidArgument, SampanError, SystemFailure

DENIED = "DENIED"
MANIFEST_UNKNOWN = "MANIFEST_UNKNOWN"
NAME_UNKNOWN = "NAME_UNKNOWN"
BLOB_UNKNOWN = "BLOB_UNKNOWN"
MANIFEST_BLOB_UNKNOWN = "MANIFEST_BLOB_UNKNOWN"
DIGEST_INVALID = "DIGEST_INVALID"
UNAUTHORIZED = "UNAUTHORIZED"
TOO_MANY_REQUESTS = "TOOMANYREQUESTS"
UNKNOWN = "UNKNOWN"
RANGE_NOT_SATISFIABLE = 416

BROKEN_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What a document that is none, or that is nested without end, makes of the decoder."""

_BY_STATUS = {
    401: (UNAUTHORIZED, "authentication required"),
    403: (DENIED, "requested access to the resource is denied"),
    404: (NAME_UNKNOWN, "repository name not known to registry"),
    429: (TOO_MANY_REQUESTS, "too many requests"),
}


class RegistryRefused(SystemFailure):
    """An error answer. ``code`` is one of distribution-spec's "Error Codes", ``status`` HTTP's.

    Also for 401 of a kind that becomes no 401 of ours: ``docker pull`` would ask for a password then, and
    wait for ever where nobody types one.
    """

    def __init__(self, status: int, code: str, detail: str, retry_after_s: float = 0.0) -> None:
        super().__init__(f"{code.lower().replace('_', ' ')}: {detail}")
        self.status = status
        self.code = code
        self.retry_after_s = retry_after_s
        """When the registry wants to be asked again; 0 when it does not say."""


class RegistryFailed(RegistryRefused):
    """The registry has troubles of its own (5xx), in the words of Docker's client."""

    def __init__(self, status: int, reason: str, detail: str, retry_after_s: float = 0.0) -> None:
        super().__init__(status, UNKNOWN, detail, retry_after_s)
        self.message = f"received unexpected HTTP status: {status} {reason}{': ' if detail else ''}{detail}"
        self.args = (self.message,)


class NoCredentials(RegistryRefused):
    """The registry wants a name and a password, and none were given."""

    def __init__(self, method: str, url: str) -> None:
        super().__init__(401, UNAUTHORIZED, "authentication required")
        self.message = f'{method.capitalize()} "{url}": no basic auth credentials'
        self.args = (self.message,)


class RegistryUnreachable(SystemFailure):
    """No answer, or a broken one. ``connected`` is False when there was not even a connection."""

    def __init__(self, method: str, url: str, reason: str, *, connected: bool = True) -> None:
        super().__init__(f'{method.capitalize()} "{url}": {reason}')
        self.connected = connected


class WrongAnswer(RegistryUnreachable):
    """It will be as wrong the next time: a redirect that leads nowhere, a token that cannot be read."""


class TooSlow(RegistryUnreachable):
    """Bytes come, but so few that waiting for the rest would have no end."""


class ContentMismatch(SystemFailure):
    """What a registry sent has another digest or size than it was asked for."""


class UnsupportedManifest(InvalidArgument):
    """A manifest that is no image for this engine."""


class NoMatchingPlatform(SampanError):
    """The index has nothing for the platform."""


def refused(
    status: int, code: str = "", detail: str = "", *, reason: str = "", retry_after_s: float = 0.0
) -> RegistryRefused:
    """The error of an answer; what it does not say is filled in from its status."""
    if status >= 500:
        return RegistryFailed(status, reason, detail, retry_after_s)
    usual_code, usual_detail = _BY_STATUS.get(status, (UNKNOWN, f"unexpected status {status}"))
    return RegistryRefused(status, code or usual_code, detail or usual_detail, retry_after_s)
