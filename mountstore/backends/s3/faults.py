"""The one table from the errors of S3 and its imitators to ours."""

from __future__ import annotations

import re
from dataclasses import dataclass
from xml.etree import ElementTree

from mountstore.errors import (
    AccessDenied,
    Corrupted,
    InvalidKey,
    InvalidRange,
    NotFound,
    PreconditionFailed,
    StoreError,
    StoreFull,
    Unavailable,
    Unsupported,
)


class NoSuchBucket(StoreError):
    """The bucket itself is not there."""


class NoSuchUpload(StoreError):
    """A multipart upload has ended: completed by a try whose answer was lost, or aborted."""


class InvalidPart(StoreError):
    """A multipart upload cannot end: the server has other parts than were named."""


class PreconditionAfterRetry(PreconditionFailed):
    """A condition failed, but on a retry: what failed it may be our own earlier try."""


_CODES: dict[str, type[StoreError]] = {
    "NoSuchBucket": NoSuchBucket,
    "NoSuchKey": NotFound,
    "NotFound": NotFound,
    "NoSuchUpload": NoSuchUpload,
    "InvalidPart": InvalidPart,
    "PreconditionFailed": PreconditionFailed,
    "InvalidRange": InvalidRange,
    # keys
    "KeyTooLongError": InvalidKey,
    "InvalidURI": InvalidKey,
    "XMinioInvalidObjectName": InvalidKey,
    "XMinioInvalidResourceName": InvalidKey,
    "XMinioParentIsObject": InvalidKey,
    "XMinioObjectExistsAsDirectory": InvalidKey,
    "ObjectParentIsFile": InvalidKey,
    "ExistingObjectIsDirectory": InvalidKey,
    "DirectoryObjectContainsData": InvalidKey,
    # credentials
    "AccessDenied": AccessDenied,
    "AccountProblem": AccessDenied,
    "AllAccessDisabled": AccessDenied,
    "AuthorizationHeaderMalformed": AccessDenied,
    "ExpiredToken": AccessDenied,
    "InvalidAccessKeyId": AccessDenied,
    "InvalidSecurity": AccessDenied,
    "InvalidToken": AccessDenied,
    "RequestTimeTooSkewed": AccessDenied,
    "SignatureDoesNotMatch": AccessDenied,
    "TokenRefreshRequired": AccessDenied,
    "XAdminUserNotFound": AccessDenied,
    # room
    "EntityTooLarge": StoreFull,
    "InsufficientCapacity": StoreFull,
    "QuotaExceeded": StoreFull,
    "XMinioAdminBucketQuotaExceeded": StoreFull,
    "XMinioStorageFull": StoreFull,
    # bodies
    "BadDigest": Corrupted,
    "InvalidDigest": Corrupted,
    "XAmzContentChecksumMismatch": Corrupted,
    "XAmzContentSHA256Mismatch": Corrupted,
    # features
    "MetadataTooLarge": Unsupported,
    "MethodNotAllowed": Unsupported,
    "NotImplemented": Unsupported,
    # later
    "ConditionalRequestConflict": Unavailable,
    "InternalError": Unavailable,
    "OperationAborted": Unavailable,
    "RequestTimeout": Unavailable,
    "ServiceUnavailable": Unavailable,
    "SlowDown": Unavailable,
    "XMinioServerNotInitialized": Unavailable,
}
_STATUSES: dict[int, type[StoreError]] = {
    401: AccessDenied,
    403: AccessDenied,
    404: NotFound,
    405: Unsupported,
    408: Unavailable,
    412: PreconditionFailed,
    416: InvalidRange,
    429: Unavailable,
    501: Unsupported,
    507: StoreFull,
}
_ADVICE = {
    "ExpiredToken": "log in again",
    "InvalidAccessKeyId": "check the access key",
    "XAdminUserNotFound": "check the access key",
    "RequestTimeTooSkewed": "set this machine's clock",
    "SignatureDoesNotMatch": "check the secret key",
    "AccessDenied": "check what these credentials may do",
}
# versitygw says so also while another request is making or removing the folder.
CLASHES = frozenset({"ObjectParentIsFile", "ExistingObjectIsDirectory"})
EXPIRED = frozenset({"ExpiredToken", "InvalidToken", "TokenRefreshRequired"})


@dataclass(frozen=True, slots=True)
class Fault:
    """What a server said instead of doing as asked."""

    status: int
    code: str
    message: str
    region: str

    @property
    def kind(self) -> type[StoreError]:
        known = _CODES.get(self.code) or _STATUSES.get(self.status)
        return known or (Unavailable if self.status >= 500 else StoreError)

    @property
    def retryable(self) -> bool:
        return issubclass(self.kind, (Unavailable, Corrupted))

    def error(self, doing: str, *, bucket: str, key: str | None) -> StoreError:
        """Ours, in one line."""
        kind = self.kind
        if kind is NoSuchBucket:
            return NoSuchBucket(f"no such bucket: {bucket} (create it, or check the name)")
        if kind is NotFound:
            return NotFound(key=key)
        said = ": ".join(part for part in (self.code, self.message) if part) or f"HTTP status {self.status}"
        advice = f" ({_ADVICE[self.code]})" if self.code in _ADVICE else ""
        return kind(f"{doing}: {said}{advice}", key=key)


def parse_fault(status: int, body: bytes, region: str = "") -> Fault:
    """Read an answer that is an error; a HEAD's has no body, a proxy's may be anything."""
    try:
        root = ElementTree.fromstring(body) if body else None
    except ElementTree.ParseError:
        root = None
    if root is None or not root.tag.endswith("Error"):
        return Fault(status, "", "", region)
    found = {child.tag.rpartition("}")[2]: child.text or "" for child in root}
    message = re.sub(r"\s+", " ", found.get("Message", "")).strip()[:200]
    return Fault(status, found.get("Code", ""), message, region or found.get("Region", ""))
