"""Who asks, and where: credentials, region and endpoint, as every tool built on boto3 finds them."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from mountstore.errors import AccessDenied, UsageError

if TYPE_CHECKING:
    from obstore.store import S3Credential

DEFAULT_REGION = "us-east-1"
# obstore asks again once less than five minutes are left; botocore itself refreshes what it holds
# ten to fifteen minutes before the end, so what is handed on is never stale.
PROVIDER_TTL = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Credentials:
    """One usable set, at one moment. Never shown."""

    access_key: str
    secret_key: str
    token: str | None

    def __repr__(self) -> str:
        return "Credentials(...)"


@dataclass(frozen=True, slots=True)
class Site:
    """Where the bucket is: `base` is the URL under which keys are appended after a slash."""

    scheme: str
    host: str
    port: int
    path: str  # quoted, without a slash at its end: "/bucket", or "" for bucket.host
    region: str

    @property
    def netloc(self) -> str:
        default = {"http": 80, "https": 443}[self.scheme]
        return self.host if self.port == default else f"{self.host}:{self.port}"

    @property
    def base(self) -> str:
        return f"{self.scheme}://{self.netloc}{self.path}"

    @property
    def loopback(self) -> bool:
        return self.host in ("localhost", "::1", "[::1]") or self.host.startswith("127.")


class Account:
    """Credentials that stay fresh, and the way to a bucket in a region. Thread-safe."""

    def __init__(
        self,
        bucket: str,
        *,
        endpoint: str | None = None,
        region: str | None = None,
        profile: str | None = None,
        anonymous: bool = False,
        addressing_style: str | None = None,
        client: Any = None,
    ) -> None:
        import botocore.session

        if not bucket or "/" in bucket:
            raise UsageError(f"{bucket!r} is no bucket name: give it as s3://BUCKET/PREFIX")
        self.bucket = bucket
        self.anonymous = anonymous
        self._lock = threading.Lock()
        self._resolved: Any = None
        if client is not None:
            self._resolved = client._request_signer._credentials
            endpoint = endpoint or client.meta.endpoint_url
            region = region or client.meta.region_name
        session = botocore.session.Session(profile=profile)
        self._session = session
        try:
            self.endpoint = endpoint or _configured_endpoint(session)
            self.region = region or session.get_config_variable("region") or DEFAULT_REGION
            self.ca_bundle: str | None = session.get_config_variable("ca_bundle")
            configured = (session.get_scoped_config().get("s3") or {}).get("addressing_style")
        except Exception as error:
            raise UsageError(f"the AWS configuration cannot be read: {error}") from error
        self.addressing_style = addressing_style or configured or "auto"

    def site(self, region: str | None = None) -> Site:
        """The bucket's place, in `region` if it turned out to be another than configured."""
        region = region or self.region
        suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
        endpoint = self.endpoint
        if endpoint and urlsplit(endpoint).netloc.endswith(f".{suffix}"):
            endpoint = None if region != self.region else endpoint
        parts = urlsplit(endpoint or f"https://s3.{region}.{suffix}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"{endpoint!r} is no endpoint: give a URL like https://s3.example.com:9000")
        own = not parts.netloc.endswith(suffix)
        virtual = self.addressing_style == "virtual" or (
            self.addressing_style == "auto" and not own and "." not in self.bucket
        )
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        path = parts.path.rstrip("/")
        if virtual:
            host = f"{self.bucket}.{host}"
        else:
            path = f"{path}/{self.bucket}"
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        return Site(parts.scheme, host, port, path, region)

    def credentials(self) -> Credentials | None:
        """What to sign with now; None to send requests unsigned. Raises AccessDenied if there is none."""
        if self.anonymous:
            return None
        with self._lock:
            if self._resolved is None:
                self._resolved = _translated(self._session.get_credentials)
            resolved = self._resolved
        if resolved is None:
            raise AccessDenied(
                "no AWS credentials found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
                "choose a profile, or ask for anonymous access"
            )
        frozen = _translated(resolved.get_frozen_credentials)
        return Credentials(frozen.access_key, frozen.secret_key, frozen.token)

    def provide(self) -> S3Credential:
        """The same for obstore, which calls this when what it holds runs out."""
        credentials = self.credentials()
        assert credentials is not None, "an anonymous store has no provider"
        refreshable = hasattr(self._resolved, "refresh_needed")
        return {
            "access_key_id": credentials.access_key,
            "secret_access_key": credentials.secret_key,
            "token": credentials.token,
            "expires_at": datetime.now(UTC) + PROVIDER_TTL if refreshable else None,
        }


def _configured_endpoint(session: Any) -> str | None:
    from botocore.configprovider import ConfiguredEndpointProvider

    ignored = session.get_config_variable("ignore_configured_endpoint_urls")
    if ignored and str(ignored).lower() != "false":
        return None
    provider = ConfiguredEndpointProvider(
        full_config=session.full_config, scoped_config=session.get_scoped_config(), client_name="s3"
    )
    endpoint: str | None = provider.provide()
    return endpoint


def _translated(call: Any) -> Any:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return call()
    except (BotoCoreError, ClientError) as error:
        line = str(error).splitlines()[0]
        raise AccessDenied(f"no usable AWS credentials: {line} (log in again?)") from error
