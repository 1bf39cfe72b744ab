"""BucketStore under the conformance suite, on versitygw, MinIO and, for keys that those cannot hold, moto."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mountstore.backends.s3 import BucketStore
from mountstore.store import ObjectStore
from tests.servers import S3Server
from tests.stores.conformance import ODD_KEYS, PersistentStoreConformance, listed_entries

NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")


def make_store(server: S3Server, bucket: str, prefix: str = "", **options: Any) -> BucketStore:
    return BucketStore(bucket, prefix, client=server.client(), **options)


def odd_segments(key: str) -> bool:
    segments = key.split("/")
    return "" in segments[:-1] or not {".", ".."}.isdisjoint(segments)


class BucketConformance(PersistentStoreConformance):
    server_name: str
    prefix = ""

    @pytest.fixture
    def reopen(self, request: pytest.FixtureRequest) -> Callable[[], ObjectStore]:
        server: S3Server = request.getfixturevalue(self.server_name)
        bucket = server.new_bucket()
        return lambda: make_store(server, bucket, self.prefix)

    @pytest.fixture
    def store(self, reopen: Callable[[], ObjectStore]) -> Iterator[ObjectStore]:
        with reopen() as store:
            yield store


class FileServerConformance(BucketConformance):
    """Servers that keep objects as files: what no file can be, they must refuse, and refuse only that."""

    # A file and a folder of one name cannot be.
    key_sets = [  # noqa: RUF012  (as the suite has it)
        ["dir/"],
        ["b/a", "b/c/d"],
        ["x", "X", "é", "e\u0301"],
        ["s" * 255, "s" * 254],
    ]

    def can_hold(self, store: ObjectStore, key: str) -> bool:
        # Held are names as long as a file's; what is told is how long they may be to be replaced, too.
        longest = max(len(segment.encode()) for segment in key.split("/"))
        return not odd_segments(key) and "\x00" not in key and len(key.encode()) <= 1024 and longest <= 255


class TestVersitygw(FileServerConformance):
    server_name = "versitygw"

    def can_hold(self, store: ObjectStore, key: str) -> bool:
        # It lists keys unencoded, in XML, which has no control characters; and a folder holds no data.
        return not NOT_XML.search(key) and not key.endswith("/") and super().can_hold(store, key)

    KEYS = [key for key in PersistentStoreConformance.KEYS if not NOT_XML.search(key)]  # noqa: RUF012
    key_characters = "ab/-0.\u00e9\ufffd\U0001f600"

    def test_a_marker_is_an_object_in_its_own_listing(self, store: ObjectStore) -> None:
        # The same words as above, of a marker without data: a folder holds none here.
        store.put("d/", b"")
        self.fill(store, ["d/x", "e"])
        assert listed_entries(store, "", "/") == [("d/", True), ("e", False)]
        assert listed_entries(store, "d/", "/") == [("d/", False), ("d/x", False)]
        assert listed_entries(store, "d/", "/", after="d/") == [("d/x", False)]
        assert listed_entries(store, "d", "/") == [("d/", True)]
        store.delete("d/x")
        assert listed_entries(store) == [("d/", False), ("e", False)]
        store.delete("d/")
        assert listed_entries(store) == [("e", False)]


class TestVersitygwBelowAPrefix(TestVersitygw):
    prefix = "some/prefix-é/"


class TestMinio(FileServerConformance):
    server_name = "minio"


class TestMoto(BucketConformance):
    """Any key, but for line breaks, which its URL routing does not match."""

    server_name = "moto"

    def can_hold(self, store: ObjectStore, key: str) -> bool:
        return "\n" not in key and "\r" not in key and super().can_hold(store, key)


class TestMotoBelowAPrefix(TestMoto):
    prefix = "a//b-"


def test_odd_keys_are_still_odd() -> None:
    """The sets above leave out no more than they mean to."""
    assert {key for key in ODD_KEYS if odd_segments(key)} >= {"a//b", "/abs", "../x", ".", "x/."}
    assert not odd_segments("dir/")


@pytest.mark.parametrize("server_name", ["versitygw", "minio"])
def test_a_marker_at_the_prefix_is_no_key(server_name: str, request: pytest.FixtureRequest) -> None:
    server: S3Server = request.getfixturevalue(server_name)
    bucket = server.new_bucket()
    client = server.client()
    client.put_object(Bucket=bucket, Key="some/path/", Body=b"")
    client.put_object(Bucket=bucket, Key="some/path/x", Body=b"x")
    with make_store(server, bucket, "some/path/") as store:
        for limit in (1, 2, 1000):
            assert [info.key for page in store.pages(limit=limit) for info in page.objects] == ["x"]
