"""`mountstore fsck`: what it says, how it ends, and when it refuses."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mountstore.backends.sqlite import SqliteStore
from mountstore.daemon.statedir import StateDir, default_state_dir
from mountstore.registry import canonical, redact
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
