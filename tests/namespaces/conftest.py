"""Places for namespaces: memory, a folder, SQLite and a real S3 server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mountstore.backends.memory import DictStore
from mountstore.backends.s3 import BucketStore
from mountstore.backends.sqlite import SqliteStore
from mountstore.namespaces.target import FolderTarget, StoreTarget, Target
from tests.servers import S3Server


@pytest.fixture(params=["memory", "folder", "sqlite", "s3"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Target]:
    """A place in which nothing was created yet."""
    if request.param == "memory":
        yield StoreTarget(DictStore())
    elif request.param == "folder":
        yield FolderTarget(tmp_path / "store", durable=False)
    elif request.param == "sqlite":
        yield StoreTarget(lambda: SqliteStore(tmp_path / "store.sqlite", durable=False))
    else:
        server: S3Server = request.getfixturevalue("versitygw")
        with BucketStore(server.new_bucket(), prefix="some/path/", client=server.client()) as store:
            yield StoreTarget(store)
