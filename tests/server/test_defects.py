"""What is wrong in borgstore 0.7.0, shown by its own program, and right here: the same is asked of both.

The second column names a test of ours alone, over every kind of store or in more forms.

a chunked upload stores nothing, and says 200   test_a_chunked_upload_is_stored_whole (test_bodies)
a body that nobody read is the next request     test_the_body_of_a_refused_request_is_no_request (test_bodies)
bodies are held whole in memory                 test_memory_stays_bounded (test_bodies)
one lock for everything                         test_one_connection_does_not_hold_up_another (test_bodies)
44 ms a GET                                     test_a_small_answer_is_one_write (test_bodies)
size=0 returns the whole object                 test_ranges (test_protocol)
a tail longer than the item is a 500            test_ranges (test_protocol)
1,000 folders on S3 are listed for ever         test_a_listing_of_over_a_thousand_folders_on_s3_ends
links lead out of the folder                    test_links_are_not_followed_out_of_the_store (test_messages)
no fsync                                        test_what_was_stored_is_on_the_disk (test_bodies)
a second soft deletion overwrites the first     test_a_second_soft_deletion_keeps_the_first (namespaces)
undeletion overwrites a live item               test_an_undeletion_keeps_a_live_item (namespaces)
the cache serves what was deleted               test_deleted_and_replaced_data_are_not_served (namespaces)
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from borgstore.backends.errors import BackendError
from borgstore.backends.posixfs import PosixFS
from borgstore.backends.rest import get_rest_backend
from borgstore.backends.s3 import get_s3_backend
from borgstore.store import Store as TheirStore

from mountstore.errors import NotFound
from mountstore.namespaces import Store
from mountstore.namespaces.backend import FolderTarget, NamespaceBackend
from mountstore.namespaces.errors import ItemExists
from tests.rest import borgstore_server, mountstore_server
from tests.server.serving import Client, serving, wait_for
from tests.servers import S3Server
from tests.services import Service

CONFIG = {"data": {"levels": [0]}}
LARGE = 32 << 20


class Both:
    """The two servers, over the folders `ours` and `theirs`, each with a store in it."""

    def __init__(self, ours: Service, theirs: Service, folder: Path) -> None:
        self.ours, self.theirs, self.folder = ours, theirs, folder
        for one in (ours, theirs):
            with connected(one) as client:
                assert client.ask("POST", "/?cmd=create").status == 200
                assert client.ask("POST", "/data/x", body=b"0123456789").status == 200

    def told(self, scenario: Callable[[Service], Any]) -> tuple[Any, Any]:
        return scenario(self.ours), scenario(self.theirs)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    folder = tmp_path_factory.mktemp("both")
    with mountstore_server(f"file://{folder}/ours") as ours, borgstore_server(folder / "theirs") as theirs:
        yield Both(ours, theirs, folder)


def connected(server: Service) -> Client:
    return Client(socket.create_connection(("127.0.0.1", server.port), timeout=30))


def test_a_chunked_upload(both: Both) -> None:
    def scenario(server: Service) -> tuple[int, bytes]:
        with connected(server) as client:
            client.send(client.head("POST", "/data/chunked", "Transfer-Encoding: chunked"))
            client.send(b"5\r\nhello\r\n0\r\n\r\n")
            status = client.answer().status
        with connected(server) as client:
            return status, client.ask("GET", "/data/chunked").body

    assert both.told(scenario) == ((200, b"hello"), (200, b""))


def test_a_body_that_nobody_reads(both: Both) -> None:
    def scenario(server: Service) -> tuple[int, int]:
        with connected(server) as client:
            hidden = client.head("POST", "/data/smuggled", "Content-Length: 1") + b"x"
            status = client.ask("POST", "/data?cmd=mkdir", body=hidden).status
            client.ask("GET", "/data/none")  # an answer to this, or else to what was hidden
        with connected(server) as client:
            return status, client.ask("HEAD", "/data/smuggled").status

    assert both.told(scenario) == ((200, 404), (200, 200))


def test_a_body_is_not_held_in_memory(both: Both) -> None:
    def scenario(server: Service) -> bool:
        before = held_bytes(server)
        with connected(server) as client:
            client.send(client.head("POST", "/data/large", f"Content-Length: {LARGE}"))
            for _ in range(LARGE >> 20):
                client.send(bytes(1 << 20))
            assert client.answer().status == 200
            assert len(client.ask("GET", "/data/large").body) == LARGE
        return held_bytes(server) - before < LARGE // 2

    assert both.told(scenario) == (True, False)


def held_bytes(server: Service) -> int:
    """The most that it has held."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{server.process.pid}/status").read_text())
    assert found
    return int(found[1]) << 10


