"""SftpStore: the contract, against a real sshd, and what it promises beyond."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from mountstore import open_store
from mountstore.backends import _sftp_changes
from mountstore.backends._filesystem_names import names_of
from mountstore.backends._sftp_changes import Change, LockLost
from mountstore.backends.filesystem import FilesystemStore
from mountstore.backends.sftp import SftpStore
from mountstore.errors import (
    AccessDenied,
    BadUrl,
    InvalidKey,
    NotFound,
    PreconditionFailed,
    StoreError,
    Unavailable,
)
from mountstore.registry import canonical
from mountstore.store import ObjectStore
from tests.servers import free_port
from tests.sshd import Sshd, make_key
from tests.sshd import sshd as sshd_server
from tests.stores.conformance import KEY_SETS, ODD_KEYS, PersistentStoreConformance

DEADLINE_S = 60


@pytest.fixture(autouse=True)
def ssh(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOUNTSTORE_SSH", sshd.ssh)


@pytest.fixture
def opened(sshd: Sshd, tmp_path: Path) -> Callable[[], SftpStore]:
    """Opens one store, as often as it is called."""
    return lambda: SftpStore("127.0.0.1", str(tmp_path / "store"), port=sshd.port)


@pytest.fixture
def store(opened: Callable[[], SftpStore]) -> Iterator[SftpStore]:
    with opened() as store:
        yield store


def apart(keys: list[str]) -> list[str]:
    """Those whose files are no other's folder: a file is not made a folder."""
    names = {key: names_of(key, len(key.encode())) for key in keys}
    return [
        key
        for key, own in names.items()
        if not any(other != own and other[: len(own)] == own for other in names.values())
    ]


class TestSftpStore(PersistentStoreConformance):
    odd_keys = apart(ODD_KEYS)
    key_sets = [apart(keys) for keys in KEY_SETS]  # noqa: RUF012
    examples = 6  # as of other stores that are not local

    @pytest.fixture
    def reopen(self, opened: Callable[[], SftpStore]) -> Callable[[], ObjectStore]:
        return opened

    @pytest.fixture
    def store(self, opened: Callable[[], SftpStore]) -> Iterator[ObjectStore]:
        with opened() as store:
            yield store


def test_few_odd_keys_exclude_each_other() -> None:
    assert set(ODD_KEYS) - set(apart(ODD_KEYS)) == {".", "..", "x/..", "/", "dir/"}


