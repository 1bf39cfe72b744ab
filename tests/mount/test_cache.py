"""The cache on the local disk of a mount: what it saves, that it can be lost, and what is kept there."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.mount import mounting
from tests.mount.cases import S3Case, local_case
from tests.mount.mounting import Mount, Mounts, command
from tests.mount.waiting import wait_until

MIB = 1 << 20


@pytest.fixture
def case(request: pytest.FixtureRequest) -> S3Case:
    from tests.mount.cases import s3_case

    return s3_case(request.getfixturevalue("versitygw"))


def noise(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


def cache_options(base: Path, size: str = "1G") -> list[str]:
    return ["--cache", str(base / "kept"), "--cache-size", size]


def gets(mount: Mount) -> int:
    count = mount.status()["requests"].get("GET", 0)
    assert isinstance(count, int)
    return count


def held(mount: Mount) -> Mapping[str, Any]:
    told = mount.status()["cache"]
    assert isinstance(told, dict)
    return told


def on_disk(base: Path) -> int:
    return sum(one.stat().st_size for one in base.rglob("*") if one.is_file() and one.parent.name == "blocks")


def settled(mount: Mount, size: int) -> None:
    wait_until("the cache holds it", lambda: on_disk(mount.base / "kept") >= size)


def kept_for_another_state(mount: Mount, name: str, data: bytes | bytearray, base: Path) -> None:
    """A mount that knows of nothing else reads this file without asking the store for it."""
    mount.state = base / "another-state"
    mount.start()
    before = gets(mount)
    assert (mount.root / name).read_bytes() == data
    assert gets(mount) == before
    mount.umount()


def test_what_was_read_or_written_is_not_fetched_again(case: S3Case, base: Path, mounts: Mounts) -> None:
    """After a new mount with an empty state directory too: only the cache is left."""
    wanted = {"theirs": noise(9 * MIB + 17, 1), "their small": b"small", "ours": b"", "our small": b"tiny"}
    case.write("theirs", wanted["theirs"])
    case.write("their small", wanted["their small"])
    wanted["ours"] = noise(70 * MIB + 3, 2)  # sent while it is written
    mount = mounts(case, *cache_options(base))
    for name in ("theirs", "their small"):
        assert (mount.root / name).read_bytes() == wanted[name]
    for name in ("ours", "our small"):
        (mount.root / name).write_bytes(wanted[name])
    mount.sync()
    settled(mount, sum(map(len, wanted.values())))
    mount.umount()
    mount.state = base / "another-state"
    mount.start()
    before = gets(mount)
    for name, data in wanted.items():
        assert (mount.root / name).read_bytes() == data
    assert gets(mount) == before
    assert held(mount)["hits"] > 0
    assert held(mount)["misses"] == 0
    mount.umount()


def test_a_small_change_keeps_the_rest(case: S3Case, base: Path, mounts: Mounts) -> None:
    data = bytearray(noise(32 * MIB, 3))
    mount = mounts(case, *cache_options(base))
    (mount.root / "big").write_bytes(data)
    mount.sync()
    settled(mount, len(data))
    with open(mount.root / "big", "r+b", buffering=0) as file:
        for position in (5, 12 * MIB + 1, 31 * MIB):
            file.seek(position)
            file.write(b"changed")
            data[position : position + 7] = b"changed"
        os.fsync(file.fileno())
    os.rename(mount.root / "big", mount.root / "moved")
    mount.sync()
    settled(mount, len(data))
    mount.umount()
    kept_for_another_state(mount, "moved", data, base)


def test_a_file_larger_than_the_cache(case: S3Case, base: Path, mounts: Mounts) -> None:
    data, small = noise(64 * MIB, 4), noise(100_000, 5)
    case.write("big", data)
    case.write("small", small)
    mount = mounts(case, *cache_options(base, "16M"))
    for _ in range(2):
        assert (mount.root / "big").read_bytes() == data
        assert on_disk(base / "kept") <= 16 * MIB
    (mount.root / "written").write_bytes(data)
    mount.sync()
    assert (mount.root / "small").read_bytes() == small
    assert on_disk(base / "kept") <= 16 * MIB
    assert held(mount)["evictions"] > 0
    assert case.read("written") == data
    mount.umount()


@pytest.mark.parametrize("how", ["removed", "emptied", "damaged", "made a file"])
def test_the_cache_can_go_at_any_time(how: str, case: S3Case, base: Path, mounts: Mounts) -> None:
    files = {f"f{number}": noise(300_000 * number + 1, number) for number in range(8)}
    for name, data in files.items():
        case.write(name, data)
    mount = mounts(case, *cache_options(base))
    for name, data in files.items():
        assert (mount.root / name).read_bytes() == data
    settled(mount, sum(map(len, files.values())))
    blocks = [one for one in (base / "kept").rglob("*") if one.is_file() and one.parent.name == "blocks"]
    assert blocks
    if how == "removed":
        shutil.rmtree(base / "kept")
    elif how == "made a file":
        shutil.rmtree(base / "kept")
        (base / "kept").write_text("in the way")
    for block in blocks:
        if how == "emptied":
            block.unlink()
        elif how == "damaged" and block.stat().st_size:
            with open(block, "r+b") as file:
                first = file.read(1)
                file.seek(0)
                file.write(bytes([first[0] ^ 1]))
    remounted = how in ("emptied", "damaged")
    if remounted:
        mount.umount()
        mount.state = base / "another-state"
        mount.start()
    for name, data in files.items():
        assert (mount.root / name).read_bytes() == data
        (mount.root / f"{name}-copy").write_bytes(data)
    mount.sync()
    for name, data in files.items():
        assert case.read(f"{name}-copy") == data
    if how == "damaged":
        assert held(mount)["errors"] >= len(files) - 1
    mount.umount()


def test_a_kill_while_it_is_filled(case: S3Case, base: Path, mounts: Mounts) -> None:
    files = {f"f{number}": noise(3 * MIB + number, number) for number in range(6)}
    for name, data in files.items():
        case.write(name, data)
    mount = mounts(case, *cache_options(base))
    for rounds in range(3):
        for name, data in [*files.items()][rounds:]:
            assert (mount.root / name).read_bytes() == data
            if name == f"f{rounds * 2}":
                break
        mount.kill()
        mount.state = base / f"state-{rounds}"
        mount.start()
    for name, data in files.items():
        assert (mount.root / name).read_bytes() == data
    assert held(mount)["errors"] == 0
    mount.umount()


def test_a_second_mount_goes_without(case: S3Case, base: Path, mounts: Mounts) -> None:
    case.write("file", b"content")
    first = mounts(case, *cache_options(base))
    second = mounts(case, *cache_options(base), name="second")
    assert held(first)["capacity_bytes"] == 1 << 30
    assert second.status()["cache"] is None
    assert "in use by another mount" in second.log()
    assert (second.root / "file").read_bytes() == b"content"
    second.umount()
    first.umount()


def test_warm_pin_and_clear(case: S3Case, base: Path, mounts: Mounts) -> None:
    tree = {f"tree/d{n % 3}/f{n}": noise(200_000 + n, n) for n in range(20)} | {
        "tree/big": noise(5 * MIB, 99)
    }
    other = noise(12 * MIB, 100)
    for key, data in tree.items():
        case.write(key, data)
    case.write("other", other)
    mount = mounts(case, *cache_options(base, "16M"))
    done = command("warm", mount.root / "tree/d1", mount.root / "tree/big", env=mount.env)
    inside = {key: data for key, data in tree.items() if key.startswith(("tree/d1/", "tree/big"))}
    assert f"{len(inside)} files" in done.stderr
    before = gets(mount)
    for key, data in inside.items():
        assert (mount.root / key).read_bytes() == data
    assert gets(mount) == before

    refused = command("pin", mount.root, env=mount.env, check=False)
    assert refused.returncode == 1
    assert "make it larger" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    command("pin", mount.root / "tree", env=mount.env)
    listed = command("pin", "--list", env=mount.env).stdout
    assert listed.startswith(f"{mount.root / 'tree'}/  ")
    size = sum(map(len, tree.values()))
    wait_until("all of it is pinned", lambda: held(mount)["pinned_bytes"] == size)
    for _ in range(3):
        assert (mount.root / "other").read_bytes() == other
    mount.umount()
    mount.state = base / "another-state"
    mount.start()
    for _ in range(3):
        assert (mount.root / "other").read_bytes() == other
    before = gets(mount)
    for key, data in tree.items():
        assert (mount.root / key).read_bytes() == data
    assert gets(mount) == before
    command("cache", "clear", mount.root, env=mount.env)
    assert held(mount)["used_bytes"] == 0
    assert on_disk(base / "kept") == len(f'{{"prefix": "tree/", "size_bytes": {size}}}')
    command("unpin", mount.root / "tree", env=mount.env)
    assert command("pin", "--list", mount.root, env=mount.env).stdout == ""
    again = command("unpin", mount.root / "tree", env=mount.env, check=False)
    assert "is not pinned" in again.stderr
    missing = command("warm", mount.root / "missing", env=mount.env, check=False)
    assert missing.returncode == 1
    assert "No such file" in missing.stderr
    outside = command("warm", base, env=mount.env, check=False)
    assert outside.returncode == 2
    assert "not in a mount" in outside.stderr
    mount.umount()


@pytest.fixture
def by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mounts get no options of the cache, whatever the other tests are run with."""
    monkeypatch.setattr(mounting, "CACHE", "")