def test_one_request_waits_for_no_other(both: Both) -> None:
    """While one is at work on the store: there, at a file whose other end gives nothing."""
    for name in ("ours", "theirs"):
        os.mkfifo(both.folder / name / "data" / "fifo")
    with connected(both.ours) as waiting, connected(both.ours) as client:
        waiting.send(waiting.head("GET", "/data/fifo"))
        assert client.ask("GET", "/data/x").body == b"0123456789"
        assert waiting.answer().status == 404
    with connected(both.theirs) as waiting, connected(both.theirs) as client:
        waiting.send(waiting.head("GET", "/data/fifo"))
        end = wait_for(lambda: writing_end(both.folder / "theirs" / "data" / "fifo"))
        client.sock.settimeout(1)
        with pytest.raises(TimeoutError):
            client.ask("GET", "/data/x")
        os.close(end)
        assert waiting.answer().status == 200
    for name in ("ours", "theirs"):
        (both.folder / name / "data" / "fifo").unlink()


def writing_end(fifo: Path) -> int:
    """The descriptor of it; 0 while nobody reads it."""
    try:
        return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return 0


def test_an_answer_is_in_one_piece(both: Both) -> None:
    """A head and a body sent apart wait for each other: Nagle's algorithm, and 40 ms of a delayed
    acknowledgement. Data segments are counted, so nothing depends on the time."""

    def scenario(server: Service) -> int:
        with connected(server) as client:
            before = segments(client.sock)
            assert client.ask("GET", "/data/x").body == b"0123456789"
            return segments(client.sock) - before

    ours, theirs = both.told(scenario)
    assert ours == 1
    assert theirs > 1


def segments(sock: socket.socket) -> int:
    """Segments with data that have come in: tcpi_data_segs_in of struct tcp_info."""
    at = 152
    return int.from_bytes(
        sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)[at : at + 4], sys.byteorder
    )


def test_nothing_is_asked_for(both: Both) -> None:
    def scenario(server: Service) -> bytes:
        with get_rest_backend(f"http://127.0.0.1:{server.port}") as rest:
            return bytes(rest.load("data/x", size=0))

    assert both.told(scenario) == (b"", b"0123456789")


def test_a_tail_that_is_longer_than_the_item(both: Both) -> None:
    def scenario(server: Service) -> int:
        with connected(server) as client:
            return client.ask("GET", "/data/x", "Range: bytes=-100").status

    assert both.told(scenario) == (206, 500)


