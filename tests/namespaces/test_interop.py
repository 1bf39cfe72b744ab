"""Stores written by the PyPI package `borgstore` are read by ours, and the other way round.

On the local file system and in S3; in turns, too, as two clients of one store would work.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from borgstore.backends.posixfs import PosixFS
from borgstore.store import Store as TheirStore

from mountstore.backends.s3 import BucketStore
from mountstore.errors import BackendAlreadyExists, BackendDoesNotExist
from mountstore.namespaces import Store
from mountstore.namespaces.target import StoreTarget
from mountstore.stores import QuotaStore
from tests.servers import S3Server

CONFIG: dict[str, dict[str, Any]] = {
    "config": {"levels": [0]},
    "data": {"levels": [2]},
    "deep/er": {"levels": [1]},
}
ITEMS = {
    "config/main": b"main",
    "config/.dotted": b"",
    "config/x%41*?:y": b"odd",
    "config/last.del.not": b"suffix in the middle",
    "data/0123abcd": bytes(range(256)) * 1000,
    "data/0123ffff": b"beside it",
    "data/1": b"shorter than its levels",
    "data/abc": b"a bit longer",
    "data/" + hashlib.sha256(b"x").hexdigest(): b"x",
    "deep/er/abcdef": b"in a namespace below no namespace",
}


@pytest.fixture(params=["files", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "files":
        return f"file://{tmp_path}/store"
    server: S3Server = request.getfixturevalue("versitygw")
    login = f"{server.access_key}:{server.secret_key}"
    return f"s3:{login}@{server.endpoint}/{server.new_bucket()}/some/path"


@pytest.fixture(params=["theirs first", "ours first"])
def pair(request: pytest.FixtureRequest, url: str) -> Iterator[tuple[Any, Any]]:
    """(a store that was created and is empty, the other's view of it), both open."""
    stores = [TheirStore(url, config=CONFIG), Store(url, config=CONFIG)]
    writer, reader = stores if request.param == "theirs first" else reversed(stores)
    writer.create()
    writer.open()
    reader.open()
    yield writer, reader
    reader.close()
    writer.close()


def listed(store: Any, name: str, *, deleted: bool = False) -> dict[str, int]:
    return {item.name: item.size for item in store.list(name, deleted=deleted)}


def test_what_one_writes_the_other_reads(pair: tuple[Any, Any]) -> None:
    writer, reader = pair
    for name, value in ITEMS.items():
        writer.store(name, value)
    for name, value in ITEMS.items():
        assert reader.load(name) == value
        if len(value) > 1:  # theirs cannot read beyond the end of an object of S3
            assert reader.load(name, size=5, offset=1) == value[1:6]
        assert reader.hash(name) == hashlib.sha256(value).hexdigest()
        info = reader.info(name)
        assert (info.exists, info.size, info.directory) == (True, len(value), False)
        assert abs(info.mtime - writer.info(name).mtime) < 2
    assert reader.load("data/0123abcd", offset=-3) == ITEMS["data/0123abcd"][-3:]
    for namespace in CONFIG:
        expected = {
            name.rpartition("/")[2]: len(value)
            for name, value in ITEMS.items()
            if name.startswith(f"{namespace}/")
        }
        assert listed(reader, namespace) == listed(writer, namespace) == expected
        assert listed(reader, namespace, deleted=True) == {}
    assert not reader.info("data/missing1").exists
    assert reader.gather([("0123abcd", 5, 3), ("0123ffff", 0, 2)], namespace="data") == b"\5\6\7be"


def test_they_work_in_turns(pair: tuple[Any, Any]) -> None:
    one, other = pair
    for first, second in ((one, other), (other, one)):
        first.store("data/0123abcd", b"content")
        second.move("data/0123abcd", delete=True)
        assert listed(first, "data", deleted=True) == {"0123abcd": 7}
        assert first.load("data/0123abcd", deleted=True) == b"content"
        assert not first.info("data/0123abcd").exists
        first.move("data/0123abcd", undelete=True)
        assert second.load("data/0123abcd") == b"content"
        second.move("data/0123abcd", "config/moved")
        assert first.load("config/moved") == b"content"
        first.store("config/moved", b"other")
        assert second.load("config/moved") == b"other"
        assert second.defrag([("moved", 1, 3)], target="made", namespace="config") == "made"
        assert first.load("config/made") == b"the"
        first.delete("config/moved")
        second.delete("config/made")
        assert not first.info("config/made").exists
        assert not second.info("config/moved").exists


def test_levels_are_changed_by_either(url: str) -> None:
    old, both, new = ({"data": {"levels": levels}} for levels in ([2], [2, 1], [1]))
    for kind, other in ((TheirStore, Store), (Store, TheirStore)):
        writer: Any = kind(url, config=old)
        writer.create()
        with writer:
            writer.store("data/0123abcd", b"content")
        mover: Any = other(url, config=both)
        with mover:
            assert mover.find("data/0123abcd") == "data/01/23/0123abcd"
            mover.move("data/0123abcd", change_level=True)
        with kind(url, config=both) as reader:
            assert reader.find("data/0123abcd") == "data/01/0123abcd"
        with kind(url, config=new) as reader:
            assert reader.load("data/0123abcd") == b"content"
        mover.destroy()


def test_each_knows_and_destroys_what_the_other_created(url: str) -> None:
    for kind, other in ((TheirStore, Store), (Store, TheirStore)):
        writer: Any = kind(url, config=CONFIG)
        writer.create()
        reader: Any = other(url, config=CONFIG)
        with reader:
            reader.store("config/main", b"x")
        with pytest.raises(Exception, match=r"(?i)empty|exist") as caught:
            reader.create()
        assert caught.type.__name__ == BackendAlreadyExists.__name__
        reader.destroy()
        with pytest.raises(BackendDoesNotExist):
            Store(url, config=CONFIG).open()


def test_an_empty_folder_of_theirs_is_a_store(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/store"
    TheirStore(url, config=CONFIG).create()
    with Store(url, config=CONFIG) as store:
        assert [*store.list()] == []
        store.store("config/main", b"x")
    with TheirStore(url, config=CONFIG) as store:
        assert store.load("config/main") == b"x"
        # Theirs takes our private folder for a namespace where it lists all of them.
        assert listed(store, "") == {"main": 1, "locks": 0}
        assert listed(store, "config") == {"main": 1}


def test_the_record_of_their_quota_is_no_item(tmp_path: Path) -> None:
    theirs = PosixFS(tmp_path / "store", quota=100)
    theirs.create()
    with TheirStore(backend=theirs, config=CONFIG) as store:
        store.store("config/main", b"x" * 60)
    with Store(f"file://{tmp_path}/store", config=CONFIG) as ours:
        assert listed(ours, "") == {"main": 60}


def test_what_ours_keeps_for_itself_is_no_item_of_theirs(versitygw: S3Server) -> None:
    bucket = versitygw.new_bucket()
    with BucketStore(bucket, prefix="some/path/", client=versitygw.client()) as objects:
        target = StoreTarget(QuotaStore(objects, 1000))
        ours = Store(backend=target, config=CONFIG)
        ours.create()
        with ours:
            ours.store("config/main", b"x")
    login = f"{versitygw.access_key}:{versitygw.secret_key}"
    with TheirStore(f"s3:{login}@{versitygw.endpoint}/{bucket}/some/path", config=CONFIG) as theirs:
        assert listed(theirs, "") == {"main": 1}
