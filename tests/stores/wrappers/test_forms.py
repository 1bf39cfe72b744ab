"""What wrappers leave in the store below: other keys, other forms of content, values, what was buffered."""

from __future__ import annotations

import base64
import gzip
import io
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mountstore.backends.filesystem import FilesystemStore
from mountstore.backends.memory import DictStore
from mountstore.backends.sqlite import SqliteStore
from mountstore.errors import (
    Corrupted,
    InvalidKey,
    NotFound,
    PartialFailure,
    PreconditionFailed,
    Unavailable,
)
from mountstore.store import Capabilities, ObjectStore
from mountstore.stores import (
    Base64Store,
    BufferingStore,
    CodecStore,
    GzipStore,
    HashPrefixStore,
    JsonStore,
    PrefixStore,
    RoutingStore,
    TextStore,
    TypedStore,
    UrlEncodedStore,
)
from tests.stores.conformance import in_threads
from tests.stores.wrappers.stacks import BreakableStore

# -- keys -------------------------------------------------------------------------------------------------


def test_a_prefix_is_cut_off_and_nothing_else_is_seen() -> None:
    inner = DictStore()
    store = PrefixStore(inner, "mine/")
    store.put("k", b"x")
    inner.put("mine/", b"the prefix itself")
    inner.put("other", b"x")
    assert list(inner.keys()) == ["mine/", "mine/k", "other"]
    assert list(store.keys()) == ["k"]
    assert store.usage() == (1, 1)
    with pytest.raises(NotFound, match="'gone'") as caught:
        store.get("gone")
    assert caught.value.key == "gone"
    with pytest.raises(NotFound):
        store.get("../other")


def test_hashed_keys_are_spread_and_come_back_in_order() -> None:
    inner = DictStore()
    store = HashPrefixStore(inner)
    keys = [f"log/2026/{number:03}" for number in range(300)]
    for key in keys:
        store.put(key, b"x")
    assert len(inner.list(delimiter="/").prefixes) > 100
    assert list(store.keys()) == keys
    assert store.inner_key("log/2026/000").endswith("/log/2026/000")
    assert [info.key for info in store.list("log/", after=keys[99], limit=3).objects] == keys[100:103]
    with pytest.raises(ValueError, match="width"):
        HashPrefixStore(inner, width=0)


def test_any_key_becomes_plain_characters() -> None:
    inner = DictStore()
    store = UrlEncodedStore(inner)
    keys = ["a b", "..", ".", "ü/ö", "100%", "%2F", "a/../b", "x?y#z", "nul\0", "plain-_.~"]
    for key in keys:
        store.put(key, key.encode())
    for key in inner.keys():
        assert set(key) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~%")
    assert "%2E%2E" in list(inner.keys())
    assert list(store.keys()) == sorted(keys)
    with pytest.raises(ValueError, match="may be left"):
        UrlEncodedStore(inner, safe="%")
    inner.put("not%2fcanonical", b"")
    assert list(store.keys()) == sorted(keys)


def test_routes_decide_where_objects_lie(tmp_path: Path) -> None:
    logs, images, rest = DictStore(), SqliteStore(tmp_path / "i.sqlite"), DictStore()
    with RoutingStore([(r"logs/", logs), (r".*\.(png|jpg)$", images)], rest) as store:
        for key in ("logs/1.png", "a.png", "b/c.jpg", "readme", "logs"):
            store.put(key, key.encode())
        assert list(logs.keys()) == ["logs/1.png"]
        assert list(images.keys()) == ["a.png", "b/c.jpg"]
        assert list(rest.keys()) == ["logs", "readme"]
        assert list(store.keys()) == ["a.png", "b/c.jpg", "logs", "logs/1.png", "readme"]
        rest.put("logs/lost", b"lies where its key does not lead")
        rest.put("lost/also.png", b"so does this")
        assert list(store.keys()) == ["a.png", "b/c.jpg", "logs", "logs/1.png", "readme"]
        assert store.list(delimiter="/").prefixes == ["b/", "logs/"]
        store.rename("a.png", "logs/a")
        assert bytes(logs.get("logs/a")) == b"a.png"
        assert not images.exists("a.png")
    with pytest.raises(InvalidKey, match="no route"):
        RoutingStore([("a", logs)]).put("b", b"")


