"""The state directory is private, of one daemon, of one store; anything else is refused."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from mountstore.daemon.statedir import StateDir, default_state_dir, fresh_state_dir
from mountstore.errors import MountError
from tests.mount.waiting import wait_until

HOLD = """
import sys
from pathlib import Path
from mountstore.daemon.statedir import StateDir
with StateDir.lock(Path(sys.argv[1]), sys.argv[2], store="s", shown="s"):
    print("held", flush=True)
    sys.stdin.read()
"""


def lock(path: Path, *, store: str = "s", wait_s: float = 0.0) -> AbstractContextManager[StateDir]:
    return StateDir.lock(path, "/mnt", store=store, shown=f"shown:{store}", wait_s=wait_s)


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds tmp_path/state, for a mount point where nothing is mounted."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "state"), "/mnt"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_it_is_made_private_and_can_be_taken_again(tmp_path: Path) -> None:
    for _ in range(2):
        with lock(tmp_path / "a" / "state") as state:
            assert stat.S_IMODE(state.path.stat().st_mode) == 0o700
            assert json.loads((state.path / "lock").read_text()) == {"pid": os.getpid(), "mountpoint": "/mnt"}


def test_an_open_mode_is_tightened(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o755)
    with lock(tmp_path / "state") as state:
        assert stat.S_IMODE(state.path.stat().st_mode) == 0o700


def test_a_second_daemon_is_told_who_holds_it(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(MountError, match=rf"in use: pid {holder.pid} .* /mnt"), lock(tmp_path / "state"):
        pass


def test_it_waits_for_a_daemon_that_is_about_to_end(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    holder.kill()
    with lock(tmp_path / "state", wait_s=30) as state:
        assert state.path.is_dir()


def test_a_killed_daemon_holds_nothing(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    holder.kill()
    wait_until("the holder has gone", lambda: holder.poll() is not None)
    with lock(tmp_path / "state"):
        pass


def test_a_symlink_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(MountError, match="symlink"), lock(tmp_path / "link"):
        pass
    assert not list((tmp_path / "real").iterdir())


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(MountError, match="Not a directory"), lock(tmp_path / "file"):
        pass


def test_a_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    foreign = Path("/")
    if os.geteuid() == 0:
        foreign = tmp_path / "state"
        foreign.mkdir()
        os.chown(foreign, 12345, 12345)
    with pytest.raises(MountError, match=r"belongs to user \d+, not to you"), lock(foreign):
        pass


def test_a_directory_of_other_things_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    mode = tmp_path.stat().st_mode
    with pytest.raises(MountError, match="not a state directory"), lock(tmp_path):
        pass
    assert tmp_path.stat().st_mode == mode
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_the_state_of_another_store_is_refused(tmp_path: Path) -> None:
    with lock(tmp_path / "state", store="one"):
        pass
    with (
        pytest.raises(MountError, match="another store \\(shown:one\\)"),
        lock(tmp_path / "state", store="two"),
    ):
        pass
    with lock(tmp_path / "state", store="one"):
        pass


def test_a_newer_layout_is_refused(tmp_path: Path) -> None:
    with lock(tmp_path / "state"):
        pass
    file = tmp_path / "state" / "state.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "version": 99}))
    with pytest.raises(MountError, match="newer mountstore"), lock(tmp_path / "state"):
        pass


def test_a_damaged_one_is_refused(tmp_path: Path) -> None:
    with lock(tmp_path / "state"):
        pass
    (tmp_path / "state" / "state.json").write_text("{")
    with pytest.raises(MountError, match="damaged"), lock(tmp_path / "state"):
        pass


def test_stores_have_directories_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    one, two = default_state_dir("s3://b/one/", "s3://b/one"), default_state_dir("s3://b/two/", "s3://b/two")
    assert one != two
    assert one.parent == tmp_path / "mountstore"
    assert one.name.startswith("s3-b-one-")
    assert default_state_dir("s3://b/one/", "s3://b/one") == one


def test_what_killed_daemons_of_memory_stores_left_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    left, held = fresh_state_dir("memory:"), fresh_state_dir("memory:")
    with lock(left):
        pass
    with lock(held):
        new = fresh_state_dir("memory:")
        assert held.exists()
    assert not left.exists()
    assert new not in (left, held)
