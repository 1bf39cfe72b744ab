"""Bodies: chunked, refused, large, slow, cut off; each either stored whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.serving import Client, Served, serving, wait_for

ESTABLISHED = "01"  # in /proc/net/tcp

LARGE = 64 << 20


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that waits for nobody longer than a second."""
    folder = tmp_path_factory.mktemp("served")
    with serving(f"file://{folder}/store", folder, "--timeout", "1") as server:
        server.folder = folder / "store"
        yield server


def chunks(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (*parts, b""))


# -- chunks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [[5], [1] * 100, [1 << 20], [700_000] * 5, []])
def test_a_chunked_upload_is_stored_whole(served: Served, namespace: str, sizes: list[int]) -> None:
    parts = [os.urandom(size) for size in sizes]
    with served.connect() as client:
        head = client.head("POST", f"/{namespace}/x", "Transfer-Encoding: chunked")
        client.send(head + chunks(*parts) + client.head("GET", f"/{namespace}/x"))
        assert client.answer().status == 200
        assert client.answer().body == b"".join(parts)


@pytest.mark.parametrize("size", [5, 3 << 20])
def test_the_hash_of_chunks_is_checked(served: Served, namespace: str, size: int) -> None:
    data = bytes(size)
    with served.connect() as client:
        for digest, status in ((hashlib.sha256(data), 200), (hashlib.sha256(b"else"), 422)):
            name = f"/{namespace}/{status}"
            announced = f"X-Content-hash-sha256: {digest.hexdigest()}"
            client.send(client.head("POST", name, "Transfer-Encoding: chunked", announced) + chunks(data))
            assert client.answer().status == status
    assert served.ask("HEAD", f"/{namespace}/200").headers["content-length"] == str(size)
    assert served.ask("HEAD", f"/{namespace}/422").status == 404


