"""What a registry refuses, with the codes of distribution-spec 1.1 ("Error Codes") that clients match on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from sampan.base import errors as kinds


class RegistryRefusal(kinds.SampanError):
    """Has the specification's code; ``detail`` is what a program may want to know (a JSON value)."""

    code: ClassVar[str] = "UNSUPPORTED"

    def __init__(self, message: str, detail: object = None) -> None:
        super().__init__(message)
        self.detail = detail


class NameInvalid(RegistryRefusal, kinds.InvalidArgument):
    code = "NAME_INVALID"


class TagInvalid(RegistryRefusal, kinds.InvalidArgument):
    code = "TAG_INVALID"


class NameUnknown(RegistryRefusal, kinds.NotFound):
    code = "NAME_UNKNOWN"


class BlobUnknown(RegistryRefusal, kinds.NotFound):
    code = "BLOB_UNKNOWN"


class BlobInUse(RegistryRefusal, kinds.Conflict):
    """A manifest of the repository needs it."""

    code = "DENIED"


class UploadUnknown(RegistryRefusal, kinds.NotFound):
    code = "BLOB_UPLOAD_UNKNOWN"


class UploadInvalid(RegistryRefusal, kinds.InvalidArgument):
    code = "BLOB_UPLOAD_INVALID"


class RangeInvalid(RegistryRefusal, kinds.InvalidArgument):
    """A chunk does not begin where the upload ends, or a part of a blob that is not there was asked for
    (HTTP 416)."""

    code = "BLOB_UPLOAD_INVALID"

    def __init__(self, message: str, size_bytes: int) -> None:
        super().__init__(message)
        self.size_bytes = size_bytes
        """What there is."""


class DigestInvalid(RegistryRefusal, kinds.InvalidArgument):
    code = "DIGEST_INVALID"


class SizeInvalid(RegistryRefusal, kinds.InvalidArgument):
    code = "SIZE_INVALID"


class ManifestUnknown(RegistryRefusal, kinds.NotFound):
    code = "MANIFEST_UNKNOWN"


class ManifestInvalid(RegistryRefusal, kinds.InvalidArgument):
    code = "MANIFEST_INVALID"


class ManifestTooLarge(RegistryRefusal, kinds.InvalidArgument):
    """HTTP 413."""

    code = "MANIFEST_INVALID"


class ManifestBlobUnknown(RegistryRefusal, kinds.NotFound):
    """``digests``: what the manifest refers to and the repository does not have."""

    code = "MANIFEST_BLOB_UNKNOWN"

    def __init__(self, digests: list[str]) -> None:
        super().__init__(
            f"manifest refers to {', '.join(digests)}, not in this repository: push it first", digests
        )
        self.digests = digests


class Unauthenticated(RegistryRefusal, kinds.Unauthorized):
    """``challenge``: the value of WWW-Authenticate; empty: the authenticator's own for the request."""

    code = "UNAUTHORIZED"

    def __init__(self, message: str, challenge: str = "") -> None:
        super().__init__(message)
        self.challenge = challenge


class Denied(RegistryRefusal, kinds.Forbidden):
    code = "DENIED"


class QuotaExceeded(RegistryRefusal, kinds.Forbidden):
    code = "DENIED"


class TagImmutable(RegistryRefusal, kinds.Conflict):
    code = "DENIED"


class Unsupported(RegistryRefusal, kinds.InvalidArgument):
    """HTTP 405; ``methods`` are those that are supported there."""

    code = "UNSUPPORTED"

    def __init__(self, message: str, methods: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.methods = sorted(methods)


class TooManyRequests(RegistryRefusal, kinds.Unavailable):
    """HTTP 429; ``retry_after_s`` becomes Retry-After."""

    code = "TOOMANYREQUESTS"

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class StorageFull(RegistryRefusal, kinds.ResourceExhausted):
    """HTTP 507."""

    code = "DENIED"


class ManifestInUse(RegistryRefusal, kinds.Conflict):
    """An index of the repository needs it."""

    code = "DENIED"


class PreconditionFailed(RegistryRefusal, kinds.Conflict):
    """If-Match or If-None-Match does not hold (HTTP 412)."""

    code = "DENIED"


class BodyTimeout(RegistryRefusal, kinds.Unavailable):
    """The rest of a request does not come, or too slowly (HTTP 408)."""

    code = "BLOB_UPLOAD_INVALID"
