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

from mountstore.backends.memory import DictStore
from mountstore.namespaces.target import BucketTarget, FolderTarget, StoreTarget, Target
from mountstore.registry import open_store, parse, split_key
from mountstore.registry.buckets import Bucket, bucket_of

_BUCKET = re.compile(r"s3:(?!//)|b2:", re.IGNORECASE)


def target_of(url: str) -> Target:
    """What the URL names; nothing is opened yet. Raises BadUrl."""
    if _BUCKET.match(url):
        return _bucket(bucket_of(parse(url)))
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


def _bucket(bucket: Bucket) -> Target:
    client = functools.cache(bucket.client)  # one for the bucket and for the folder in it
    return BucketTarget(
        lambda: bucket.open(client=client()),
        lambda: bucket.open(client=client(), is_whole=True),
        bucket.prefix,
    )
