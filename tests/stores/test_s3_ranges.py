"""Large ranges over plain HTTP: what servers send, and what else may come."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from mountstore.backends.s3.account import Account
from mountstore.backends.s3.ranges import LEAST_BYTES, Odd, Piece, Ranges
from mountstore.backends.s3.wire import Patience, Wire
from mountstore.errors import NotFound, PreconditionFailed
from tests.servers import S3Server
from tests.stores.test_s3_faults import LossyProxy, opened, proxy

__all__ = ["proxy"]

MIB = 1 << 20
CONTENT = os.urandom(3 * MIB + 17)
KEY = "dir/with space+and ü/object"


def put(server: S3Server) -> str:
    bucket = server.new_bucket()
    with opened(server, bucket) as store:
        store.put(KEY, CONTENT)
    return bucket


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The ranges that came this way."""
    ranges: list[tuple[int, int]] = []
    get = Ranges.get

    def noted(self: Ranges, whole: str, start: int, stop: int, if_match: str | None) -> Piece:
        piece = get(self, whole, start, stop, if_match)
        ranges.append((start, start + len(piece.data)))
        return piece

    monkeypatch.setattr(Ranges, "get", noted)
    return ranges


def test_ranges_come_as_they_are(s3_server: S3Server, taken: list[tuple[int, int]]) -> None:
    with opened(s3_server, put(s3_server)) as store:
        etag = store.head(KEY).etag
        for start, stop in [(0, MIB), (17, 2 * MIB + 1), (0, len(CONTENT)), (2 * MIB, 9 * MIB), (0, 9 * MIB)]:
            for condition in (None, etag):
                got = store.get(KEY, start, stop, if_match=condition)
                assert bytes(got) == CONTENT[start:stop]
            assert taken[-2:] == [(start, min(stop, len(CONTENT)))] * 2


def test_small_ranges_and_whole_objects_take_the_other_way(
    versitygw: S3Server, taken: list[tuple[int, int]]
) -> None:
    with opened(versitygw, put(versitygw)) as store:
        assert bytes(store.get(KEY)) == CONTENT
        assert bytes(store.get(KEY, 1, LEAST_BYTES)) == CONTENT[1:LEAST_BYTES]
    assert taken == []


def test_threads_share_connections_and_nothing_else(
    versitygw: S3Server, taken: list[tuple[int, int]]
) -> None:
    with opened(versitygw, put(versitygw)) as store, ThreadPoolExecutor(8) as threads:
        starts = [number * 7919 for number in range(200)]
        pieces = threads.map(lambda start: (start, store.get(KEY, start, start + MIB)), starts)
        assert all(bytes(data) == CONTENT[start : start + MIB] for start, data in pieces)
    assert len(taken) == 200


def test_errors_are_those_of_any_other_get(s3_server: S3Server) -> None:
    with opened(s3_server, put(s3_server)) as store:
        etag = store.head(KEY).etag
        with pytest.raises(NotFound):
            store.get("other", 0, MIB)
        store.put(KEY, CONTENT[::-1])
        with pytest.raises(PreconditionFailed):
            store.get(KEY, 0, MIB, if_match=etag)
        assert bytes(store.get(KEY, len(CONTENT), len(CONTENT) + MIB)) == b""


@pytest.mark.parametrize("etag", ['"a"\r\nRange: bytes=0-1', '"ü"', '"a\0"'])
def test_no_etag_can_say_more_than_a_condition(etag: str) -> None:
    with scripted() as (server, ranges):
        with pytest.raises(Odd):
            ranges.get("k", 0, MIB, etag)
        assert server.requests == []


def test_it_is_asked_for_again_when_an_answer_goes_wrong(versitygw: S3Server, proxy: LossyProxy) -> None:
    with opened(versitygw, put(versitygw), endpoint=proxy.url) as store:
        for fault in ("busy", "lose reply", "cut"):
            proxy.faults = [(fault, "GET")]
            assert bytes(store.get(KEY, 5, 5 + MIB)) == CONTENT[5 : 5 + MIB]
            assert proxy.faults == []


