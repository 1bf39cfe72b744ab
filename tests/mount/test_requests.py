"""What everyday work costs in requests, as `mountstore status` counts them, or a proxy sees them come."""

from __future__ import annotations

import os
import random
import stat
import subprocess
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from tests.mount.cases import LONG, S3Case, s3_case
from tests.mount.mounting import Mount, Mounts
from tests.mount.proxy import proxied
from tests.mount.waiting import wait_until
from tests.servers import S3Server

PAGE = 1000
ENTRIES = 5000 if LONG else 1300


def requests(mount: Mount) -> Counter[str]:
    return Counter(mount.status()["requests"])


@pytest.fixture
def case(versitygw: S3Server) -> S3Case:
    return s3_case(versitygw)


def fill(case: S3Case, folder: str, count: int) -> None:
    """As other tools do: objects without our metadata, and no marker."""
    for number in range(count):
        case.write(f"{folder}/f{number:05}", b"x" * (number % 7))


def test_cp_of_a_small_file_is_one_put(case: S3Case, base: Path, mounts: Mounts) -> None:
    source = base / "source"
    source.write_bytes(random.Random(1).randbytes(4096))
    mount = mounts(case)
    os.listdir(mount.root)
    before = requests(mount)
    subprocess.run(["cp", "-p", source, mount.root / "file"], check=True, timeout=60)
    mount.sync()
    assert requests(mount) - before == Counter(PUT=1)
    assert case.read("file") == source.read_bytes()


def test_the_upload_delay_says_how_many_saves_are_one_put(case: S3Case, mounts: Mounts) -> None:
    mount = mounts(case, "--upload-delay", "3600")
    os.listdir(mount.root)
    before = requests(mount)
    for number in range(3):
        (mount.root / "file").write_bytes(b"%d" % number)
    assert requests(mount) == before
    mount.sync()
    assert requests(mount) - before == Counter(PUT=1)
    mount.umount()
    mount = mounts(case, "--upload-delay", "0")

    def is_stored(data: bytes) -> bool:
        return case.read("file") == data

    for data in (b"again", b"and again"):
        (mount.root / "file").write_bytes(data)
        wait_until("it is stored", partial(is_stored, data))


def test_ls_of_a_long_folder_is_a_list_a_page_and_nothing_else(case: S3Case, mounts: Mounts) -> None:
    fill(case, "many", ENTRIES)
    mount = mounts(case)
    os.listdir(mount.root)
    before = requests(mount)
    done = subprocess.run(
        ["ls", "-l", mount.root / "many"], capture_output=True, text=True, check=True, timeout=120
    )
    assert len(done.stdout.splitlines()) == ENTRIES + 1
    assert requests(mount) - before == Counter(LIST=-(-ENTRIES // PAGE))
    before = requests(mount)
    subprocess.run(["ls", "-l", mount.root / "many"], capture_output=True, check=True, timeout=120)
    if not LONG:  # within the time to live
        assert requests(mount) == before


def test_find_over_folders_is_a_list_each(case: S3Case, mounts: Mounts) -> None:
    folders = 30
    for number in range(folders):
        fill(case, f"tree/d{number:02}", 3)
    mount = mounts(case)
    os.listdir(mount.root)
    before = requests(mount)
    done = subprocess.run(
        ["find", ".", "-type", "f", "-size", "+0"],
        cwd=mount.root / "tree",
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert len(done.stdout.splitlines()) == folders * 2
    assert requests(mount) - before == Counter(LIST=1 + folders)


def test_small_files_with_attributes_are_one_get_each(case: S3Case, mounts: Mounts) -> None:
    names = [f"f{number:02}" for number in range(40)]
    mount = mounts(case)
    (mount.root / "folder").mkdir()
    for name in names:
        (mount.root / "folder" / name).write_bytes(name.encode() * 1000)
    (mount.root / "folder" / "f07").chmod(0o640)
    (mount.root / "folder" / "empty").touch()
    mount.umount()
    mount.remount(fresh_state=True)
    before = requests(mount)
    for name in names:
        assert (mount.root / "folder" / name).read_bytes() == name.encode() * 1000
    assert stat.S_IMODE((mount.root / "folder" / "f07").stat().st_mode) == 0o640
    told = requests(mount) - before
    assert told["GET"] == len(names)
    assert told["HEAD"] <= 3, "of the empty file, and of markers"


def test_a_marker_of_others_is_one_head(case: S3Case, mounts: Mounts) -> None:
    fill(case, "folder", 3)
    case.write("folder/", b"")
    mount = mounts(case)
    os.listdir(mount.root)
    before = requests(mount)
    assert len(os.listdir(mount.root / "folder")) == 3
    assert requests(mount) - before == Counter(LIST=1, HEAD=1)


def test_names_that_are_not_there_cost_nothing_in_a_known_folder(case: S3Case, mounts: Mounts) -> None:
    fill(case, "folder", 3)
    mount = mounts(case)
    os.listdir(mount.root / "folder")
    before = requests(mount)
    for number in range(50):
        assert not (mount.root / "folder" / f"absent{number}").exists()
    assert requests(mount) == before


def test_git_clone_puts_no_temporary_file(
    case: S3Case, versitygw: S3Server, base: Path, mounts: Mounts
) -> None:
    """git writes packs and locks under other names first, and syncs them there."""
    git_env = {
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "A",
        "GIT_AUTHOR_EMAIL": "a@example.org",
        "GIT_COMMITTER_NAME": "A",
        "GIT_COMMITTER_EMAIL": "a@example.org",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "safe.directory",
        "GIT_CONFIG_VALUE_0": "*",
    }

    def git(*words: str | Path) -> None:
        subprocess.run(["git", *words], env=os.environ | git_env, check=True, timeout=120)

    source = base / "source"
    git("init", "--quiet", source)
    for number in range(20):
        (source / f"file {number}").write_bytes(random.Random(number).randbytes(2000))
    git("-C", source, "add", "--all")
    git("-C", source, "commit", "--quiet", "-m", "first")
    with proxied(versitygw.endpoint) as proxy:
        mount = mounts(case, env=dict(case.env, AWS_ENDPOINT_URL=proxy.endpoint))
        git("clone", "--quiet", f"file://{source}", mount.root / "clone")
        git("-C", mount.root / "clone", "fsck", "--full", "--strict")
        mount.umount()
        put = Counter(
            one.key
            for one in proxy.requests
            if one.method == "PUT" and one.key.startswith("clone/") and not one.key.endswith("/")
        )
        deleted = [
            one.key for one in proxy.requests if one.method == "DELETE" and one.key.startswith("clone/")
        ]
    files = {key for key in case.keys() if not key.endswith("/")}
    assert put == Counter(files)
    assert deleted == []