@pytest.mark.usefixtures("by_default")
def test_by_default_what_is_far_is_kept_for_the_user(case: S3Case, base: Path, mounts: Mounts) -> None:
    """In the cache home of whoever mounts, for nobody else's eyes, of no more than a share of the room."""
    data = noise(3 * MIB, 1)
    case.write("file", data)
    mount = mounts(case, state=base / "first")
    free = shutil.disk_usage(base).free
    assert (mount.root / "file").read_bytes() == data
    assert 0 < held(mount)["capacity_bytes"] <= min(10 << 30, free // 8)
    mount.umount()
    home = base / "home" / "cache" / "mountstore"
    assert on_disk(home) == len(data)
    assert home.stat().st_mode & 0o77 == 0
    kept_for_another_state(mount, "file", data, base)


@pytest.mark.usefixtures("by_default")
@pytest.mark.parametrize("kind", ["sqlite", "file"])
def test_by_default_what_is_near_is_not_kept(kind: str, base: Path, mounts: Mounts) -> None:
    mount = mounts(local_case(kind, base), "--cache-size", "1G")
    (mount.root / "file").write_bytes(b"content")
    assert mount.status()["cache"] is None
    mount.umount()
    assert not (base / "home" / "cache").exists()


def test_without_a_cache_nothing_is_kept(case: S3Case, base: Path, mounts: Mounts) -> None:
    case.write("file", b"content")
    mount = mounts(case, "--no-cache")
    assert (mount.root / "file").read_bytes() == b"content"
    assert mount.status()["cache"] is None
    refused = command("warm", mount.root, env=mount.env, check=False)
    assert "has no cache" in refused.stderr
    mount.umount()
    assert not (base / "home" / "cache").exists()


def test_fsck_of_a_killed_mount_and_of_its_cache(case: S3Case, base: Path, mounts: Mounts) -> None:
    """It finds the cache, touches nothing while that is in use, and drops what is damaged."""
    wanted = {f"f{number}": noise(2 * MIB + number, number) for number in range(6)}
    for name, data in wanted.items():
        case.write(name, data)
    mount = mounts(case, *cache_options(base))
    for name, data in wanted.items():
        assert (mount.root / name).read_bytes() == data
    settled(mount, sum(map(len, wanted.values())))
    busy = command("fsck", mount.state, "--repair", env=mount.env, check=False)
    assert (busy.returncode, busy.stdout) == (2, "")
    # Without the state directory, which is locked, the store alone is checked; its cache is in use, too.
    alone = command("fsck", case.url, "--cache", base / "kept", "--repair", env=mount.env, check=False)
    assert alone.returncode == 2
    assert "is in use by a mount; umount it first" in alone.stdout
    mount.kill()
    checked = command("fsck", mount.state, env=mount.env)
    assert "nothing is wrong" in checked.stdout
    blocks = [one for one in (base / "kept").glob("*/blocks/*-*-*-*") if one.is_file()]
    assert len(blocks) == 17
    damaged = random.Random(1).sample(blocks, 3)
    for block in damaged:
        block.write_bytes(bytes(block.stat().st_size))
    found = command("fsck", mount.state, env=mount.env, check=False)
    assert found.returncode == 2
    assert {block.name for block in damaged} == {
        line.split(": ")[2] for line in found.stdout.splitlines() if line.startswith("error: cache: ")
    }
    assert command("fsck", mount.state, "--repair", env=mount.env, check=False).returncode == 1
    assert [block.exists() for block in damaged] == [False] * 3
    mount.start()
    before = gets(mount)
    for name, data in wanted.items():
        assert (mount.root / name).read_bytes() == data
    assert 0 < gets(mount) - before <= 3
    assert held(mount)["errors"] == 0
    mount.umount()