# -- codecs -----------------------------------------------------------------------------------------------


def test_gzip_and_base64_are_what_other_tools_read() -> None:
    inner = DictStore()
    text = b"some text, again and again; " * 1000
    GzipStore(inner).put("a.gz", text)
    assert gzip.decompress(bytes(inner.get("a.gz"))) == text
    assert inner.head("a.gz").size < len(text) // 20
    Base64Store(inner).put("a.b64", text + b"!")
    assert base64.b64decode(bytes(inner.get("a.b64")), validate=True) == text + b"!"


@pytest.mark.parametrize("keeps_metadata", [True, False])
def test_what_others_encoded_is_read_with_its_size(keeps_metadata: bool) -> None:
    inner = DictStore()
    inner.capabilities = Capabilities(metadata=keeps_metadata, max_metadata_bytes=None)
    inner.put("g", gzip.compress(b"first member, ") + gzip.compress(b"and a second"))
    inner.put("b", base64.encodebytes(b"x" * 200))  # in lines
    assert bytes(GzipStore(inner).get("g")) == b"first member, and a second"
    assert GzipStore(inner).head("g").size == 26
    store = Base64Store(inner)
    assert bytes(store.get("b", 199)) == b"x"
    inner.delete("g")
    assert store.list().objects[0].size == 200
    assert store.usage() == (1, 200)


def test_metadata_of_ours_is_not_shown_and_survives() -> None:
    inner = DictStore()
    store = GzipStore(inner)
    info = store.put("k", b"x" * 1000, metadata={"mode": "33188"})
    assert info.metadata == {"mode": "33188"}
    assert (info.size, inner.head("k").metadata) == (1000, {"mode": "33188", "mountstore-length": "1000"})
    store.update_metadata("k", {"mode": "1"})
    store.rename("k", "l")
    assert (store.head("l").size, store.head("l").metadata) == (1000, {"mode": "1"})
    assert GzipStore(inner).list().objects[0].size == 1000


def test_a_second_listing_asks_for_no_heads() -> None:
    inner = BreakableStore()
    for number in range(20):
        GzipStore(inner).put(f"k{number:02}", bytes(number))
    store = GzipStore(inner)
    heads = inner.calls.get("head", 0)
    assert [info.size for info in store.list().objects] == [*range(20)]
    assert inner.calls["head"] == heads + 20
    assert [info.size for info in store.list().objects] == [*range(20)]
    assert inner.calls["head"] == heads + 20


