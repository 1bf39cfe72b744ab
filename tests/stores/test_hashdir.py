"""HashdirStore: the contract, and what files of hashed names promise beyond."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mountstore import open_store
from mountstore.backends._hashdir_keys import KEY, KEY_FILE, MAX_ATTRIBUTE_BYTES
from mountstore.backends.hashdir import HashdirStore
from mountstore.errors import BadUrl, NotFound, PreconditionFailed, StoreError, Unsupported, UsageError
from mountstore.store import ObjectStore
from tests.stores.conformance import PersistentStoreConformance, in_threads
from tests.stores.files import files, open_descriptors

PRIVATE = ".mountstore~tmp"


def no_attributes(*_: object, **__: object) -> None:
    raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


class TestHashdirStore(PersistentStoreConformance):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[ObjectStore]:
        with HashdirStore(tmp_path / "root", durable=False) as store:
            yield store

    @pytest.fixture
    def reopen(self, tmp_path: Path) -> Callable[[], ObjectStore]:
        return lambda: HashdirStore(tmp_path / "root", durable=False)


class TestDurableHashdirStore(TestHashdirStore):
    examples = 3

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[ObjectStore]:
        with HashdirStore(tmp_path / "root") as store:
            yield store


class TestWithoutAttributes(TestHashdirStore):
    """On a file system that has no extended attributes: keys go beside the files, metadata is dropped."""

    @pytest.fixture(autouse=True)
    def refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for call in ("setxattr", "getxattr", "removexattr"):
            monkeypatch.setattr(os, call, no_attributes)

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[ObjectStore]:
        with HashdirStore(tmp_path / "root", 1, 1, durable=False) as store:
            assert not store.capabilities.metadata
            yield store

    @pytest.fixture
    def reopen(self, tmp_path: Path) -> Callable[[], ObjectStore]:
        return lambda: HashdirStore(tmp_path / "root", 1, 1, durable=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def store(root: Path) -> Iterator[HashdirStore]:
    with HashdirStore(root, durable=False) as store:
        yield store


def place(root: Path, key: str, width: int = 2, depth: int = 3) -> Path:
    """Where the object of a key lies, said anew."""
    digest = hashlib.sha256(key.encode()).hexdigest()
    folders = [digest[at * width : (at + 1) * width] for at in range(depth)]
    return root.joinpath(*folders, digest[width * depth :])


def put_by_another(root: Path, key: str, data: bytes) -> None:
    path = place(root, key)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


# -- where things are ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "depth"), [(2, 3), (1, 1), (3, 5), (4, 0), (63, 1)])
def test_the_hash_of_the_key_is_its_path(root: Path, width: int, depth: int) -> None:
    with HashdirStore(root, width, depth, durable=False) as store:
        store.put("some/key é", b"content")
        assert place(root, "some/key é", width, depth).read_bytes() == b"content"
        assert list(store.keys()) == ["some/key é"]
        store.delete("some/key é")
    assert files(root) == []
    assert os.listdir(root) == [PRIVATE]


@pytest.mark.parametrize(("width", "depth"), [(0, 3), (2, -1), (32, 2), (2, 32)])
def test_a_layout_that_cannot_be_is_refused(root: Path, width: int, depth: int) -> None:
    with pytest.raises(UsageError):
        HashdirStore(root, width, depth)
    assert not root.exists()


def test_another_layout_of_the_same_root_is_refused(store: HashdirStore, root: Path) -> None:
    store.put("k", b"x")
    with pytest.raises(StoreError, match="width 2 and depth 3"):
        HashdirStore(root, 3, 2)
    with HashdirStore(root, 2, 3) as again:
        assert bytes(again.get("k")) == b"x"


@pytest.mark.parametrize("key", ["../evil", "/evil", "a/../../evil", "..", "k" * 100_000, "é" * 70_000])
def test_no_key_leads_out_of_the_root_and_none_is_too_long(store: HashdirStore, root: Path, key: str) -> None:
    store.put(key, b"inside", metadata={"n": "1"})
    assert bytes(store.get(key)) == b"inside"
    assert store.head(key).metadata == {"n": "1"}
    assert list(store.keys()) == [key]
    assert os.listdir(root.parent) == ["root"]
    store.rename(key, "short")
    store.rename("short", key)
    assert list(store.keys()) == [key]
    store.delete(key)
    assert files(root) == []
    assert os.listdir(root) == [PRIVATE]


def test_a_link_in_the_place_of_a_file_is_no_object(store: HashdirStore, root: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    path = place(root, "k")
    path.parent.mkdir(parents=True)
    path.symlink_to(tmp_path / "secret")
    with pytest.raises(NotFound):
        store.get("k")
    assert list(store.keys()) == []
    store.put("k", b"mine")
    assert (tmp_path / "secret").read_bytes() == b"secret"


# -- keys that are told, and keys that are not --------------------------------------------------------


def test_what_another_program_put_here_is_reached_by_key(store: HashdirStore, root: Path) -> None:
    put_by_another(root, "theirs", b"content")
    assert store.exists("theirs")
    assert bytes(store.get("theirs", 1, 3)) == b"on"
    assert store.head("theirs").metadata == {}
    store.delete("theirs")
    with pytest.raises(KeyError):
        store.get("theirs")
    assert not place(root, "theirs").exists()


def test_listing_does_not_hide_what_it_cannot_name(store: HashdirStore, root: Path) -> None:
    store.put("mine", b"1")
    for key in ("theirs", "others"):
        put_by_another(root, key, b"22")
    calls: list[Callable[[], object]] = [store.list, lambda: list(store.keys()), store.usage]
    for call in calls:
        with pytest.raises(Unsupported, match=r"2 objects in .* do not tell their keys") as caught:
            call()
        assert "\n" not in str(caught.value)
    with HashdirStore(root, skip_unknown=True) as lenient:
        assert list(lenient.keys()) == ["mine"]
    store.put("theirs", b"333")
    with pytest.raises(Unsupported, match="1 objects"):
        store.list()
    assert store.adopt(["others", "never-was", "mine"]) == 2
    assert store.usage() == (3, 6)
    assert list(store.keys()) == ["mine", "others", "theirs"]


def test_adopting_changes_neither_content_nor_etag(store: HashdirStore, root: Path) -> None:
    long = "k" * (MAX_ATTRIBUTE_BYTES + 1)
    for key in ("short", long):
        put_by_another(root, key, b"content")
        before = store.head(key)
        store.adopt([key])
        assert store.head(key) == before
    assert list(store.keys()) == [long, "short"]


def test_a_key_that_is_not_the_files_own_is_not_believed(store: HashdirStore, root: Path) -> None:
    put_by_another(root, "theirs", b"x")
    os.setxattr(place(root, "theirs"), KEY, b"forged")
    with pytest.raises(Unsupported):
        store.list()
    os.setxattr(place(root, "theirs"), KEY, b"\xff")
    path = place(root, "theirs")
    (path.parent / (KEY_FILE + path.name)).write_bytes(b"forged")
    with HashdirStore(root) as other, pytest.raises(Unsupported):
        other.list()


def test_what_other_processes_do_is_listed(store: HashdirStore, root: Path) -> None:
    program = (
        "import sys\n"
        "from mountstore.backends.hashdir import HashdirStore\n"
        "with HashdirStore(sys.argv[1]) as store:\n"
        "    store.put('theirs', b'1')\n"
        "    store.delete('gone')\n"
        "    store.rename('old', 'new')\n"
    )
    for key in ("gone", "kept", "old"):
        store.put(key, b"")
    assert list(store.keys()) == ["gone", "kept", "old"]
    subprocess.run([sys.executable, "-c", program, str(root)], timeout=60, check=True)
    assert list(store.keys()) == ["kept", "new", "theirs"]


def test_listing_again_does_not_walk_again(store: HashdirStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(20):
        store.put(f"{number:02}", b"")
    assert len(store.list().objects) == 20
    walks = 0
    listdir = os.listdir

    def counted(*given: object) -> list[str]:
        nonlocal walks
        walks += 1
        return listdir(*given)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(os, "listdir", counted)
    store.put("new", b"")
    store.delete("05")
    store.rename("06", "renamed")
    expected = [f"{number:02}" for number in range(20) if number not in (5, 6)] + ["new", "renamed"]
    assert [info.key for page in store.pages(limit=3) for info in page.objects] == expected
    assert list(store.keys()) == expected
    assert walks == 0


def test_keys_that_come_during_a_walk_are_not_lost(root: Path) -> None:
    """Two stores over one root put, delete and list at once; at the end both list what is there."""
    with HashdirStore(root, durable=False) as one, HashdirStore(root, durable=False) as two:
        stores = (one, two)

        def work(number: int) -> None:
            mine = stores[number % 2]
            for count in range(40):
                mine.put(f"{number}/{count}", b"")
                if count % 3 == 0:
                    mine.delete(f"{number}/{count}")
                if count % 8 == number:
                    mine.list()

        in_threads(4, work)
        expected = sorted(f"{number}/{count}" for number in range(4) for count in range(40) if count % 3)
        assert list(one.keys()) == list(two.keys()) == expected


# -- whole or not at all ------------------------------------------------------------------------------


def test_a_rename_that_was_cut_short_still_tells_its_key(root: Path) -> None:
    program = (
        "import os, signal, sys\n"
        "from mountstore.backends.hashdir import HashdirStore\n"
        "store = HashdirStore(sys.argv[1], durable=False)\n"
        "rename = os.rename\n"
        "def killed(*args, **kwargs):\n"
        "    if sys.argv[2] == 'after': rename(*args, **kwargs)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "os.rename = killed\n"
        "store.rename('old', 'new')\n"
    )
    for moment, left in (("before", "old"), ("after", "new")):
        with HashdirStore(root, durable=False) as store:
            store.put("old", b"content", metadata={"n": "1"})
        done = subprocess.run([sys.executable, "-c", program, str(root), moment], timeout=60, check=False)
        assert done.returncode == -signal.SIGKILL
        with HashdirStore(root, durable=False) as store:
            assert list(store.keys()) == [left]
            assert bytes(store.get(left)) == b"content"
            assert store.head(left).metadata == {"n": "1"}
            store.delete(left)
    assert files(root) == []


@pytest.mark.parametrize("verb", ["put", "delete", "rename"])
def test_a_process_killed_right_after_its_change_leaves_no_wrong_listing(root: Path, verb: str) -> None:
    program = """