def wait_until(what: str, condition: Callable[[], object], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


# -- the folder is that of the file store ---------------------------------------------------------------


def test_a_folder_is_the_same_store_through_file_and_sftp(
    store: SftpStore, tmp_path: Path, sshd: Sshd
) -> None:
    keys = [key for key in apart(ODD_KEYS) if "\udcff" not in key]
    with FilesystemStore(tmp_path / "store") as local:
        for number, key in enumerate(keys):
            (store, local)[number % 2].put(key, key.encode())
        local.put("clash", b"file")
        local.put("clash/inner", b"below")
        (tmp_path / "store" / "empty").mkdir()
        (tmp_path / "store" / os.fsdecode(b"not-utf-8-\xff")).write_bytes(b"raw")
        (tmp_path / "store" / "link").symlink_to("/etc")
        assert list(store.keys()) == list(local.keys())
        for key in local.keys():
            assert bytes(store.get(key)) == bytes(local.get(key)), key
        assert set(store.list(delimiter="/").prefixes) == set(local.list(delimiter="/").prefixes)
        store.put("clash", b"changed")
        assert bytes(local.get("clash")) == b"changed"
        store.delete_many(list(store.keys()))
        assert list(local.keys()) == []
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == [".mountstore~tmp", "link"]


def test_links_and_pipes_are_no_objects(store: SftpStore, tmp_path: Path) -> None:
    root = tmp_path / "store"
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(b"secret")
    (root / "folder").symlink_to(tmp_path / "outside")
    (root / "file").symlink_to(tmp_path / "outside" / "secret")
    os.mkfifo(root / "pipe")
    for key in ("folder/secret", "file", "pipe"):
        with pytest.raises(NotFound):
            store.get(key)
        with pytest.raises(NotFound):
            store.head(key)
        with pytest.raises(NotFound):
            store.delete(key)
        with pytest.raises(InvalidKey):
            store.put(key, b"over it")
    assert list(store.keys()) == []
    assert list(store.keys("folder/")) == []
    assert (tmp_path / "outside" / "secret").read_bytes() == b"secret"


def test_what_others_write_has_another_etag(store: SftpStore, tmp_path: Path) -> None:
    etag = store.put("k", b"one").etag
    (tmp_path / "store" / "k").write_bytes(b"other")
    assert store.head("k").etag != etag
    with pytest.raises(PreconditionFailed):
        store.put("k", b"three", if_match=etag)
    etag = store.head("k").etag
    assert (tmp_path / "store" / "k").read_bytes() == b"other"  # reading changes nothing
    assert store.head("k").etag == etag


def test_a_file_is_not_made_a_folder(store: SftpStore, tmp_path: Path) -> None:
    store.put("a", b"file")
    with pytest.raises(InvalidKey, match="in its way"):
        store.put("a/b/c", b"x")
    with pytest.raises(InvalidKey):
        store.rename("a", "a/b")
    assert bytes(store.get("a")) == b"file"
    assert list(store.keys()) == ["a"]
    assert os.listdir(tmp_path / "store" / ".mountstore~tmp") == []


def test_nothing_is_left_behind(store: SftpStore, tmp_path: Path) -> None:
    etag = store.put("d/k", b"x").etag
    store.copy("d/k", "e/k")
    store.rename("e/k", "f/k")
    for call in (
        lambda: store.put("d/k", b"", if_absent=True),
        lambda: store.put("no/k", b"", if_match=etag),
        lambda: store.delete("f/k", if_match="other"),
        lambda: store.rename("d/k", "f/k", if_match="other"),
    ):
        with pytest.raises(PreconditionFailed):
            call()
    store.delete("d/k")
    store.delete("f/k")
    store.close()
    private = tmp_path / "store" / ".mountstore~tmp"
    wait_until("the last request is carried out", lambda: os.listdir(private) == [])
    assert os.listdir(tmp_path / "store") == [".mountstore~tmp"]


# -- connections ----------------------------------------------------------------------------------------


def ended(sessions: list[int], sshd: Sshd) -> bool:
    return not set(sessions) & set(sshd.sessions())


class Waiting(io.BytesIO):
    """Gives nothing until it is told to, and says that it is asked."""

    def __init__(self, data: bytes, asked: threading.Semaphore, go_on: threading.Event) -> None:
        super().__init__(data)
        self._asked, self._go_on = asked, go_on

    def read(self, size: int | None = -1, /) -> bytes:
        self._asked.release()
        assert self._go_on.wait(DEADLINE_S)
        return super().read(size)

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def test_many_at_once_share_a_few_connections(sshd: Sshd, tmp_path: Path) -> None:
    others = set(sshd.sessions())
    with SftpStore("127.0.0.1", str(tmp_path / "store"), port=sshd.port, connections=3) as store:

        def mine() -> int:
            return len(set(sshd.sessions()) - others)

        for number in range(10):
            store.put(f"k{number}", b"x")
        assert mine() == 1
        asked, go_on = threading.Semaphore(0), threading.Event()
        with ThreadPoolExecutor(40) as pool:
            try:
                puts = [pool.submit(store.put, f"w{n}", Waiting(b"%d" % n, asked, go_on)) for n in range(40)]
                for _ in puts:
                    assert asked.acquire(timeout=DEADLINE_S)
                assert mine() == 3
                assert bytes(store.get("k1")) == b"x"  # nobody waits for a connection of one's own
            finally:
                go_on.set()
            assert [put.result(DEADLINE_S).size for put in puts] == [len(b"%d" % n) for n in range(40)]
        assert all(bytes(store.get(f"w{n}")) == b"%d" % n for n in range(40))
        assert mine() == 3


def test_a_dropped_connection_is_made_again(store: SftpStore, sshd: Sshd) -> None:
    store.put("k", b"one")
    for number in range(3):
        before = sshd.sessions()
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        wait_until("the sessions end", partial(ended, before, sshd))
        data = b"%d" % number * 1000
        if number == 0:
            assert bytes(store.get("k")) == b"one"
        elif number == 1:
            assert list(store.keys()) == ["k"]
        store.put("k", data, if_match=store.head("k").etag)
        assert bytes(store.get("k")) == data


def test_connections_that_drop_all_the_time_lose_and_double_nothing(
    store: SftpStore, sshd: Sshd, tmp_path: Path
) -> None:
    """A counter under conditional puts, while sessions are killed: it counts each success once."""
    store.put("counter", b"0")
    done = threading.Event()
    killed = 0

    def kill() -> None:
        nonlocal killed
        before = 0
        while not done.wait(0.05 + 0.07 * (killed % 5)):  # at another moment of the work each time
            if counted < before + 3:  # a slow machine, too, gets somewhere in between
                continue
            before = counted
            for pid in sshd.sessions():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed += 1

    counted = refused = 0
    killer = threading.Thread(target=kill)
    killer.start()
    try:
        deadline = time.monotonic() + 60
        while counted < 40 or killed < 8:
            assert time.monotonic() < deadline, (counted, refused, killed)
            try:
                info = store.head("counter")
                value = int(bytes(store.get("counter", if_match=info.etag)))
                store.put("counter", b"%d" % (value + 1), if_match=info.etag)
                counted += 1
            except (Unavailable, PreconditionFailed):
                refused += 1
    finally:
        done.set()
        killer.join()
    value = int(bytes(store.get("counter")))
    assert counted <= value <= counted + refused


def test_a_lock_whose_holder_died_is_broken(
    store: SftpStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_sftp_changes, "PATIENCE_S", 0.3)
    store.put("k", b"old")
    change = Change(store._files, ("k",))
    with store._pool.use() as connection:
        assert change.begun(connection, change.begin(connection))
        write = connection.open(change.new, 0x02 | 0x08)
        connection.close_handle(write.handle()).ok()
        change.take(connection)
        store.put("k", b"new")
        assert bytes(store.get("k")) == b"new"
        # The holder was only slow: what it does now changes nothing.
        looked = store._files.look(("k",), store._files.looking(connection, ("k",)))
        with pytest.raises(LockLost):
            change.place(connection, "k", looked)
    assert bytes(store.get("k")) == b"new"


def test_what_was_left_a_day_ago_is_removed(opened: Callable[[], SftpStore], tmp_path: Path) -> None:
    with opened() as store:
        store.put("k", b"x")
    private = tmp_path / "store" / ".mountstore~tmp"
    for name in ("sftp-old", "sftp-lock-old", "sftp-new", "sftp-busy", "writing-others"):
        (private / name / "token").mkdir(parents=True)
        (private / name / "token" / "new").write_bytes(b"x")
    ago = time.time() - 2 * 86_400
    for name in ("sftp-old", "sftp-lock-old", "sftp-busy", "writing-others"):
        if name != "sftp-busy":
            os.utime(private / name / "token" / "new", (ago, ago))
        os.utime(private / name, (ago, ago))
    opened().close()
    assert sorted(os.listdir(private)) == ["sftp-busy", "sftp-new", "writing-others"]


# -- logging in -----------------------------------------------------------------------------------------


def refused(sshd: Sshd, path: Path, options: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MOUNTSTORE_SSH", f"{sshd.ssh} {options}")
    with pytest.raises(AccessDenied) as caught:
        open_store(sshd.url(path))
    assert "\n" not in str(caught.value)
    assert not path.exists()
    return str(caught.value)


def test_an_unknown_host_is_refused(sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = refused(sshd, tmp_path / "s", "-o UserKnownHostsFile=/dev/null", monkeypatch)
    assert "the host's key is not known; log in once with ssh and compare the key" in said


def test_a_host_with_another_key_is_refused(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, key, *_ = make_key(tmp_path / "other").read_text().split()
    (tmp_path / "known").write_text(f"[127.0.0.1]:{sshd.port} {kind} {key}\n")
    said = refused(sshd, tmp_path / "s", f"-o UserKnownHostsFile={tmp_path}/known", monkeypatch)
    assert "another key than the known one" in said


def test_a_key_that_is_not_let_in(sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_key(tmp_path / "other")
    config = (sshd.home / "config").read_text().replace(str(sshd.home / "user"), str(tmp_path / "other"))
    (tmp_path / "config").write_text(config)
    said = refused(sshd, tmp_path / "s", f"-F {tmp_path}/config", monkeypatch)
    assert "a key that ssh uses without asking is needed" in said


def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="Connection refused"):
        open_store(f"sftp://127.0.0.1:{free_port()}/{tmp_path}")


def test_a_server_without_sftp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with sshd_server(tmp_path / "home", "PrintMotd no") as server:
        monkeypatch.setenv("MOUNTSTORE_SSH", server.ssh)
        with pytest.raises(StoreError, match="enable its sftp subsystem"):
            open_store(server.url(tmp_path / "s"))


def test_a_shell_that_talks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with sshd_server(tmp_path / "home", "Subsystem sftp echo Welcome to this machine") as server:
        monkeypatch.setenv("MOUNTSTORE_SSH", server.ssh)
        with pytest.raises(StoreError, match="does its shell print something"):
            open_store(server.url(tmp_path / "s"))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sftp://host", "a path is missing"),
        ("sftp:///path", "the host is missing"),
        ("sftp://user:secret@host/path", "ssh logs in with a key"),
        ("sftp://-oProxyCommand=x/path", "no name of a host"),
        ("sftp://-x@host/path", "no name of a host or user"),
        ("sftp://host/path?colour=red", "unknown parameter"),
        ("sftp://host/path?durable=perhaps", "true or false"),
    ],
)
def test_urls_that_make_no_sense(url: str, said: str) -> None:
    with pytest.raises(BadUrl, match=said) as caught:
        open_store(url)
    assert "secret" not in str(caught.value)


def test_one_name_for_one_store() -> None:
    assert canonical("sftp://u@HOST:22//srv/x/?durable=false") == "sftp://u@host//srv/x"
    assert canonical("sftp://u@host/x") == "sftp://u@host/x"
    assert canonical("sftp://u@host:2222/x%20y") == "sftp://u@host:2222/x%20y"