@pytest.mark.parametrize("codec", [GzipStore, Base64Store])
def test_what_cannot_be_decoded_is_corrupted(codec: Callable[[ObjectStore], CodecStore]) -> None:
    inner = DictStore()
    store = codec(inner)
    store.put("k", b"some content that is long enough " * 100)
    whole = bytes(inner.get("k"))
    for bad in (whole[:-3], b"!!!" + whole, whole[: len(whole) // 2 - 1] + b"\0\0\0"):
        inner.put("k", bad)
        with pytest.raises(Corrupted, match="'k'"):
            store.get("k")


def test_a_range_of_a_compressed_object_needs_little_memory() -> None:
    inner = DictStore()
    store = GzipStore(inner, level=1)

    class Zeros(io.RawIOBase):
        at = 0

        def readinto(self, buffer: Any) -> int:
            count = min(len(buffer), (64 << 20) - self.at)
            buffer[:count] = bytes(count)
            self.at += count
            return count

    store.put("k", Zeros())  # type: ignore[arg-type]
    assert store.head("k").size == 64 << 20
    tracemalloc.start()
    try:
        assert bytes(store.get("k", (64 << 20) - 5)) == bytes(5)
        assert bytes(store.get("k", 100, 200)) == bytes(100)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 40 << 20


# -- values -----------------------------------------------------------------------------------------------


def test_text_and_json() -> None:
    inner = DictStore()
    with TextStore(inner) as text:
        text.put("t", "zwölf\r\n")
        assert text.get("t") == "zwölf\r\n"
        assert bytes(inner.get("t")) == "zwölf\r\n".encode()
        inner.put("bad", b"\xff")
        with pytest.raises(Corrupted, match="'bad'"):
            text.get("bad")
    json = JsonStore(GzipStore(inner))
    value = {"a": [1, 2.5, None, True, "ü"]}
    info = json.put("j", value, if_absent=True)
    assert json.get("j", if_match=info.etag) == value
    assert json.exists("j")
    with pytest.raises(ValueError, match="JSON"):
        json.put("j", float("nan"))
    json.delete("j")
    json.delete("j", missing_ok=True)
    with pytest.raises(NotFound):
        json.get("j")
    inner.put("n", b"not gzip")
    assert list(json.keys()) == ["bad", "n", "t"]
    numbers = TypedStore[int](inner, lambda number: b"%d" % number, int)
    numbers.put("n", 7)
    assert numbers.get("n") + 1 == 8
    with pytest.raises(Corrupted):
        numbers.get("t")


# -- buffering --------------------------------------------------------------------------------------------


def test_puts_are_collected_seen_and_written_once() -> None:
    inner = BreakableStore()
    store = BufferingStore(inner, capacity_bytes=1000)
    for number in range(10):
        store.put("k", b"%d" % number)
    store.put("d/l", b"x", metadata={"a": "1"})
    assert inner.calls.get("put", 0) == 0
    assert bytes(store.get("k")) == b"9"
    assert store.head("d/l").metadata == {"a": "1"}
    assert list(store.keys()) == ["d/l", "k"]
    assert store.list(delimiter="/").prefixes == ["d/"]
    etag = store.head("k").etag
    store.flush()
    assert inner.calls["put"] == 2
    assert bytes(inner.get("k")) == b"9"
    # The etag stays what it was, and conditions on it hold.
    assert store.head("k").etag == etag
    assert [info.etag for info in store.list().objects if info.key == "k"] == [etag]
    store.put("k", b"on condition", if_match=etag)
    assert bytes(inner.get("k")) == b"on condition"
    with pytest.raises(PreconditionFailed):
        store.put("k", b"again", if_match=etag)


def test_the_buffer_is_written_when_it_is_full_and_at_the_end(tmp_path: Path) -> None:
    inner = BreakableStore()
    store = BufferingStore(inner, capacity_bytes=1000)
    for number in range(30):
        store.put(f"k{number:02}", bytes(100))
    assert 20 <= len(list(DictStore.keys(inner))) < 30
    store.put("large", bytes(300))
    assert DictStore.get(inner, "large") == bytes(300)
    path = tmp_path / "f"
    path.write_bytes(b"of a file")
    with path.open("rb") as file:
        store.put("file", file)
    store.close()
    assert len(list(DictStore.keys(inner))) == 32
    assert inner.closed


def test_what_cannot_be_flushed_stays_and_is_told() -> None:
    inner = BreakableStore()
    store = BufferingStore(inner)
    store.put("a", b"1")
    store.put("b", b"2")
    inner.broken = {"put"}
    with pytest.raises(PartialFailure) as caught:
        store.flush()
    assert [key for key, _ in caught.value.failures] == ["a", "b"]
    assert bytes(store.get("a")) == b"1"
    inner.broken = set()
    store.flush()
    assert list(DictStore.keys(inner)) == ["a", "b"]
    store.put("c", b"3")
    inner.broken = {"put"}
    with pytest.raises(Unavailable):
        store.close()
    assert inner.closed


def test_deleting_what_is_buffered() -> None:
    inner = DictStore()
    store = BufferingStore(inner)
    store.put("new", b"x")
    store.delete("new")
    inner.put("old", b"x")
    store.put("old", b"y")
    store.delete("old")
    store.put("many", b"x")
    store.delete_many(["many", "nothing"])
    store.flush()
    assert list(inner.keys()) == list(store.keys()) == []
    with pytest.raises(NotFound):
        store.delete("new")


def test_writers_of_a_small_buffer_lose_nothing(tmp_path: Path) -> None:
    with FilesystemStore(tmp_path / "f", durable=False) as inner:
        store = BufferingStore(inner, capacity_bytes=500)

        def work(number: int) -> None:
            for count in range(60):
                store.put(f"{number}-{count % 7}", b"%03d" % count * 10)
                assert bytes(store.get(f"{number}-{count % 7}")) == b"%03d" % count * 10

        in_threads(4, work)
        store.flush()
        for number in range(4):
            for rest in range(7):
                last = max(count for count in range(60) if count % 7 == rest)
                assert bytes(inner.get(f"{number}-{rest}")) == b"%03d" % last * 10