class Scripted:
    """Answers each request with the next of `answers`, and closes the connection after those that say so."""

    def __init__(self) -> None:
        self.answers: list[tuple[bytes, bool]] = []
        self.requests: list[bytes] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.connections = 0

    def run(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self.connections += 1
            with connection:
                while True:
                    request = b""
                    while not request.endswith(b"\r\n\r\n") and (data := connection.recv(65536)):
                        request += data
                    if not request:
                        break
                    self.requests.append(request)
                    answer, closes = self.answers.pop(0)
                    try:
                        connection.sendall(answer)
                    except OSError:
                        break
                    if closes:
                        break

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()


@contextmanager
def scripted(patience: Patience | None = None) -> Iterator[tuple[Scripted, Ranges]]:
    server = Scripted()
    thread = threading.Thread(target=server.run)
    thread.start()
    account = Account("bucket", endpoint=f"http://127.0.0.1:{server.port}", anonymous=True)
    ranges = Ranges(Wire(account, patience or Patience(read_timeout_s=5.0)))
    try:
        yield server, ranges
    finally:
        ranges.close()
        server.close()
        thread.join()


def answer(
    start: int,
    stop: int,
    size: int,
    *,
    status: str = "206 Partial Content",
    extra: str = "",
    body: Any = None,
) -> bytes:
    data = CONTENT[start:stop] if body is None else body
    head = (
        f"HTTP/1.1 {status}\r\nContent-Range: bytes {start}-{stop - 1}/{size}\r\n"
        f'Content-Length: {stop - start}\r\nETag: "e"\r\n{extra}\r\n'
    )
    return head.encode() + data


@pytest.mark.parametrize("size", [1, 4096, MIB - 1])
def test_what_is_small_takes_little_memory(size: int) -> None:
    with scripted() as (server, ranges):
        server.answers = [(answer(0, size, size), False)]
        piece = ranges.get("k", 0, MIB, None)
        assert bytes(piece.data) == CONTENT[:size]
        assert isinstance(piece.data.obj, bytearray), "what is lent comes in whole MiB"


def test_one_connection_serves_many_requests() -> None:
    with scripted() as (server, ranges):
        server.answers = [(answer(0, MIB, 2 * MIB), False), (answer(MIB, 2 * MIB, 2 * MIB), False)]
        first = ranges.get("k", 0, MIB, None)
        assert (first.start, first.size_bytes, first.etag) == (0, 2 * MIB, '"e"')
        second = ranges.get("k", MIB, 3 * MIB, '"e"')
        assert bytes(first.data) + bytes(second.data) == CONTENT[: 2 * MIB]
        assert server.connections == 1
        assert b"\r\nrange: bytes=0-1048575\r\n" in server.requests[0]
        assert b'\r\nif-match: "e"\r\n' in server.requests[1]


def test_a_connection_that_was_closed_meanwhile_is_replaced() -> None:
    with scripted() as (server, ranges):
        server.answers = [(answer(0, MIB, MIB), True), (answer(0, MIB, MIB), False)]
        for _ in range(2):
            assert bytes(ranges.get("k", 0, MIB, None).data) == CONTENT[:MIB]
        assert server.connections == 2


def test_a_server_that_wants_to_close_gets_its_way() -> None:
    with scripted() as (server, ranges):
        closing = answer(0, MIB, MIB, extra="Connection: close\r\n")
        server.answers = [(closing, False), (answer(0, MIB, MIB), False)]
        for _ in range(2):
            ranges.get("k", 0, MIB, None)
        assert server.connections == 2


@pytest.mark.parametrize(
    ("odd", "refused"),
    [
        (answer(0, MIB, MIB, status="200 OK"), False),
        (answer(0, MIB, MIB, status="404 Not Found"), True),
        (answer(0, MIB, MIB, status="412 Precondition Failed"), True),
        (answer(0, MIB, MIB, status="429 Slow Down"), False),
        (answer(0, MIB, MIB, status="503 Busy"), False),
        (answer(1, MIB + 1, 2 * MIB), False),
        (answer(0, MIB - 1, MIB), False),
        (answer(0, MIB, 2 * MIB, extra="Transfer-Encoding: chunked\r\n"), False),
        (answer(0, MIB, MIB, body=CONTENT[: MIB - 9]), False),
        (answer(0, MIB, MIB)[:40], False),
        (b"HTTP/1.1 206 Partial Content\r\n" + b"a: b\r\n" * 20_000, False),
        (b"nothing of the kind\r\n\r\n", False),
        (b"", False),
    ],
    ids=range(13),
)
def test_anything_else_is_odd_and_the_next_request_is_not_harmed(odd: bytes, refused: bool) -> None:
    with scripted() as (server, ranges):
        server.answers = [(odd, True), (answer(0, MIB, MIB), False)]
        with pytest.raises(Odd) as caught:
            ranges.get("k", 0, MIB, None)
        assert caught.value.refused == refused
        assert bytes(ranges.get("k", 0, MIB, None).data) == CONTENT[:MIB]


def test_a_server_that_falls_silent_is_noticed() -> None:
    with scripted(replace(Patience(), read_timeout_s=0.2)) as (server, ranges):
        for odd in (b"", answer(0, MIB, MIB)[:-1]):
            server.answers = [(odd, False)]
            with pytest.raises(Odd):
                ranges.get("k", 0, MIB, None)


def test_a_whole_object_that_comes_damaged_is_asked_for_again(
    versitygw: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    get = Ranges.get

    def damaged(self: Ranges, whole: str, start: int, stop: int, if_match: str | None) -> Piece:
        piece = get(self, whole, start, stop, if_match)
        piece.data[99] ^= 1
        return piece

    with opened(versitygw, put(versitygw)) as store:
        store.probe()
        monkeypatch.setattr(Ranges, "get", damaged)
        before = store.requests["GET"]
        assert bytes(store.get(KEY, 0, len(CONTENT))) == CONTENT
        assert store.requests["GET"] == before + 2


def test_a_store_lets_go_of_its_connections(versitygw: S3Server) -> None:
    bucket = put(versitygw)
    before = len(os.listdir("/proc/self/fd"))
    with opened(versitygw, bucket) as store:
        store.get(KEY, 0, MIB)
        assert len(store._ranges._idle) == 1
    assert len(store._ranges._idle) == 0
    assert len(os.listdir("/proc/self/fd")) <= before + 1
