"""Signature Version 4, as https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-authenticating-requests.html
has it for S3: the path is encoded once and not normalised, so that every key is signed as it is."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from urllib.parse import quote

from mountstore.backends.s3.account import Credentials, Site

UNSIGNED = "UNSIGNED-PAYLOAD"
EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
Query = Iterable[tuple[str, str]]


def quote_key(key: str) -> str:
    """A key as the path of a request: each byte but unreserved characters and the slash is escaped."""
    return quote(key, safe="/")


def quote_query(query: Query) -> str:
    """A query string in the canonical order."""
    return "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in sorted(query))


def signed_headers(
    method: str,
    site: Site,
    path: str,
    query: str,
    headers: Mapping[str, str],
    payload_sha256: str,
    credentials: Credentials,
    now: datetime | None = None,
) -> dict[str, str]:
    """`headers` (lower case names) with those that sign the request; path and query come quoted."""
    stamp = _stamp(now)
    everything = {
        **headers,
        "host": site.netloc,
        "x-amz-content-sha256": payload_sha256,
        "x-amz-date": stamp,
    }
    if credentials.token:
        everything["x-amz-security-token"] = credentials.token
    names = sorted(everything)
    canonical = "\n".join(
        [
            method,
            path,
            query,
            *(f"{name}:{' '.join(everything[name].split())}" for name in names),
            "",
            ";".join(names),
            payload_sha256,
        ]
    )
    signature = _signature(canonical, stamp, site.region, credentials)
    everything["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={credentials.access_key}/{_scope(stamp, site.region)}, "
        f"SignedHeaders={';'.join(names)}, Signature={signature}"
    )
    return everything


def presigned_url(
    method: str, site: Site, path: str, expires_s: int, credentials: Credentials, now: datetime | None = None
) -> str:
    """A URL that lets its holder make this one request until it expires."""
    stamp = _stamp(now)
    query = {
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": f"{credentials.access_key}/{_scope(stamp, site.region)}",
        "X-Amz-Date": stamp,
        "X-Amz-Expires": str(expires_s),
        "X-Amz-SignedHeaders": "host",
    }
    if credentials.token:
        query["X-Amz-Security-Token"] = credentials.token
    text = quote_query(query.items())
    canonical = "\n".join([method, path, text, f"host:{site.netloc}", "", "host", UNSIGNED])
    signature = _signature(canonical, stamp, site.region, credentials)
    return f"{site.scheme}://{site.netloc}{path}?{text}&X-Amz-Signature={signature}"


def _stamp(now: datetime | None) -> str:
    return (now or datetime.now(UTC)).strftime("%Y%m%dT%H%M%SZ")


def _scope(stamp: str, region: str) -> str:
    return f"{stamp[:8]}/{region}/s3/aws4_request"


def _signature(canonical: str, stamp: str, region: str, credentials: Credentials) -> str:
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{_scope(stamp, region)}\n{digest}"
    return hmac.new(
        _signing_key(credentials.secret_key, stamp[:8], region), text.encode(), "sha256"
    ).hexdigest()


@lru_cache(maxsize=8)
def _signing_key(secret: str, day: str, region: str) -> bytes:
    key = b"AWS4" + secret.encode()
    for part in (day, region, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key