@pytest.mark.parametrize("at_once", [1, 2, 6])
def test_hashes_of_uploads_of_one_moment(served: Served, namespace: str, at_once: int) -> None:
    """Few are hashed beside the writing, many before it; half are other than what was announced."""
    size = 8 << 20
    statuses: dict[int, int] = {}

    def upload(number: int) -> None:
        data = os.urandom(size)
        announced = hashlib.sha256(data if number % 2 == 0 else data[:-1]).hexdigest()
        with served.connect() as client:
            for _ in range(3):
                name = f"/{namespace}/{number}"
                statuses[number] = client.ask(
                    "POST", name, f"X-Content-hash-sha256: {announced}", body=data
                ).status
            found = client.ask("GET", f"/{namespace}/{number}")
            assert (found.status, found.body == data) == ((404, False) if number % 2 else (200, True))

    threads = [threading.Thread(target=upload, args=(number,)) for number in range(at_once)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == {number: 422 if number % 2 else 200 for number in range(at_once)}


def test_chunks_beyond_the_quota_are_refused(tmp_path: Path, store_url: str) -> None:
    with serving(store_url, tmp_path, "--quota", "1000") as served, served.connect() as client:
        head = client.head("POST", "/data/x", "Transfer-Encoding: chunked")
        client.send(head + chunks(bytes(1001)))
        assert client.answer().status == 507
        assert served.ask("GET", "/data/x").status == 404


# -- what nobody wants to read ----------------------------------------------------------------------


def smuggling(client: Client, namespace: str) -> bytes:
    """A body that looks like a request."""
    return client.head("POST", f"/{namespace}/smuggled", "Content-Length: 1") + b"x"


def test_the_body_of_a_refused_request_is_no_request(served: Served, namespace: str) -> None:
    with served.connect() as client:
        # An empty folder is no store yet: to create it again is refused once something is in it.
        assert client.ask("POST", f"/{namespace}/there", body=b"x").status == 200
        body = smuggling(client, namespace)
        for method, target, accept, status in (
            ("POST", f"/{namespace}/x", "text/html", 406),
            ("POST", f"/{namespace}/UPPER", None, 400),
            ("POST", "/?cmd=create", None, 409),
            ("POST", f"/{namespace}/none?cmd=hash", None, 404),
            ("POST", f"/?cmd=move&current={namespace}/none&new=x", None, 404),
            ("DELETE", f"/{namespace}/none", None, 404),
            ("GET", f"/{namespace}/none", None, 404),
            ("PUT", f"/{namespace}/x", None, 405),
        ):
            answer = client.ask(method, target, body=body, **({} if accept is None else {"accept": accept}))
            assert (answer.status, answer.closes) == (status, False)
        assert client.ask("GET", f"/{namespace}/smuggled").status == 404


def test_nor_is_it_behind_a_401(tmp_path: Path) -> None:
    env = {"MOUNTSTORE_SERVE_PASSWORD": "right"}
    basic = "Basic bWU6cmlnaHQ="
    with (
        serving("memory:", tmp_path, "--user", "me", env=env, authorization=basic) as served,
        served.connect() as client,
    ):
        body = smuggling(client, "data")
        client.authorization = ""
        assert client.ask("POST", "/data/x", body=body).status == 401
        client.authorization = basic
        assert client.ask("GET", "/data/smuggled").status == 404
        assert client.ask("GET", "/data/x").status == 404


def test_a_large_body_that_is_refused_ends_the_connection_and_the_answer_arrives(
    served: Served, namespace: str
) -> None:
    with served.connect() as client:
        data = smuggling(client, namespace) * (LARGE // 200)
        answer = client.ask("POST", f"/{namespace}/UPPER", body=data)
        assert (answer.status, answer.closes) == (400, True)
        assert client.is_closed()
    assert served.ask("GET", f"/{namespace}/smuggled").status == 404


def test_who_asks_whether_to_go_on_is_told(served: Served, namespace: str) -> None:
    with served.connect() as client:
        expects = ("Expect: 100-continue", "Content-Length: 5")
        client.send(client.head("POST", f"/{namespace}/x", *expects))
        assert client.answer().status == 100
        client.send(b"hello")
        assert client.answer().status == 200
        client.send(client.head("POST", f"/{namespace}/UPPER", *expects))
        refused = client.answer()
        assert (refused.status, refused.closes) == (400, True)
    assert served.ask("GET", f"/{namespace}/x").body == b"hello"


def test_a_quota_is_enforced_before_bytes_are_accepted(tmp_path: Path, store_url: str) -> None:
    with serving(store_url, tmp_path, "--quota", "1000") as served, served.connect() as client:
        client.send(client.head("POST", "/data/x", "Expect: 100-continue", f"Content-Length: {LARGE}"))
        assert client.answer().status == 507


def test_a_body_may_be_too_long_for_the_server(tmp_path: Path, store_url: str) -> None:
    with serving(store_url, tmp_path, "--max-body", "1000") as served:
        with served.connect() as client:
            client.send(client.head("POST", "/data/x", "Content-Length: 1001"))
            assert client.answer().status == 413
        with served.connect() as client:
            client.send(client.head("POST", "/data/x", "Transfer-Encoding: chunked"))
            client.send(chunks(bytes(900), bytes(900)))
            assert client.answer().status == 413
        assert served.ask("GET", "/data/x").status == 404
        assert served.ask("POST", "/data/x", body=bytes(1000)).status == 200


# -- large ones -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "at_once", "most"), [("file", 4, 32 << 20), ("sqlite", 2, 64 << 20)])
def test_memory_stays_bounded(tmp_path: Path, kind: str, at_once: int, most: int) -> None:
    """128 MiB go in and out. SQLite holds 16 MiB for each that writes: as much not yet written as it
    commits at once, and its cache of pages; neither grows with what is stored."""
    store = {"file": f"file://{tmp_path}/store", "sqlite": f"sqlite:{tmp_path}/db"}[kind]
    block = os.urandom(1 << 20)
    share = (128 << 20) // at_once
    with serving(store, tmp_path) as served:
        before = served.memory_bytes()

        def store_and_load(number: int) -> None:
            with served.connect() as client:
                client.send(client.head("POST", f"/data/{number}", f"Content-Length: {share}"))
                for _ in range(share >> 20):
                    client.send(block)
                assert client.answer().status == 200
                assert len(client.ask("GET", f"/data/{number}").body) == share

        threads = [threading.Thread(target=store_and_load, args=(number,)) for number in range(at_once)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        pieces = json.dumps([[f"data/{number}", 0, share] for number in range(at_once)]).encode()
        assert served.ask("POST", "/?cmd=defrag&target=data/all", body=pieces).status == 200
        assert served.ask("HEAD", "/data/all").headers["content-length"] == str(at_once * share)
        assert len(served.ask("POST", "/?cmd=gather", body=pieces).body) == at_once * share
        assert served.memory_bytes() - before < most


def test_one_connection_does_not_hold_up_another(served: Served, namespace: str) -> None:
    """Uploads, downloads and commands that stand still in the middle; meanwhile others come and go."""
    data = bytes(LARGE)
    with served.connect() as client:
        client.send(client.head("POST", f"/{namespace}/large", f"Content-Length: {LARGE}") + data)
        assert client.answer().status == 200
    pausing = []
    for number in range(4):
        client = served.connect()
        client.send(client.head("POST", f"/{namespace}/slow{number}", f"Content-Length: {LARGE}") + b"begun")
        pausing.append(client)
        client = served.connect()
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.send(client.head("GET", f"/{namespace}/large"))
        pausing.append(client)
    for number in range(20):
        assert served.ask("POST", f"/{namespace}/{number}", body=b"x").status == 200
        assert served.ask("GET", f"/{namespace}/{number}").body == b"x"
    assert len(json.loads(served.ask("GET", f"/{namespace}/").body)) == 21
    for client in pausing:
        client.sock.close()
    assert served.ask("GET", f"/{namespace}/slow0").status == 404


def test_a_small_answer_is_one_write(file_served: Served, namespace: str) -> None:
    """Head and body in two writes wait for each other: 40 ms of a delayed acknowledgement."""
    with file_served.connect() as client:
        assert client.ask("POST", f"/{namespace}/x", body=b"y" * 1024).status == 200
        client.send(client.head("GET", f"/{namespace}/x"))
        assert client.sock.recv(1 << 16).endswith(b"y" * 1024)


def test_a_read_sees_one_version(tmp_path: Path, store_url: str) -> None:
    """What is replaced while it is read is read to its end as it was, or the answer is broken off."""
    size = 32 << 20
    with serving(store_url, tmp_path) as served, served.connect() as client:
        assert client.ask("POST", "/data/x", body=b"a" * size).status == 200
        client.send(client.head("GET", "/data/x"))
        first = client.sock.recv(1024)
        assert served.ask("POST", "/data/x", body=b"b" * size).status == 200
        received = bytearray(first)
        while len(received) < size and (data := client.sock.recv(1 << 20)):
            received += data
        assert b"b" not in received.partition(b"\r\n\r\n")[2]


# -- slow, cut off, half closed ---------------------------------------------------------------------


def test_a_head_that_comes_too_slowly(impatient: Served) -> None:
    with impatient.connect() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: t")
        answer = client.answer()
        assert (answer.status, answer.closes) == (408, True)
        assert client.is_closed()


def test_drops_of_a_head_do_not_prolong_it(impatient: Served) -> None:
    with impatient.connect() as client:
        stop = threading.Event()

        def drip() -> None:
            client.send(b"GET / HTTP/1.1\r\n")
            while not stop.wait(0.1):
                try:
                    client.send(b"X: y\r\n")
                except OSError:
                    return

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            assert client.answer().status == 408
        finally:
            stop.set()
            dripping.join()


@pytest.mark.parametrize("size", [1000, LARGE])
def test_a_body_that_comes_too_slowly_stores_nothing(impatient: Served, namespace: str, size: int) -> None:
    with impatient.connect() as client:
        client.send(client.head("POST", f"/{namespace}/x", f"Content-Length: {size}") + b"begun")
        assert client.is_closed()
    assert impatient.ask("GET", f"/{namespace}/x").status == 404
    check_nothing_is_left(impatient)


@pytest.mark.parametrize("pause_s", [0.1, 0.02])
def test_drops_of_a_body_do_not_prolong_it(impatient: Served, namespace: str, pause_s: float) -> None:
    with impatient.connect() as client:
        client.send(client.head("POST", f"/{namespace}/x", f"Content-Length: {LARGE}"))
        stop = threading.Event()

        def drip() -> None:
            while not stop.wait(pause_s):
                try:
                    client.send(b"y")
                except OSError:
                    return

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            assert client.is_closed()
        finally:
            stop.set()
            dripping.join()


def test_who_does_not_take_the_answer_loses_it(impatient: Served, namespace: str) -> None:
    assert impatient.ask("POST", f"/{namespace}/x", body=bytes(LARGE)).status == 200
    with impatient.connect() as client:
        client.send(client.head("GET", f"/{namespace}/x"))
        assert client.sock.recv(1) == b"H"  # the server has taken it on
        assert is_kept(client.sock)
        wait_for(lambda: not is_kept(client.sock))
        received = 1
        try:
            while data := client.sock.recv(1 << 20):
                received += len(data)
        except ConnectionResetError:
            pass
        assert received < LARGE


def is_kept(sock: socket.socket) -> bool:
    """Whether the server's end of this connection is open, too, as the kernel has it."""
    ends = [f"{socket.ntohl(int.from_bytes(socket.inet_aton(host))):08X}:{port:04X}"
            for host, port in (sock.getpeername(), sock.getsockname())]  # fmt: skip
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(row[1:4] == [*ends, ESTABLISHED] for row in rows)


@pytest.mark.parametrize("size", [1000, LARGE])
def test_a_client_that_goes_away_stores_nothing(impatient: Served, namespace: str, size: int) -> None:
    with impatient.connect() as client:
        client.send(client.head("POST", f"/{namespace}/x", f"Content-Length: {size}") + b"begun")
    with impatient.connect() as client:
        head = client.head("POST", f"/{namespace}/x", "Transfer-Encoding: chunked")
        client.send(head + chunks(b"begun")[:-5])
    check_nothing_is_left(impatient)
    assert impatient.ask("GET", f"/{namespace}/x").status == 404


def check_nothing_is_left(served: Served) -> None:
    """No file that was begun stays in the store's private folder."""
    assert served.folder is not None
    private = served.folder / ".mountstore~tmp"
    wait_for(lambda: not [path for path in private.glob("writing-*/*") if path.is_file()])


def test_a_half_closed_client_gets_its_answer(file_served: Served, namespace: str) -> None:
    with file_served.connect() as client:
        client.send(client.head("POST", f"/{namespace}/x", "Content-Length: 5") + b"hello")
        client.sock.shutdown(socket.SHUT_WR)
        assert client.answer().status == 200
        assert client.is_closed()
    with file_served.connect() as client:
        client.send(client.head("GET", f"/{namespace}/x"))
        client.sock.shutdown(socket.SHUT_WR)
        assert client.answer().body == b"hello"
        assert client.is_closed()


def test_a_client_half_closed_within_a_body_stores_nothing(file_served: Served, namespace: str) -> None:
    with file_served.connect() as client:
        client.send(client.head("POST", f"/{namespace}/x", "Content-Length: 5") + b"hell")
        client.sock.shutdown(socket.SHUT_WR)
        assert client.is_closed()
    assert file_served.ask("GET", f"/{namespace}/x").status == 404


def test_a_client_half_closed_within_a_head_is_told(file_served: Served) -> None:
    with file_served.connect() as client:
        client.send(b"GET / HT")
        client.sock.shutdown(socket.SHUT_WR)
        assert client.answer().status == 400
        assert client.is_closed()


def test_silent_clients_leave_room_for_others(tmp_path: Path) -> None:
    with serving("memory:", tmp_path, "--max-connections", "4") as served:
        silent = [served.connect() for _ in range(8)]
        for number in range(8):
            assert served.ask("POST", f"/data/{number}", body=b"x").status == 200
        for client in silent:
            client.sock.close()


def test_more_busy_clients_than_allowed_are_turned_away(tmp_path: Path) -> None:
    with serving("memory:", tmp_path, "--max-connections", "2") as served:
        busy = []
        for _ in range(2):
            client = served.connect()
            busy.append(client)
            client.send(client.head("POST", "/data/x", "Expect: 100-continue", "Content-Length: 5"))
            assert client.answer().status == 100
        with served.connect() as third:
            assert third.is_closed()
        for client in busy:
            client.send(b"hello")
            assert client.answer().status == 200


# -- defects of the original that are none of ours --------------------------------------------------


def test_what_was_stored_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mountstore.namespaces.backend import FolderTarget, NamespaceBackend

    synced: list[str] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    backend = NamespaceBackend(FolderTarget(tmp_path / "store"))
    backend.create()
    with backend:
        backend.store("data/x", b"1")
    assert any(path.startswith(str(tmp_path / "store")) for path in synced)
    assert str(tmp_path / "store" / "data") in synced