import os, signal, sys
from mountstore.backends.hashdir import HashdirStore

store = HashdirStore(sys.argv[1], durable=False)
list(store.keys())
change = "unlink" if sys.argv[2] == "delete" else "rename"
done = getattr(os, change)

def cut_short(name, *rest, **folders):
    done(name, *rest, **folders)
    os.kill(os.getpid(), signal.SIGKILL)

setattr(os, change, cut_short)
{"put": lambda: store.put("new", b""), "delete": lambda: store.delete("old"),
 "rename": lambda: store.rename("old", "new")}[sys.argv[2]]()
"""
    with HashdirStore(root, durable=False) as store:
        store.put("kept", b"")
        store.put("old", b"")
        assert [*store.keys()] == ["kept", "old"]
        done = subprocess.run([sys.executable, "-c", program, str(root), verb], timeout=60, check=False)
        assert done.returncode == -signal.SIGKILL
        assert [*store.keys()] == {
            "put": ["kept", "new", "old"],
            "delete": ["kept"],
            "rename": ["kept", "new"],
        }[verb]


def test_a_walk_waits_for_a_change_that_is_under_way(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()
    rename = os.rename

    def wait_first(name: object, *rest: object, **folders: object) -> None:
        begun.set()
        assert go_on.wait(30)
        rename(name, *rest, **folders)  # type: ignore[arg-type]

    with HashdirStore(root, durable=False) as store, HashdirStore(root, durable=False) as other:
        monkeypatch.setattr(os, "rename", wait_first)
        listed: list[list[str]] = []
        putting = threading.Thread(target=store.put, args=("new", b""))
        listing = threading.Thread(target=lambda: listed.append([*other.keys()]))
        putting.start()
        assert begun.wait(30)
        listing.start()
        go_on.set()
        putting.join(30)
        listing.join(30)
        assert [*other.keys()] == ["new"]
        assert listed == [["new"]]


def test_replacing_an_object_leaves_what_is_known_of_the_keys(store: HashdirStore, root: Path) -> None:
    store.put("a", b"1")
    token = root / ".mountstore~tmp" / "listing"
    assert [*store.keys()] == ["a"]
    before = token.read_bytes()
    store.put("a", b"2")
    assert token.read_bytes() == before
    store.put("b", b"")
    assert token.read_bytes() != before
    assert [*store.keys()] == ["a", "b"]


def test_readers_see_whole_objects_while_they_are_replaced(store: HashdirStore) -> None:
    stop = threading.Event()
    seen: set[bytes] = set()
    store.put("k", b"a" * 100_000)

    def read() -> None:
        while not stop.is_set():
            data = bytes(store.get("k"))
            assert len(set(data)) == 1
            seen.add(data[:1])

    thread = threading.Thread(target=read)
    thread.start()
    try:
        for number in range(200):
            store.put("k", b"ab"[number % 2 : number % 2 + 1] * 100_000)
    finally:
        stop.set()
        thread.join(60)
    assert seen
    assert seen <= {b"a", b"b"}


def test_nothing_stays_open(store: HashdirStore) -> None:
    def everything() -> None:
        store.put("k", b"x")
        store.put("k" * 1000, b"x")
        store.rename("k", "l" * 1000)
        store.adopt(["k" * 1000, "none"])
        list(store.pages(limit=1))
        with pytest.raises(NotFound):
            store.get("none")
        with pytest.raises(PreconditionFailed):
            store.rename("k" * 1000, "m", if_match="other")
        store.delete_many(list(store.keys()))

    everything()
    before = open_descriptors()
    everything()
    assert open_descriptors() == before


# -- by URL -------------------------------------------------------------------------------------------


def test_urls(root: Path) -> None:
    with open_store(f"hashdir://{root}?width=1&depth=2&durable=false") as store:
        assert isinstance(store, HashdirStore)
        store.put("k", b"x")
    assert place(root, "k", 1, 2).read_bytes() == b"x"
    for url, message in (
        (f"hashdir://{root}?width=x", r"'width' .* whole number"),
        (f"hashdir://{root}?wdth=1", "unknown parameter"),
        ("hashdir://host/x", "names a host"),
    ):
        with pytest.raises(BadUrl, match=message):
            open_store(url)
