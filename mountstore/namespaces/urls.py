"""Which store a URL of a namespace store names: the original's forms, and all that the registry knows.

    file:///path                            a folder
    sftp://[user@]host[:port]/path          a folder on another machine
    rclone:remote:path                      what rclone reaches
    (s3|b2):[profile@|key:secret@][scheme://host[:port]]/bucket/path
    http[s]://[user:password@]host[:port]/path    a REST server
    rest://[user@]host/path                 one that is started by ssh

`s3://bucket/prefix` and every other URL is the registry's.
"""

from __future__ import annotations

import functools
import re
from typing import Any

from mountstore.backends.memory import DictStore
from mountstore.errors import BadUrl
from mountstore.namespaces.target import BucketTarget, FolderTarget, StoreTarget, Target
from mountstore.registry import open_store, parse, split_key
from mountstore.store import ObjectStore

_BUCKET = re.compile(
    r"""(?P<kind>s3|b2):(?!//)
    (?:(?!https?://)(?:(?P<profile>[^@:/]+)|(?P<key>[^@:/]+):(?P<secret>[^@]+))@)?
    (?P<endpoint>https?://[^/]+)?
    /(?P<bucket>[^/]+)(?:/(?P<path>.*))?""",
    re.VERBOSE | re.DOTALL,
)
_B2_ENDPOINT = (
    "the server of a b2: bucket is missing: b2:KEY:SECRET@https://s3.REGION.backblazeb2.com/BUCKET/PATH"
)


def target_of(url: str) -> Target:
    """What the URL names; nothing is opened yet. Raises BadUrl."""
    if re.match(r"(s3|b2):(?!//)", url):
        return _bucket(url)
    parsed = parse(url)
    if parsed.scheme == "file":
        parsed.allow()
        return FolderTarget(parsed.file_path())
    if parsed.scheme == "memory" and not parsed.path:
        return StoreTarget(DictStore())
    if parsed.scheme == "s3":
        bucket, path = split_key(url)
        return BucketTarget(lambda: open_store(url), lambda: open_store(bucket), path)
    return StoreTarget(lambda: open_store(url))


def _bucket(url: str) -> Target:
    match = _BUCKET.fullmatch(url)
    if match is None:
        raise BadUrl("a bucket is written s3:[PROFILE@|KEY:SECRET@][https://HOST[:PORT]]/BUCKET/PATH")
    if match["kind"] == "b2" and not match["endpoint"]:
        raise BadUrl(_B2_ENDPOINT)
    path = (match["path"] or "").strip("/")

    @functools.cache
    def client() -> Any:
        return _client(match["key"], match["secret"], match["endpoint"]) if match["key"] else None

    def opened(prefix: str) -> ObjectStore:
        from mountstore.backends.s3 import BucketStore

        options = {"endpoint": match["endpoint"], "profile": match["profile"], "client": client()}
        return BucketStore(match["bucket"], prefix=prefix, **options)

    return BucketTarget(lambda: opened(f"{path}/" if path else ""), lambda: opened(""), path)


def _client(key: str, secret: str, endpoint: str | None) -> Any:
    import boto3

    return boto3.session.Session(aws_access_key_id=key, aws_secret_access_key=secret).client(
        "s3", endpoint_url=endpoint, region_name=boto3.session.Session().region_name or "us-east-1"
    )
