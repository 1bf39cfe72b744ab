"""`mountstore fsck`: what it says, how it ends, and when it refuses."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mountstore.backends.sqlite import SqliteStore
from mountstore.daemon.localcache import cached
from mountstore.daemon.request import MIN_CACHE_BYTES, MountRequest
from mountstore.daemon.statedir import StateDir, default_state_dir
from mountstore.registry import canonical, open_store, redact
from tests.mount.mounting import command, environment
from tests.vfs.mounted import running
from tests.vfs.old_index import make_old


class Place:
    """A store in an SQLite file, with the state directory of a mount of it that is not running."""

    def __init__(self, folder: Path) -> None:
        self.url = f"sqlite://{folder / 'store.sqlite'}"
        self.state = folder / "state"
        self.env = environment({}, folder)

    async def fill(self, *, into: Path | None = None) -> None:
        state = into or self.state
        with (
            StateDir.lock(state, "/mnt", store=canonical(self.url), shown=canonical(self.url)),
            SqliteStore(self.url.removeprefix("sqlite://")) as store,
        ):
            async with running(store, state) as m:
                if not await m.exists("d"):
                    await m.mkdir("d")
                    await m.write_file("d/f", b"f" * 1000)
                await m.drain()
            async with running(store, state, upload_delay_s=60, drain=False) as m:
                await m.write_file("d/new", b"n" * 1000)

    def sql(self, text: str) -> None:
        db = sqlite3.connect(self.state / "index.sqlite")
        db.execute(text)
        db.commit()
        db.close()

    def fsck(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        done = command("fsck", *words, env=self.env, check=False)
        assert "Traceback" not in done.stderr
        return done


@pytest.fixture
async def place(tmp_path: Path) -> Place:
    made = Place(tmp_path)
    await made.fill()
    return made


async def test_clean_damaged_repaired_clean(place: Place) -> None:
    done = place.fsck(place.state)
    assert (done.returncode, done.stderr) == (0, "")
    assert "note: index: pending: 2 changes" in done.stdout
    assert done.stdout.endswith("nothing is wrong\n")
    place.sql("UPDATE node SET nlink=9 WHERE size=1000")
    found = place.fsck(place.state)
    assert found.returncode == 2
    assert "error: index: /d/f: it says 9 links, and has 1; --repair: they are counted anew" in found.stdout
    repaired = place.fsck(place.state, "--repair")
    assert repaired.returncode == 1
    assert "repaired: index: /d/new:" in repaired.stdout
    assert "repaired: 2; left: 0; the index as it was is kept as" in repaired.stdout
    assert place.fsck(place.state).returncode == 0


async def test_the_state_directory_of_a_store_is_found_as_mount_does(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(Path(place.env["HOME"]) / ".local/state"))
    url = canonical(place.url)
    default = default_state_dir(url, redact(url))
    default.parent.mkdir(parents=True, exist_ok=True)
    await place.fill(into=default)
    assert "pending: 2 changes" in place.fsck(place.url).stdout
    assert "pending: 2 changes" in place.fsck(place.url, "--state-dir", place.state).stdout
    db = sqlite3.connect(default / "index.sqlite")
    db.execute("DELETE FROM dentry")
    db.commit()
    db.close()
    assert place.fsck(place.url).returncode == 2
    assert place.fsck(place.state).returncode == 0


async def test_json(place: Place) -> None:
    place.sql("UPDATE node SET nlink=9 WHERE size=1000")
    told = json.loads(place.fsck(place.state, "--json", "--repair").stdout)
    assert told["status"] == 1
    assert {one["subject"] for one in told["findings"] if one["repaired"]} == {"/d/f", "/d/new"}
    assert told["kept"].startswith(f"{place.state}/index.sqlite.before-fsck-")
    told = json.loads(place.fsck(place.state, "--json").stdout)
    assert [one["level"] for one in told["findings"]] == ["note"]
    assert told["kept"] is None


def _keep_a_cache(place: Place, cache_dir: Path, content: bytes) -> None:
    """As a mount does: its cache is at `cache_dir`, and its state directory says so."""
    request = MountRequest(url=place.url, mountpoint="/mnt", cache_dir=cache_dir, cache_size=MIN_CACHE_BYTES)
    url = canonical(place.url)
    with (
        StateDir.lock(place.state, "/mnt", store=url, shown=url) as state,
        cached(open_store(place.url), request, state, url, redact(url), []) as store,
    ):
        assert bytes(store.get("d/f")) == content
        store.close()


async def test_the_cache_is_checked_where_the_mount_kept_it(place: Place, tmp_path: Path) -> None:
    """Named, noted in the state directory, or neither; and where none is, none is asked for."""
    kept, content = tmp_path / "kept", b"f" * 1000
    _keep_a_cache(place, kept, content)
    (block,) = kept.glob("*/blocks/*-*-0-*")
    ways: list[list[str | Path]] = [
        [place.state],
        [place.url, "--state-dir", place.state],
        [place.state, "--cache", kept],
        [place.url, "--cache", kept],
    ]
    for words in ways:
        block.write_bytes(content)
        done = place.fsck(*words)
        assert (done.returncode, done.stderr) == (0, "")
        block.write_bytes(b"F" + content[1:])
        found = place.fsck(*words)
        assert found.returncode == 2
        assert f"error: cache: {block.name}: the block is damaged" in found.stdout
        assert "; --repair: it is dropped, and fetched again" in found.stdout
        assert block.exists()
    done = place.fsck(place.state, "--repair")
    assert done.returncode == 1
    assert f"repaired: cache: {block.name}: the block is damaged" in done.stdout
    assert not block.exists()
    assert place.fsck(place.state).returncode == 0
    _keep_a_cache(place, kept, content)
    usual = Path(place.env["XDG_CACHE_HOME"]) / "mountstore"
    (folder,) = kept.iterdir()
    shutil.copytree(folder, usual / folder.name)
    (block,) = usual.glob("*/blocks/*-*-0-*")
    block.write_bytes(b"F")
    assert place.fsck(place.state).returncode == 0
    (place.state / "cache.json").rename(place.state / "cache.json.new")
    assert place.fsck(place.state, "--repair").returncode == 1
    assert not block.exists()
    (place.state / "cache.json.new").rename(place.state / "cache.json")
    (folder / "lock").write_text(json.dumps({"capacity_bytes": 999}))
    assert "1 blocks of 1000 bytes, more than 65536 or 999 bytes" in place.fsck(place.state).stdout
    assert place.fsck(place.state, "--repair").returncode == 1
    shutil.rmtree(kept)
    assert place.fsck(place.state).returncode == 0
    done = place.fsck(place.state, "--cache", kept)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"there is no cache of this store below {kept}" in done.stderr


async def test_the_bound_that_a_mount_keeps_is_noted(place: Place, tmp_path: Path) -> None:
    _keep_a_cache(place, tmp_path / "kept", b"f" * 1000)
    (lock,) = (tmp_path / "kept").glob("*/lock")
    assert json.loads(lock.read_text()) == {"capacity_bytes": MIN_CACHE_BYTES}


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with open(path) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


async def test_a_cache_that_another_mount_uses_is_not_touched(place: Place, tmp_path: Path) -> None:
    """The rest is checked, and nobody may take that for all of it."""
    _keep_a_cache(place, tmp_path / "kept", b"f" * 1000)
    (block,) = (tmp_path / "kept").glob("*/blocks/*-*-0-*")
    block.write_bytes(b"not what was kept")
    with _locked(block.parent.parent / "lock"):
        for words in ([place.state], [place.state, "--repair"]):
            done = place.fsck(*words)
            assert (done.returncode, done.stderr) == (2, "")
            assert f"it cannot be checked: {block.parent.parent} is in use by a mount" in done.stdout
            assert "note: index: pending: 2 changes" in done.stdout
            assert block.exists()
    assert place.fsck(place.state, "--repair").returncode == 1
    assert not block.exists()


async def test_a_note_of_the_cache_that_cannot_be_read(place: Place) -> None:
    (place.state / "cache.json").write_text('{"folder')
    done = place.fsck(place.state)
    assert done.returncode == 2
    assert "error: cache: cache.json:" in done.stdout
    assert place.fsck(place.state, "--repair").returncode == 1
    assert place.fsck(place.state).returncode == 0


@pytest.fixture
def held(place: Place) -> Iterator[Place]:
    with StateDir.lock(place.state, "/mnt", store=canonical(place.url), shown="x"):
        yield place


async def test_refused_while_a_daemon_holds_the_directory(held: Place) -> None:
    for words in ([held.state], [held.state, "--repair"], [held.url, "--state-dir", held.state]):
        done = held.fsck(*words)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.count("\n") == 1
        assert f"is in use by pid {os.getpid()}, mounted at /mnt; umount it first" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere:"], "unknown scheme"),
        (["sqlite:///nowhere/at/all"], "there is no store at /nowhere/at/all"),
        (["STORE", "--state-dir", "/nowhere"], "/nowhere is no directory"),
        (["STORE", "--state-dir", "HOME"], "is no state directory"),
        (["OTHER", "--state-dir", "STATE"], "is the state of another store"),
    ],
)
async def test_what_cannot_be_checked_says_so_in_a_line(place: Place, words: list[str], said: str) -> None:
    home = Path(place.env["HOME"])
    SqliteStore(home / "other.sqlite").close()
    (home / "empty").mkdir()
    names = {"STORE": place.url, "OTHER": f"sqlite://{home}/other.sqlite", "STATE": str(place.state)}
    names["HOME"] = str(home / "empty")
    done = place.fsck(*(names.get(word, word) for word in words))
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


async def test_a_directory_that_does_not_say_whose_it_is(place: Place) -> None:
    (place.state / "state.json").write_text('{"version": 1, "sto')
    done = place.fsck(place.state)
    assert done.returncode == 2
    assert "fsck STORE --state-dir" in done.stderr
    words = [place.url, "--state-dir", str(place.state)]
    assert place.fsck(*words).returncode == 2
    assert place.fsck(*words, "--repair").returncode == 1
    assert place.fsck(place.state).returncode == 0


async def test_an_older_version_is_checked_and_left_alone_and_migrated_by_a_repair(place: Place) -> None:
    index = place.state / "index.sqlite"
    make_old(index)
    before = index.read_bytes()
    assert place.fsck(place.state).returncode == 0
    assert index.read_bytes() == before
    assert place.fsck(place.state, "--repair").returncode == 0
    assert index.read_bytes() != before


async def test_a_newer_version_is_refused(place: Place) -> None:
    place.sql("PRAGMA user_version=99")
    for words in ([place.state], [place.state, "--repair"]):
        done = place.fsck(*words)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "newer mountstore" in done.stderr


async def test_a_store_alone(tmp_path: Path) -> None:
    place = Place(tmp_path)
    with SqliteStore(tmp_path / "store.sqlite") as store:
        store.put("good", b"x", metadata={"mode": "33188", "mtime": "5.000000001"})
        store.put("a//b\0c", b"y")
        store.put("d", b"z")
        store.put("d/e", b"z")
    done = place.fsck(place.url)
    assert (done.returncode, done.stderr) == (0, "")
    assert "note: store: d: an object and a folder have this name; the file is d%(file)" in done.stdout
    with SqliteStore(tmp_path / "store.sqlite") as store:
        store.put("bad", b"x", metadata={"mode": "wide open", "uid": "5"})
        store.put("m/", b"", metadata={"mode": "33188"})
    done = place.fsck(place.url)
    assert done.returncode == 2
    assert "attributes that make no sense: mode 'wide open'" in done.stdout
    assert "error: store: m/: a directory's marker" in done.stdout
    assert place.fsck(place.url, "--repair").returncode == 1
    assert place.fsck(place.url, "--verify-content").returncode == 0
    with SqliteStore(tmp_path / "store.sqlite") as store:
        assert store.head("bad").metadata == {"uid": "5"}
        assert bytes(store.get("bad")) == b"x"


async def test_content_that_cannot_be_read(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.url = f"zip://{tmp_path / 'store.zip'}"
    from mountstore.registry import open_store

    with open_store(place.url) as store:
        store.put("good", b"x" * 5000)
        store.put("flipped", b"right" * 1000)
    archive = tmp_path / "store.zip"
    archive.write_bytes(archive.read_bytes().replace(b"rightright", b"rightWrong", 1))
    assert place.fsck(place.url).returncode == 0
    done = place.fsck(place.url, "--verify-content")
    assert done.returncode == 2
    assert "error: store: flipped: its content cannot be read" in done.stdout
    assert "good" not in done.stdout