def test_links_out_of_the_folder(both: Both, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")

    def scenario(name: str, server: Service) -> tuple[int, bytes]:
        link = both.folder / name / "data" / "link"
        link.symlink_to(tmp_path)
        with connected(server) as client:
            answer = client.ask("GET", "/data/link/secret")
        link.unlink()
        return answer.status, answer.body[:6]

    assert scenario("theirs", both.theirs) == (200, b"secret")
    assert scenario("ours", both.ours)[0] == 404


def test_what_is_stored_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = threading.Semaphore(0)
    fsync = os.fsync

    def watched(fd: int) -> None:
        synced.release()
        fsync(fd)

    monkeypatch.setattr(os, "fsync", watched)
    theirs = PosixFS(path=str(tmp_path / "theirs"))
    theirs.create()
    with theirs:
        theirs.store("data/x", b"content")
    assert not synced.acquire(blocking=False)
    ours = NamespaceBackend(FolderTarget(tmp_path / "ours"))
    ours.create()
    while synced.acquire(blocking=False):
        continue
    with ours:
        ours.store("data/x", b"content")
    assert synced.acquire(blocking=False)


def test_a_listing_of_s3_ends(versitygw: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in versitygw.env().items():
        monkeypatch.setenv(name, value)
    bucket = versitygw.new_bucket()
    client = versitygw.client()
    names = [f"data/{number:04}/x" for number in range(1001)]

    def put(first: int) -> None:
        for name in names[first::8]:
            client.put_object(Bucket=bucket, Key=f"place/{name}", Body=b"")

    threads = [threading.Thread(target=put, args=(first,)) for first in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    login = f"{versitygw.access_key}:{versitygw.secret_key}"
    theirs = get_s3_backend(f"s3:{login}@{versitygw.endpoint}/{bucket}/place")
    with theirs:
        assert len([*itertools.islice(theirs.list("data"), 2500)]) == 2500
    wanted = [f"{number:04}" for number in range(1001)]
    url = f"s3://{bucket}/place"
    with Store(url, config={"data": {"levels": [2]}}) as ours:
        assert [info.name for info in ours.list("data")] == ["x"] * 1001
    with serving(url, tmp_path, env=versitygw.env(), create=False) as served:
        listed = json.loads(served.ask("GET", "/data/").body)
    assert [entry["name"] for entry in listed] == wanted
    assert all(entry["directory"] for entry in listed)


# -- soft deletion, and the cache -----------------------------------------------------------------------


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[tuple[Store, TheirStore]]:
    """Stores of both over folders of their own, with one item."""
    ours = Store(f"file://{tmp_path}/ours", config=CONFIG)
    theirs = TheirStore(f"file://{tmp_path}/theirs", config=CONFIG)
    for store in (ours, theirs):
        store.create()
    with ours, theirs:
        for store in (ours, theirs):
            store.store("data/x", b"first")
            store.move("data/x", delete=True)
            store.store("data/x", b"other")
        yield ours, theirs


def test_soft_deletion_twice(stores: tuple[Store, TheirStore]) -> None:
    ours, theirs = stores
    with pytest.raises(ItemExists):
        ours.move("data/x", delete=True)
    theirs.move("data/x", delete=True)
    assert ours.load("data/x", deleted=True) == b"first"
    assert theirs.load("data/x", deleted=True) == b"other"


def test_undeletion_onto_a_live_item(stores: tuple[Store, TheirStore]) -> None:
    ours, theirs = stores
    with pytest.raises(ItemExists):
        ours.move("data/x", undelete=True)
    theirs.move("data/x", undelete=True)
    assert (ours.load("data/x"), theirs.load("data/x")) == (b"other", b"first")


def test_the_cache_after_a_deletion(tmp_path: Path) -> None:
    def scenario(kind: Callable[..., Any], policy: str, name: str) -> bytes | None:
        """Two clients of one store, each with a cache of its own; one deletes what the other has cached."""

        def client(cache: str) -> Any:
            return kind(
                f"file://{tmp_path}/{name}",
                config={"data": {"levels": [0], "cache": policy}},
                cache_url=f"file://{tmp_path}/{name}-{cache}",
            )

        first, second = client("a"), client("b")
        first.create()
        with first:
            first.store("data/x", b"content")
        with second:
            second.delete("data/x")
        with first:
            try:
                return bytes(first.load("data/x"))
            except (NotFound, BackendError):
                return None

    assert scenario(TheirStore, "writethrough", "theirs") == b"content"
    assert scenario(Store, "write-through", "ours") is None
