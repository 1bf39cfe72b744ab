"""BucketStore.put_changes: what is the same is copied by the server, the rest alone is sent."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mountstore.backends.s3 import BucketStore
from mountstore.backends.s3.multipart import plan_changes
from mountstore.errors import PreconditionFailed
from tests.servers import S3Server

MIB = 1 << 20
SIZE = 40 * MIB + 12345


@pytest.fixture(params=["versitygw", "minio"])
def store(request: pytest.FixtureRequest) -> Iterator[BucketStore]:
    server: S3Server = request.getfixturevalue(request.param)
    with BucketStore(server.new_bucket(), client=server.client()) as store:
        yield store


@pytest.fixture(scope="module")
def content() -> bytes:
    return random.Random(7).randbytes(SIZE)


def changed(content: bytes, ranges: list[tuple[int, int]]) -> bytes:
    new = bytearray(content)
    for start, stop in ranges:
        new[start : min(stop, len(new))] = b"\xaa" * (min(stop, len(new)) - start)
        if stop > len(new):
            new += b"\xaa" * (stop - len(new))
    return bytes(new)


@pytest.mark.parametrize(
    "ranges",
    [
        [(20 * MIB, 20 * MIB + 4096)],
        [(0, 1), (SIZE - 1, SIZE)],
        [(SIZE, SIZE + 5000)],
        [],
    ],
    ids=["middle", "ends", "grown", "nothing"],
)
def test_only_what_changed_is_sent(store: BucketStore, content: bytes, ranges: list[tuple[int, int]]) -> None:
    etag = store.put("big", content).etag
    assert etag is not None
    new = changed(content, ranges)
    before = dict(store.requests)
    info = store.put_changes(
        "big", io.BytesIO(new), ranges, source="big", source_etag=etag, metadata={"a": "b"}, if_match=etag
    )
    assert store.requests.get("PUT", 0) - before.get("PUT", 0) <= len(ranges)
    assert store.requests.get("COPY", 0) > before.get("COPY", 0)
    assert store.get("big") == new
    assert store.head("big").etag == info.etag
    assert store.head("big").metadata == {"a": "b"}


def test_another_key_and_what_is_cut_off(store: BucketStore, content: bytes) -> None:
    etag = store.put("old", content).etag
    assert etag is not None
    new = changed(content, [(5, 6)])[: SIZE - 9 * MIB]
    store.put_changes("new", io.BytesIO(new), [(5, 6)], source="old", source_etag=etag, if_absent=True)
    assert store.get("new") == new
    assert store.get("old") == content


def test_whose_version_is_gone_is_told(store: BucketStore, content: bytes) -> None:
    etag = store.put("old", content).etag
    assert etag is not None
    store.put("old", b"another")
    there = store.put("new", b"there")
    with pytest.raises(PreconditionFailed) as failure:
        store.put_changes(
            "new", io.BytesIO(content), [(5, 6)], source="old", source_etag=etag, if_match=there.etag
        )
    assert failure.value.key == "old"
    etag = store.put("old", content).etag
    assert etag is not None
    with pytest.raises(PreconditionFailed) as failure:
        store.put_changes(
            "new", io.BytesIO(content), [(5, 6)], source="old", source_etag=etag, if_match='"0"'
        )
    assert failure.value.key == "new"
    assert store.get("new") == b"there"


def test_many_changes_are_sent_whole(store: BucketStore, content: bytes) -> None:
    etag = store.put("big", content).etag
    assert etag is not None
    ranges = [(position, position + 10) for position in range(0, SIZE - 10, 3 * MIB)]
    new = changed(content, ranges)
    store.put_changes("big", io.BytesIO(new), ranges, source="big", source_etag=etag, if_match=etag)
    assert store.requests.get("COPY", 0) == 0
    assert store.get("big") == new


@settings(max_examples=300, deadline=None)
@given(
    size=st.integers(1, 300),
    points=st.lists(st.integers(0, 300), max_size=8, unique=True),
    copy_step=st.sampled_from([10, 30, 1000]),
)
def test_a_plan_covers_everything_once(size: int, points: list[int], copy_step: int) -> None:
    points = sorted(point for point in points if point <= size)
    ranges = [(a, b) for a, b in zip(points[::2], points[1::2], strict=False)]
    pieces = plan_changes(size, ranges, 10, copy_step)
    assert [piece.start for piece in pieces] == [0, *(piece.stop for piece in pieces[:-1])]
    assert pieces[-1].stop == size
    for piece in pieces:
        touched = any(a < piece.stop and b > piece.start for a, b in ranges)
        assert not (touched and piece.copied)
        assert piece.stop - piece.start <= (max(10, copy_step) if piece.copied else 10)
    assert all(piece.stop - piece.start >= 10 for piece in pieces[:-1])
    clean = sum(1 for a in range(0, size, 10) if not any(x < min(a + 10, size) and y > a for x, y in ranges))
    assert sum(piece.copied for piece in pieces) <= clean
    assert bool(clean) == any(piece.copied for piece in pieces)
