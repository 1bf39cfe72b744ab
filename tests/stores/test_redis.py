"""RedisStore: the contract, against a real server, and what it promises beyond."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from mountstore import open_store
from mountstore.backends import redis as backend
from mountstore.backends.redis import PIECE_BYTES, RedisStore
from mountstore.errors import (
    AccessDenied,
    BadUrl,
    Corrupted,
    NotFound,
    PreconditionFailed,
    StoreFull,
    Unavailable,
    UsageError,
)
from mountstore.registry import canonical
from mountstore.store import ObjectStore
from tests import services
from tests.services import Service
from tests.stores.conformance import PersistentStoreConformance


@pytest.fixture
def client(redis_service: Service) -> Iterator[Any]:
    """A client of an empty database."""
    with redis.Redis(port=redis_service.port, db=1) as client:
        client.flushall()
        yield client


@pytest.fixture
def url(client: Any, redis_service: Service) -> str:
    return f"redis://127.0.0.1:{redis_service.port}/1"


@pytest.fixture
def store(url: str) -> Iterator[RedisStore]:
    with RedisStore(url, "a prefix") as store:
        yield store


class TestRedisStore(PersistentStoreConformance):
    @pytest.fixture
    def store(self, url: str) -> Iterator[ObjectStore]:
        with RedisStore(url, "a:b/*") as store:
            yield store

    @pytest.fixture
    def reopen(self, url: str) -> Callable[[], ObjectStore]:
        return lambda: RedisStore(url, "a:b/*")


class TestRedisStoreOfManyPieces(TestRedisStore):
    examples = 2

    @pytest.fixture(autouse=True)
    def small_pieces(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(backend, "PIECE_BYTES", 65_536)


def test_prefixes_are_apart(url: str, client: Any) -> None:
    stores = [RedisStore(url, prefix) for prefix in ("", "a", "a/o", "a/", "o/", "*", "keys")]
    for number, store in enumerate(stores):
        store.put("k", b"%d" % number)
        store.put(f"o/{number}", b"")
    for number, store in enumerate(stores):
        assert bytes(store.get("k")) == b"%d" % number
        assert list(store.keys()) == ["k", f"o/{number}"]
        store.close()


def test_nothing_is_left_when_everything_is_deleted(store: RedisStore, client: Any) -> None:
    store.put("k", b"one", metadata={"a": "1"})
    store.put("k", b"two")
    store.copy("k", "l")
    store.rename("l", "k")
    store.delete("k")
    store.put("m", b"x")
    store.delete_many(["m", "none"])
    assert client.keys("*") == []


def test_pieces_of_a_replaced_object_go_in_time(store: RedisStore, client: Any) -> None:
    data = bytes(PIECE_BYTES + 1)
    store.put("k", data)
    assert [client.ttl(name) for name in client.keys("*/d/*")] == [-1, -1]
    store.put("k", b"small")
    times = sorted(client.ttl(name) for name in client.keys("*/d/*"))
    assert times[0] == -1
    assert len(times) == 3
    assert all(0 < left <= backend._GRACE_S for left in times[1:])


def test_a_reader_of_pieces_sees_one_version(store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = b"o" * (3 * PIECE_BYTES), b"n" * (2 * PIECE_BYTES)
    store.put("k", old)
    etag = store.head("k").etag
    replaced = False
    piece = store._piece

    def replacing(name: bytes, number: int) -> bytes:
        nonlocal replaced
        if number == 1 and not replaced:
            replaced = True
            with monkeypatch.context() as patch:
                patch.setattr(store, "_piece", piece)
                store.put("k", new)
        return piece(name, number)

    with monkeypatch.context() as patch:
        patch.setattr(store, "_piece", replacing)
        assert bytes(store.get("k", if_match=etag)) == old
    assert replaced
    assert bytes(store.get("k")) == new


def test_an_upload_that_fails_leaves_no_piece(store: RedisStore, client: Any, tmp_path: Path) -> None:
    path = tmp_path / "source"
    path.write_bytes(bytes(3 * PIECE_BYTES))
    store.put("k", b"old")
    before = sorted(client.keys("*"))
    with path.open("rb") as file, pytest.raises(PreconditionFailed):
        store.put("k", file, if_absent=True)
    assert sorted(client.keys("*")) == before


def test_a_range_does_not_move_the_whole_object(store: RedisStore, client: Any) -> None:
    store.put("k", bytes(2 * PIECE_BYTES))
    store.put("l", bytes(PIECE_BYTES))
    before = client.info("stats")["total_net_output_bytes"]
    store.get("k", PIECE_BYTES - 5, PIECE_BYTES + 5)
    store.get("l", 100, 200)
    assert client.info("stats")["total_net_output_bytes"] - before < 20_000


def test_an_object_is_one_request_to_put_and_one_to_get(store: RedisStore, client: Any) -> None:
    store.put("warm", b"x")
    store.get("warm")

    def requests() -> int:
        calls = client.info("commandstats")
        return int(sum(calls.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("evalsha", "eval")))

    before = requests()
    store.put("k", b"x" * 1000, metadata={"a": "1"}, if_absent=True)
    assert requests() - before == 1
    store.get("k", 5, 10)
    assert requests() - before == 2
    store.list(delimiter="/")
    assert requests() - before == 3


def test_a_put_whose_answer_was_lost_may_be_sent_again(store: RedisStore) -> None:
    """The same request twice, as a client sends it that never saw the answer."""
    arguments = ("PUT", "k", b"k", "!", "an-etag", 1, 5, "{}", 1, 60, b"x")
    assert store._run(*arguments)[0] == b"ok"
    assert store._run(*arguments)[0] == b"ok"
    assert bytes(store.get("k")) == b"x"


@pytest.mark.parametrize("size", [10, 2 * PIECE_BYTES])
def test_an_object_whose_put_was_done_and_not_answered_stays_whole(
    store: RedisStore, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    script = store._scripts["PUT"]

    def unanswered(**given: Any) -> None:
        script(**given)
        raise redis.exceptions.ConnectionError("Connection lost")

    with monkeypatch.context() as patch:
        patch.setitem(store._scripts, "PUT", unanswered)
        with pytest.raises(Unavailable):
            store.put("k", b"x" * size)
    assert bytes(store.get("k")) == b"x" * size


def test_evicted_objects_are_not_taken_for_empty(store: RedisStore, client: Any) -> None:
    for key, size in (("small", 5), ("large", PIECE_BYTES + 5)):
        store.put(key, b"x" * size)
        etag = store.head(key).etag
        client.delete(f"mountstore/a%20prefix/d/{etag}/0")
        with pytest.raises(Corrupted, match="evict"):
            store.get(key)
    client.delete("mountstore/a%20prefix/o/small")
    with pytest.raises(Corrupted, match="evict"):
        store.list()


def test_processes_do_not_lose_each_others_counts(store: RedisStore, url: str) -> None:
    program = (
        "import sys\n"
        "from mountstore.backends.redis import RedisStore\n"
        "from mountstore.errors import PreconditionFailed\n"
        "done = 0\n"
        "with RedisStore(sys.argv[1], 'a prefix') as store:\n"
        "    while done < 50:\n"
        "        etag = store.head('counter').etag\n"
        "        try:\n"
        "            value = int(store.get('counter', if_match=etag))\n"
        "            store.put('counter', b'%d' % (value + 1), if_match=etag)\n"
        "        except PreconditionFailed:\n"
        "            continue\n"
        "        done += 1\n"
    )
    store.put("counter", b"0")
    children = [subprocess.Popen([sys.executable, "-c", program, url]) for _ in range(2)]
    try:
        assert [child.wait(60) for child in children] == [0, 0]
    finally:
        for child in children:
            child.kill()
            child.wait()
    assert bytes(store.get("counter")) == b"100"


# -- clients and failures -----------------------------------------------------------------------------


def test_a_client_of_the_callers_stays_open(client: Any) -> None:
    with RedisStore(client) as store:
        store.put("k", b"x")
    assert client.ping()
    with pytest.raises(UsageError, match="belong to a client"):
        RedisStore(client, username="x")


def test_a_client_that_decodes_is_refused(redis_service: Service) -> None:
    with (
        redis.Redis(port=redis_service.port, decode_responses=True) as client,
        pytest.raises(UsageError, match="decode_responses=False"),
    ):
        RedisStore(client)


def test_a_server_that_is_not_there_is_unavailable() -> None:
    with services.redis_server() as service:
        url = f"redis://127.0.0.1:{service.port}/0"
        with RedisStore(url) as store:
            store.put("k", b"x")
            service.end()
            calls: list[Callable[[], object]] = [
                lambda: store.get("k"),
                lambda: store.put("k", b"y"),
                lambda: store.put("k", bytes(PIECE_BYTES + 1)),
                lambda: store.delete("k"),
                store.list,
                lambda: store.delete_many(["k"]),
            ]
            for call in calls:
                with pytest.raises(Unavailable) as caught:
                    call()
                assert "\n" not in str(caught.value)
        with pytest.raises(Unavailable, match=f"127.0.0.1:{service.port}"):
            RedisStore(url)


def test_a_server_that_does_not_answer_is_unavailable() -> None:
    with (
        services.redis_server() as service,
        RedisStore(f"redis://127.0.0.1:{service.port}/0", timeout_s=0.3) as store,
    ):
        service.pause()
        try:
            with pytest.raises(Unavailable):
                store.get("k")
        finally:
            service.resume()
        with pytest.raises(NotFound):
            store.get("k")


def test_a_server_without_memory_is_full() -> None:
    with (
        services.redis_server("--maxmemory", "6mb", "--maxmemory-policy", "noeviction") as service,
        RedisStore(f"redis://127.0.0.1:{service.port}/0") as store,
    ):
        store.put("k", b"old")
        with pytest.raises(StoreFull):
            store.put("large", bytes(5 * PIECE_BYTES))
        assert bytes(store.get("k")) == b"old"
        assert not store.exists("large")
        deadline = time.monotonic() + 60
        while bytes(store.get("k")) != b"new":  # the server gives back what it had for the large one
            assert time.monotonic() < deadline
            with contextlib.suppress(StoreFull):
                store.put("k", b"new")
        with redis.Redis(port=service.port) as client:
            assert len(client.keys("*/d/*")) == 1
            client.config_set("maxmemory", 1000)
        with pytest.raises(StoreFull):
            store.put("k", b"newer")
        store.delete("k")


def test_passwords_are_asked_for_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    with services.redis_server("--requirepass", "HUNTER2") as service:
        where = f"127.0.0.1:{service.port}/0"
        for given in (f"redis://{where}", f"redis://:HUNTER3@{where}", f"redis://HUNTER4:HUNTER2@{where}"):
            with pytest.raises(AccessDenied) as caught:
                open_store(given)
            assert "HUNTER" not in str(caught.value)
            assert "\n" not in str(caught.value)
        with open_store(f"redis://:HUNTER2@{where}") as store:
            store.put("k", b"x")
            assert "HUNTER" not in repr(store)
        monkeypatch.setenv("REDISCLI_AUTH", "HUNTER2")
        with open_store(f"redis://{where}") as store:
            assert bytes(store.get("k")) == b"x"
        assert "HUNTER" not in canonical(f"redis://:HUNTER2@{where}")


def test_an_encrypted_connection_is_verified(tmp_path: Path) -> None:
    certificate, key = services.certificate(tmp_path)
    with services.redis_server(
        "--port", "0", "--tls-port", "PORT", "--tls-cert-file", str(certificate), "--tls-key-file", str(key),
        "--tls-ca-cert-file", str(certificate), "--tls-auth-clients", "no",
    ) as service:  # fmt: skip
        where = f"rediss://127.0.0.1:{service.port}/0"
        with pytest.raises(Unavailable):
            open_store(where)
        with open_store(f"{where}?ca={certificate}") as store:
            store.put("k", b"x")
            assert bytes(store.get("k")) == b"x"


# -- by URL -------------------------------------------------------------------------------------------


def test_urls(url: str, redis_service: Service) -> None:
    with open_store(f"{url}?prefix=p%2Fq") as store:
        assert isinstance(store, RedisStore)
        store.put("k", b"x")
    with RedisStore(url, "p/q") as store:
        assert bytes(store.get("k")) == b"x"
    assert canonical("redis://user:pw@Host?prefix=p") == "redis://host:6379/0?prefix=p"
    assert canonical("redis://host:6379/0") == canonical("redis://host/") == "redis://host:6379/0"
    assert canonical("redis://[::1]:1/2") == "redis://[::1]:1/2"
    for bad, message in (
        ("redis:", "server is missing"),
        ("redis:///0", "server is missing"),
        ("redis://host/name", "a number"),
        ("redis://host/0?x=1", "unknown parameter"),
        ("redis://host/0?ca=x", "rediss"),
    ):
        with pytest.raises(BadUrl, match=message):
            open_store(bad)
