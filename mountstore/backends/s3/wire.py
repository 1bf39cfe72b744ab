"""One request to an S3 server: signed, sent, retried, and its answer read whole.

A request is tried again after a lost connection, a time-out, 408, 429, 5xx and a body that arrived
damaged (and three times after a clash of a file and a folder, which may be passing): after a wait of
random length (full jitter) below a bound that doubles each time, and not before what `Retry-After` says,
until `retry_deadline_s` has passed since the first try.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote

from mountstore.backends.s3 import sign
from mountstore.backends.s3.account import Account, Site
from mountstore.backends.s3.faults import CLASHES, EXPIRED, PreconditionAfterRetry, parse_fault
from mountstore.backends.s3.unfinished import Unfinished
from mountstore.errors import PreconditionFailed, StoreError, Unavailable
from mountstore.store import Data

if TYPE_CHECKING:
    import urllib3


_CLASH_TRIES = 3


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for what."""

    connect_timeout_s: float = 5.0
    read_timeout_s: float = 30.0
    retry_deadline_s: float = 60.0
    backoff_base_s: float = 0.1
    backoff_cap_s: float = 10.0

    def wait_s(self, tries: int, retry_after_s: float = 0.0) -> float:
        """How long to wait after so many tries."""
        bound = min(self.backoff_cap_s, self.backoff_base_s * 2.0 ** min(tries, 16))
        return max(random.uniform(0, bound), retry_after_s)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, its body read whole; header names are looked up in any case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Wire:
    """Sends requests to one bucket. Thread-safe."""

    def __init__(self, account: Account, patience: Patience, *, connections: int = 32) -> None:
        self.account = account
        self.patience = patience
        self.site = account.site()
        self.unfinished = Unfinished()
        self._connections = connections
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._pool = self._connect(self.site)

    @property
    def is_plain(self) -> bool:
        """Whether requests go over unencrypted HTTP, and straight to the server."""
        return self.site.scheme == "http" and self._pool.proxy is None

    @property
    def requests(self) -> dict[str, int]:
        """How many requests of each kind were sent so far, retries included."""
        with self._lock:
            return dict(self._counts)

    def count(self, kind: str) -> None:
        """Note that a request was sent, here or by obstore."""
        with self._lock:
            self._counts[kind] += 1

    def request(
        self,
        kind: str,
        method: str,
        key: str | None = None,
        *,
        query: sign.Query = (),
        headers: Mapping[str, str] | None = None,
        body: Data = b"",
        payload_sha256: str = sign.EMPTY_SHA256,
        shown_key: str | None = None,
        tries: int = 0,
        deadline_s: float | None = None,
    ) -> Reply:
        """Send until it is answered; returns what succeeded (2xx), raises what did not.

        `key` is the whole key in the bucket (None: the bucket itself), `shown_key` the one for messages,
        `kind` what it is counted as. `tries` of the same request were made before by other means.
        """
        what = f"of bucket {self.account.bucket}" if shown_key is None else repr(shown_key)
        doing = f"{kind} {what}"
        begun = time.monotonic()
        deadline = begun + (self.patience.retry_deadline_s if deadline_s is None else deadline_s)
        refreshed = moved = False
        if tries:
            time.sleep(min(self.patience.wait_s(tries), max(0.0, deadline - begun)))
        while True:
            retry_after_s = 0.0
            try:
                reply = self._send(kind, method, key, query, headers or {}, body, payload_sha256)
            except _TransportError as error:
                failure: StoreError = Unavailable(
                    f"{doing}: cannot reach {self.site.scheme}://{self.site.netloc}: {error} "
                    "(check the endpoint and the network)",
                    key=shown_key,
                )
            else:
                # CopyObject and CompleteMultipartUpload may say 200 first and report an error then.
                late = kind in ("COPY", "POST") and b"<Error>" in reply.body[:300]
                if reply.status < 300 and not late:
                    return reply
                status = reply.status if reply.status >= 300 else 500
                fault = parse_fault(status, reply.body, reply.headers.get("x-amz-bucket-region", ""))
                failure = fault.error(doing, bucket=self.account.bucket, key=shown_key)
                if fault.region and fault.region != self.site.region and not moved:
                    moved = True
                    self._move(fault.region)
                    continue
                if fault.code in EXPIRED and not refreshed:
                    refreshed = True
                    continue
                if not fault.retryable and not (fault.code in CLASHES and tries < _CLASH_TRIES):
                    if tries and isinstance(failure, PreconditionFailed):
                        raise PreconditionAfterRetry(str(failure), key=shown_key)
                    raise failure
                retry_after_s = _seconds(reply.headers.get("retry-after"))
            tries += 1
            wait_s = self.patience.wait_s(tries, retry_after_s)
            if time.monotonic() + wait_s > deadline:
                spent = f" (gave up after {tries} tries in {time.monotonic() - begun:.0f} s)"
                raise type(failure)(f"{failure}{spent}", key=shown_key)
            time.sleep(wait_s)

    def presigned(self, method: str, key: str, expires_s: int) -> str | None:
        """A URL for one request, or None for an anonymous account."""
        credentials = self.account.credentials()
        if credentials is None:
            return None
        site = self.site
        return sign.presigned_url(method, site, f"{site.path}/{sign.quote_key(key)}", expires_s, credentials)

    def close(self) -> None:
        self._pool.close()

    def _send(
        self,
        kind: str,
        method: str,
        key: str | None,
        query: sign.Query,
        headers: Mapping[str, str],
        body: Data,
        payload_sha256: str,
    ) -> Reply:
        import urllib3

        with self._lock:
            site, pool = self.site, self._pool
            self._counts[kind] += 1
        path = f"{site.path}/{sign.quote_key(key)}" if key is not None else site.path or "/"
        text = sign.quote_query(query)
        credentials = self.account.credentials()
        if credentials is None:
            sent = {**headers, "host": site.netloc}
        else:
            sent = sign.signed_headers(method, site, path, text, headers, payload_sha256, credentials)
        target = f"{path}?{text}" if text else path
        try:
            # An empty string is a body of Content-Length 0, where None would be no body at all.
            answer = pool.urlopen(
                method,
                f"{site.scheme}://{site.netloc}{target}" if pool.proxy and site.scheme == "http" else target,
                # urllib3 sends any buffer as it is, though its signature names bytes only.
                body=cast(bytes, body) if method in ("PUT", "POST") else None,
                headers=sent,
                retries=False,
                redirect=False,
                assert_same_host=False,
                preload_content=True,
                decode_content=False,
            )
        except urllib3.exceptions.HTTPError as error:
            raise _TransportError(_plain(error)) from error
        return Reply(answer.status, answer.headers, answer.data)

    def _move(self, region: str) -> None:
        site = self.account.site(region)
        with self._lock:
            self.site, self._pool = site, self._connect(site)

    def _connect(self, site: Site) -> urllib3.HTTPConnectionPool:
        import ssl
        from urllib.request import getproxies, proxy_bypass

        import urllib3

        options: dict[str, Any] = {
            "maxsize": self._connections,
            "block": False,
            "timeout": urllib3.Timeout(
                connect=self.patience.connect_timeout_s, read=self.patience.read_timeout_s
            ),
        }
        if site.scheme == "https":
            from botocore.httpsession import get_cert_path

            options["ssl_context"] = ssl.create_default_context(
                cafile=self.account.ca_bundle or get_cert_path(True)
            )
        proxy = getproxies().get(site.scheme)
        if proxy and not proxy_bypass(site.host):
            own = {}
            if "@" in proxy:
                login = unquote(proxy.partition("://")[2].rpartition("@")[0])
                own = urllib3.make_headers(proxy_basic_auth=login)
            return urllib3.ProxyManager(proxy, proxy_headers=own, **options).connection_from_host(
                site.host, site.port, site.scheme
            )
        if site.scheme == "https":
            return urllib3.HTTPSConnectionPool(site.host, site.port, **options)
        return urllib3.HTTPConnectionPool(site.host, site.port, **options)


class _TransportError(Exception):
    """No answer came."""


def _plain(error: Exception) -> str:
    """A few words for a person, from urllib3's nested errors."""
    import urllib3

    deepest: BaseException = error
    while deepest.__cause__ is not None or deepest.__context__ is not None:
        deepest = deepest.__cause__ or deepest.__context__ or deepest
    # A refused connection is a NewConnectionError, which is a ConnectTimeoutError by descent.
    refused = isinstance(error, urllib3.exceptions.NewConnectionError)
    if isinstance(error, urllib3.exceptions.ConnectTimeoutError) and not refused:
        return "no connection within the time-out"
    if isinstance(error, urllib3.exceptions.ReadTimeoutError):
        return "no answer within the time-out"
    if isinstance(deepest, OSError) and deepest.strerror:
        return deepest.strerror
    return str(deepest).splitlines()[0] if str(deepest) else type(deepest).__name__


def _seconds(text: str | None) -> float:
    try:
        return max(0.0, float(text)) if text else 0.0
    except ValueError:
        # RFC 9110 also allows a date.
        from email.utils import parsedate_to_datetime

        try:
            return max(0.0, parsedate_to_datetime(str(text)).timestamp() - time.time())
        except ValueError:
            return 0.0
