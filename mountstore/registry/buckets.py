"""Buckets that one URL names with all that reaches them: the original's forms, and those of B2.

    (s3|b2):[PROFILE@|KEY:SECRET@][https://HOST[:PORT]]/BUCKET/PATH     as it stands, nothing is decoded
    b2://BUCKET/PATH?region=NAME      or ?endpoint=URL, and &profile=NAME

No message repeats a key.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mountstore.errors import BadUrl
from mountstore.registry.urls import Url

if TYPE_CHECKING:
    from mountstore.store import ObjectStore

# A scheme before an @ that is in the path is no name of a key.
_ONE_COLON = re.compile(
    r"""(?:(?!https?://)(?:(?P<profile>[^@:/]+)|(?P<key>[^@:/]+):(?P<secret>[^@]+))@)?
    (?P<endpoint>https?://[^/]+)?
    /(?P<bucket>[^/]+)(?:/(?P<path>.*))?""",
    re.VERBOSE | re.DOTALL,
)
_B2_REGION = re.compile(r"https?://s3\.([a-z0-9-]+)\.backblazeb2\.com")
_B2_KEYS = ("B2_APPLICATION_KEY_ID", "B2_APPLICATION_KEY")


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket, or the part of it below `prefix` (empty, or with a slash at its end)."""

    kind: str
    name: str
    prefix: str
    endpoint: str | None
    region: str | None = None
    profile: str | None = None
    key: str | None = field(default=None, repr=False)
    secret: str | None = field(default=None, repr=False)

    def client(self) -> Any | None:
        """A client of boto3 with the key of the URL, or of B2's variables; None where boto3 finds one."""
        key, secret = self.key, self.secret
        if not key and self.kind == "b2" and not self.profile:
            key, secret = (os.environ.get(name) for name in _B2_KEYS)
        if not key or not secret:
            return None
        import boto3

        session = boto3.session.Session(aws_access_key_id=key, aws_secret_access_key=secret)
        region = self.region or session.region_name or "us-east-1"
        return session.client("s3", endpoint_url=self.endpoint, region_name=region)

    def open(self, *, client: Any | None = None, is_whole: bool = False, **options: Any) -> ObjectStore:
        """The store of it, or of the whole bucket; with `client`, or whom boto3 finds."""
        from mountstore.backends.s3 import BucketStore

        chosen: dict[str, Any] = {"endpoint": self.endpoint, "profile": self.profile, "region": self.region}
        if client is not None:
            chosen["client"] = client
        return BucketStore(self.name, "" if is_whole else self.prefix, **{**chosen, **options})


def bucket_of(url: Url) -> Bucket:
    """What a b2: URL names, or an s3: URL of one colon. Raises BadUrl."""
    url.allow(*(("endpoint", "profile", "region") if url.scheme == "b2" else ()))
    endpoint, profile, key, secret = url.query.get("endpoint"), url.query.get("profile"), None, None
    if url.netloc is None:
        found = _ONE_COLON.fullmatch(url.raw_path)
        if found is None:
            what = "a B2 bucket" if url.scheme == "b2" else "a bucket"
            raise BadUrl(
                f"{what} is written {url.scheme}:[PROFILE@|KEY:SECRET@][https://HOST[:PORT]]/BUCKET/PATH, or "
                f"{url.scheme}://BUCKET/PATH"
            )
        name, path = found["bucket"], found["path"] or ""
        endpoint, profile = found["endpoint"] or endpoint, found["profile"] or profile
        key, secret = found["key"], found["secret"]
    else:
        if "@" in url.netloc or ":" in url.netloc:
            raise BadUrl(f"b2://BUCKET/PATH holds no key; put it into {' and '.join(_B2_KEYS)}")
        name, path = url.netloc, url.path.removeprefix("/")
    if not name:
        raise BadUrl("the bucket is missing: b2://BUCKET/PATH")
    region = url.query.get("region")
    if url.scheme == "b2":
        endpoint, region = _b2_server(endpoint, region)
    prefix = path.strip("/")
    return Bucket(url.scheme, name, prefix and f"{prefix}/", endpoint, region, profile, key, secret)


def _b2_server(endpoint: str | None, region: str | None) -> tuple[str, str | None]:
    if endpoint is None:
        if region is None:
            raise BadUrl(
                "which of B2's servers? ?region=us-west-004, or ?endpoint=https://HOST, as B2's page of "
                "the bucket says"
            )
        endpoint = f"https://s3.{region}.backblazeb2.com"
    endpoint = endpoint.rstrip("/")
    if re.fullmatch(r"https?://[^/@?#]+", endpoint) is None:
        raise BadUrl("the endpoint of a b2: URL is https://HOST[:PORT]")
    found = _B2_REGION.fullmatch(endpoint)
    return endpoint, found[1] if found else region
